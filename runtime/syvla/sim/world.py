"""The twin's world: physics up to an instant in fixed steps, both arms' plants, and the truth about the table."""

from collections import deque
from collections.abc import Mapping

import mujoco
import numpy as np

from syvla.clock import to_ns
from syvla.config import ArmConfig, RigConfig, Six
from syvla.control.kinematics import HOME_RAD, Base, forward_tcp
from syvla.errors import ConfigError, DriverError
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ARMS, ArmName, SimReset, SimState, SimTruth
from syvla.sim.model import ARMS_QPOS, TIMESTEP_NS, TwinModel
from syvla.sim.piper_mjcf import ARM_DOF, GRIPPER_MAX_M
from syvla.sim.scene import Episode, Scene, Table, Task, task_named

Measured = tuple[Float64, Float64, Float64, float]  # position (6,), velocity (6,), effort (6,), gripper width
INSIDE_MARGIN_M = 0.04  # a thing counts as inside while its centre is less than this above the wall's top


class TwinArmPlant:
    """One arm's joints in the physics; stays valid when the world lays another table.

    It has the delays of its rig, to the step: what is measured is old, and a set-point comes to the servos late.
    """

    def __init__(self, arm: ArmName, config: ArmConfig) -> None:
        """Bound to a model by :meth:`bind`."""
        self.arm = arm
        self._joints_late, self._gripper_late, feedback_late = (
            round(to_ns(delay_s) / TIMESTEP_NS)
            for delay_s in (config.actuation_delay_s, config.gripper_delay_s, config.feedback_delay_s)
        )
        self.is_late = bool(self._joints_late or self._gripper_late or feedback_late)
        self._step = 0
        self._joints: deque[tuple[int, Float64]] = deque()  # set-points on their way, by the step that they reach
        self._gripper: deque[tuple[int, float]] = deque()
        self._past: deque[Measured] = deque(maxlen=feedback_late + 1)
        self._first = ARM_DOF * ARMS.index(arm)
        self._torque = True
        self._ctrl: Float64

    def bind(self, twin: TwinModel) -> None:
        """Drive the arm of ``twin`` from now on."""
        joints = slice(self._first, self._first + ARM_JOINTS)
        data = twin.data
        self._model = twin.model
        self._qpos, self._qvel = data.qpos[joints], data.qvel[joints]
        self._actuator, self._gravity = data.qfrc_actuator[joints], data.qfrc_gravcomp[joints]
        fingers = slice(self._first + ARM_JOINTS, self._first + ARM_DOF)
        self._fingers = data.qpos[fingers]
        self._ctrl = data.ctrl[self._first : self._first + ARM_DOF]
        self._actuators = slice(self._first, self._first + ARM_DOF)
        self._gains = twin.gains[self._actuators]
        self._biases = twin.biases[self._actuators]
        names = ("base", *(f"link{i}" for i in range(1, 7)), "finger_a", "finger_b")
        self._bodies = [twin.model.body(f"{self.arm}/{name}").id for name in names]
        self._apply_torque()

    def measured(self) -> Measured:
        """Position (6,) rad, velocity (6,) rad/s, the motors' effort (6,) Nm, gripper width m."""
        return self._past[0] if self._past else self._present()

    def _present(self) -> Measured:
        effort = self._actuator + self._gravity
        a, b = self._fingers.tolist()
        return self._qpos.copy(), self._qvel.copy(), effort, a + b

    def target(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Set-points of the servos, which stop at the joints' limits. DriverError if a number is not finite."""
        if not (np.isfinite(position_rad).all() and np.isfinite(gripper_width_m)):
            raise DriverError(f"{self.arm} arm: a set-point must be finite, not {position_rad}, {gripper_width_m}")
        width_m = min(max(gripper_width_m, 0.0), GRIPPER_MAX_M)
        self._joints.append((self._step + self._joints_late, position_rad.copy()))
        self._gripper.append((self._step + self._gripper_late, width_m))
        self._arrive()

    def stepped(self) -> None:
        """The physics advanced by one step; to be called after each where the plant is late."""
        self._step += 1
        self._past.append(self._present())
        self._arrive()

    def _arrive(self) -> None:
        """Give the servos the set-points that have come to them."""
        while self._joints and self._joints[0][0] <= self._step:
            self._ctrl[:ARM_JOINTS] = self._joints.popleft()[1]
        while self._gripper and self._gripper[0][0] <= self._step:
            self._ctrl[ARM_JOINTS:] = self._gripper.popleft()[1] / 2.0

    def torque(self, on: bool) -> None:
        """Switch the servos. Off, the arm sinks under its weight; on, it holds where it is then."""
        if on == self._torque:
            return
        self._torque = on
        if on:
            self.hold()
        self._apply_torque()

    def hold(self) -> None:
        """Make the present joints the set-point."""
        self._joints.clear()
        self._gripper.clear()
        self._ctrl[:ARM_JOINTS] = self._qpos
        self._ctrl[ARM_JOINTS:] = self._fingers.mean()

    def _apply_torque(self) -> None:
        scale = float(self._torque)
        self._model.actuator_gainprm[self._actuators] = scale * self._gains
        self._model.actuator_biasprm[self._actuators] = scale * self._biases
        self._model.body_gravcomp[self._bodies] = scale


class TwinWorld:
    """Both arms, the table, and what a task lays on it.

    Equal calls give equal bytes: time is a whole number of steps since the first ``advance``, and nothing else
    enters. Before the first reset the table is empty.
    """

    def __init__(self, rig: RigConfig, tasks: Mapping[str, Task], initial_rad: Six = HOME_RAD) -> None:
        """A twin of ``rig`` with its arms at ``initial_rad``; ``tasks`` are those a reset may name."""
        self._bases = (Base.of(rig.left), Base.of(rig.right))
        self._tasks = dict(tasks)
        self._models: dict[tuple[object, ...], TwinModel] = {}
        self._plants: dict[ArmName, TwinArmPlant] = {
            "left": TwinArmPlant("left", rig.left),
            "right": TwinArmPlant("right", rig.right),
        }
        self._origin_ns: int | None = None
        self._steps = 0
        self._reset = SimReset(reset_id=-1, task="", split="", seed=0)
        self._episode: Episode | None = None
        self._lay(Scene())
        initial = (*initial_rad, 0.0, 0.0) * 2
        self._data.qpos[:ARMS_QPOS] = initial
        self._data.ctrl[:] = initial
        mujoco.mj_forward(self._model, self._data)

    @property
    def tasks(self) -> Mapping[str, Task]:
        """What a reset may name."""
        return self._tasks

    @property
    def episode(self) -> Episode | None:
        """What lies on the table, None before the first reset."""
        return self._episode

    def plant(self, arm: ArmName) -> TwinArmPlant:
        """The joints of one arm, for a driver or an emulator."""
        if arm not in self._plants:
            raise ConfigError(f"no arm {arm!r}; there are {', '.join(ARMS)}")
        return self._plants[arm]

    def reset(self, reset: SimReset) -> None:
        """Lay the table; the arms stay where they are. ConfigError names the valid tasks and splits."""
        episode = task_named(self._tasks, reset.task, reset.split).reset(reset.seed, reset.split)
        arms = np.concatenate((self._data.qpos[:ARMS_QPOS], self._data.qvel[:ARMS_QPOS], self._data.ctrl))
        self._lay(episode.scene)
        data = self._data
        data.qpos[:ARMS_QPOS], data.qvel[:ARMS_QPOS], data.ctrl[:] = np.split(arms, 3)
        mujoco.mj_forward(self._model, data)
        self._episode, self._reset = episode, reset

    def move(self, name: str, by_m: tuple[float, float]) -> None:
        """Put a thing that lies free elsewhere, ``by_m`` (x, y) away; ConfigError if there is none of that name."""
        names = [thing.name for thing in self._scene.objects]
        if name not in names:
            raise ConfigError(f"nothing {name!r} lies free on the table; there are {', '.join(names) or 'no things'}")
        first = ARMS_QPOS + 7 * names.index(name)
        self._data.qpos[first : first + 2] += by_m
        mujoco.mj_forward(self._model, self._data)

    def advance(self, now_ns: int) -> None:
        """Integrate up to the last whole step before or at ``now_ns``; the first call only sets the origin."""
        if self._origin_ns is None:
            self._origin_ns = now_ns
        count = (now_ns - self._origin_ns) // TIMESTEP_NS - self._steps
        if count <= 0:
            return
        self._steps += count
        late = [plant for plant in self._plants.values() if plant.is_late]
        if not late:
            mujoco.mj_step(self._model, self._data, nstep=count)
            return
        for _ in range(count):
            mujoco.mj_step(self._model, self._data)
            for plant in late:
                plant.stepped()

    def state(self, now_ns: int) -> SimState:
        """The generalised positions, for rendering elsewhere."""
        reset = self._reset
        return SimState(
            stamp_ns=now_ns,
            task=reset.task,
            split=reset.split,
            seed=reset.seed,
            reset_id=reset.reset_id,
            qpos=self._data.qpos.copy(),
        )

    def truth(self, now_ns: int) -> SimTruth:
        """What only a simulator knows; an empty table before the first reset."""
        table = self.table()
        episode = self._episode
        return SimTruth(
            stamp_ns=now_ns,
            reset_id=self._reset.reset_id,
            task=self._reset.task,
            instruction="" if episode is None else episode.instruction,
            progress=0.0 if episode is None else float(episode.progress(table)),
            success=False if episode is None else bool(episode.success(table)),
            names=table.names,
            pose=table.pose,
            held_by=table.held_by,
            inside=table.inside,
            hands_m=table.hands_m,
        )

    def table(self) -> Table:
        """What is where, as of the last step."""
        # Poses of bodies lag the positions by one step (mj_step integrates last); 2.5 ms, as a camera would.
        data, bodies = self._data, self._twin.bodies
        pose = np.concatenate((data.xpos[bodies], data.xquat[bodies]), axis=1)
        held = self._held_by()
        joints = data.qpos[:ARMS_QPOS].reshape(2, ARM_DOF)[:, :ARM_JOINTS]
        hands = [base.to_world(*forward_tcp(q))[0] for base, q in zip(self._bases, joints, strict=True)]
        return Table(self._scene.names, pose, held, self._inside(pose, held), np.array(hands))

    def close(self) -> None:
        """Nothing to release: the twin owns memory only."""

    def _lay(self, scene: Scene) -> None:
        twin = self._models.get(scene.layout)
        if twin is None:
            twin = self._models[scene.layout] = TwinModel(*self._bases, scene)
        twin.place(scene)
        self._scene, self._twin, self._model, self._data = scene, twin, twin.model, twin.data
        for plant in self._plants.values():
            plant.bind(twin)

    def _held_by(self) -> tuple[str, ...]:
        """The arm whose both pads touch a thing."""
        twin, data = self._twin, self._data
        touching: set[tuple[int, int]] = set()
        for first, second in data.contact.geom[: data.ncon].tolist():
            for one, other in ((first, second), (second, first)):
                if one in twin.pads:
                    touching.add((one, twin.thing_of_geom.get(other, -1)))
        held = [""] * len(self._scene.names)
        for row in range(len(self._scene.objects)):
            for arm, (a, b) in zip(ARMS, (twin.pads[:2], twin.pads[2:]), strict=True):
                if (a, row) in touching and (b, row) in touching:
                    held[row] = arm
        return tuple(held)

    def _inside(self, pose: Float64, held: tuple[str, ...]) -> tuple[str, ...]:
        """The container over whose floor a thing's centre is, unless it is held or too high."""
        inside = [""] * len(held)
        for row, container in enumerate(self._scene.containers, start=len(self._scene.objects)):
            offset = np.abs(pose[:, :2] - pose[row, :2])
            within = (offset < np.array(container.inner_m) / 2.0).all(axis=1)
            low = pose[:, 2] < container.wall_height_m + INSIDE_MARGIN_M
            for thing in np.flatnonzero(within & low).tolist():
                if thing < len(self._scene.objects) and not held[thing]:
                    inside[thing] = container.name
        return tuple(inside)
