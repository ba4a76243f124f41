"""Random tables to look at: things anywhere within reach, in containers or in hands, arms caught in the middle of jobs.

Nothing is simulated: positions are put together as an episode would leave them, which takes a millisecond, and the
truth about them is known. A table is a pure function of its seed.
"""

import math
from typing import NamedTuple

import numpy as np

from syvla.config import RigConfig
from syvla.control.kinematics import HOME_RAD, Base, arm_distance_m, forward_tcp, hand_rotation, inverse_tcp
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ARMS, ArmName, SimState
from syvla.sim.model import ARMS_QPOS
from syvla.sim.motion import quaternion_from_rotation
from syvla.sim.piper_mjcf import ARM_DOF
from syvla.sim.scene import Container, FreeObject, Scene, Table
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.tasks.table_play import on_table

# Which task's things, and where: both regions of the two tasks together are the whole reachable table.
_LAYOUTS = (
    ("snack_loading", "id"),
    ("snack_loading", "ood_position"),
    ("math_packaging", "id"),
    ("math_packaging", "ood_position"),
    ("table_play", "id"),
)
_LAYOUT_SHARES = (0.15, 0.15, 0.15, 0.15, 0.40)
_WORKING_SHARES = (0.10, 0.65, 0.25)  # of no, one and both arms away from home
_ROAMING, _PUSHING = 0.1, 0.1  # shares of a working arm's occupations; the rest fetches things

_TRAVEL_M, _PUSH_Z_M, _DROP_M = 0.115, 0.026, 0.014
_PINCH_M = 0.001
_WIDEST_M = 0.07  # as the demonstrator opens its hands
_EMPTY_M, _BETWEEN = (0.0, _WIDEST_M), 0.02  # a hand that holds nothing is seldom as wide as a thing
_ASKEW, _BY_EDGES = 0.25, 0.5  # share of the things that are held across their longer side, and of boxes by two edges,
_EDGE_RAD = 0.2  # which are in the middle of the fingers up to this
_LOWEST_GRASP_M = 0.017
_PUSHED_M = 0.10
_APART_M = 0.01  # between the arms
_TILTS_RAD = np.radians(np.arange(0.0, 52.0, 3.0))
_TRIES, _FETCHES = 30, 3
_MISSES = 0.4  # share of the hands past a grasp that closed on nothing, or lost what they had
_SHUT_M = (0.010, 0.020)  # how much narrower than the thing a hand is that shut on nothing
_BESIDE_M = (0.025, 0.05)  # how far the thing then is from where the hand closed, or from the way on which it fell
_LOST = 0.5  # share of the misses where it fell on the way to the container
_CLEAR_M = 0.05  # how far it is from a low hand, whose fingers would touch it otherwise
_FALLEN = 0.3  # share of the tables with one or two things that fell somewhere in the middle:
_FALLEN_LOW_M, _FALLEN_HIGH_M = (0.07, -0.24), (0.42, 0.24)

# Fetching: home, above the thing, at it, above, over the container, low, over, home; the shares of the ways between.
_WAY_SHARES = (0.15, 0.15, 0.15, 0.30, 0.10, 0.05, 0.10)
_LIFT, _RAISE = 2, 5  # the thing is in the hand from the first of these ways on, and in the container from the second


class RandomTable(NamedTuple):
    """What a camera may be shown, and what is where; the store is left out of the truth."""

    state: SimState
    table: Table

    @property
    def widths_m(self) -> tuple[float, float]:
        """How far the left and the right hand are open."""
        fingers = self.state.qpos[:ARMS_QPOS].reshape(2, ARM_DOF)[:, ARM_JOINTS:]
        left, right = fingers.sum(axis=1).tolist()
        return (left, right)


class RandomTables:
    """Draws tables for the arms of a rig."""

    def __init__(self, rig: RigConfig) -> None:
        self._bases = (Base.of(rig.left), Base.of(rig.right))

    def draw(self, seed: int) -> RandomTable:
        """The table of ``seed`` (0 or more)."""
        rng = np.random.default_rng((0x7AB1E, seed))
        task, split = _LAYOUTS[int(rng.choice(len(_LAYOUTS), p=_LAYOUT_SHARES))]
        laid_seed = int(rng.integers(1 << 30))
        things = _Things(ALL_TASKS[task].reset(laid_seed, split).scene, rng)
        qpos = np.empty(ARMS_QPOS + things.qpos_size)
        joints = {arm: np.array(HOME_RAD) for arm in ARMS}
        working = int(rng.choice(3, p=_WORKING_SHARES))
        for side in rng.permutation(2).tolist():
            width = self._empty_m(float(rng.random()))
            if working > 0:
                working -= 1
                width = self._occupy(rng, ARMS[side], joints, things, width)
            qpos[ARM_DOF * side : ARM_DOF * (side + 1)] = (*joints[ARMS[side]], width / 2.0, width / 2.0)
        qpos[ARMS_QPOS:] = things.qpos()
        state = SimState(stamp_ns=0, task=task, split=split, seed=laid_seed, reset_id=0, qpos=qpos)
        return RandomTable(state, things.table(np.array([self._hand(arm, joints[arm])[0] for arm in ARMS])))

    # ------------------------------------------------------------ what an arm does

    @staticmethod
    def _empty_m(share: float) -> float:
        """How far a hand with nothing in it is open: mostly as one of ``_EMPTY_M``, else anything."""
        if share < _BETWEEN:
            return _WIDEST_M * share / _BETWEEN
        return _EMPTY_M[int(len(_EMPTY_M) * (share - _BETWEEN) / (1.0 - _BETWEEN))]

    def _occupy(
        self, rng: np.random.Generator, arm: ArmName, joints: dict[ArmName, Float64], things: "_Things", idle_m: float
    ) -> float:
        """Give ``arm`` something to do that keeps it clear of the other one; returns its gripper's width [m]."""
        kind = rng.random()
        if kind < _ROAMING:
            moved = self._roam(rng, arm)
            width = idle_m
        elif kind < _ROAMING + _PUSHING and things.box is not None:
            moved, width = self._push(rng, arm, things, things.box), 0.0
        else:
            return self._fetch(rng, arm, joints, things, idle_m)
        if moved is None or not self._clear(arm, moved, joints):
            return idle_m
        joints[arm] = moved
        return width

    def _roam(self, rng: np.random.Generator, arm: ArmName) -> Float64 | None:
        x, y, z = rng.uniform((0.10, -0.05, 0.03), (0.42, 0.50, 0.20)).tolist()
        return self._reach(arm, x, y if arm == "left" else -y, z, float(rng.uniform(-math.pi, math.pi)))

    def _push(self, rng: np.random.Generator, arm: ArmName, things: "_Things", box: Container) -> Float64 | None:
        """Beside the box, on the arm's own side, on the way down or at the wall."""
        x, y, _ = things.position[box.name]
        outwards = 1.0 if arm == "left" else -1.0
        face = y + outwards * (box.inner_m[1] / 2.0 + box.wall_thickness_m + 0.011 + float(rng.uniform(0.0, 0.025)))
        return self._reach(arm, x, face, float(rng.choice((_PUSH_Z_M, rng.uniform(_PUSH_Z_M, _TRAVEL_M)))), 0.0)

    def _fetch(
        self, rng: np.random.Generator, arm: ArmName, joints: dict[ArmName, Float64], things: "_Things", idle_m: float
    ) -> float:
        """Somewhere on the way from home to a thing, to a container and back home; the thing goes with it.

        Not always: whether a hand holds something shall not be told by where it is.
        """
        near = [thing for thing in things.loose() if (things.position[thing.name][1] > 0.0) == (arm == "left")]
        for row in rng.permutation(len(near))[:_FETCHES].tolist():
            thing, container = near[row], things.containers[int(rng.integers(len(things.containers)))]
            slot = things.free_slot(rng, thing, container)
            route = None if slot is None else self._route(arm, thing, container, slot, things)
            if route is None or slot is None:
                continue
            way, share = int(rng.choice(len(_WAY_SHARES), p=_WAY_SHARES)), float(rng.random())
            q = route[way] + share * (route[way + 1] - route[way])
            if self._clear(arm, q, joints):
                joints[arm] = q
                if way >= _LIFT and rng.random() < _MISSES and things.lose(rng, thing, slot, self._hand(arm, q)[0]):
                    narrow = min(thing.size_m[:2])
                    return _WIDEST_M if way >= _RAISE else narrow - float(rng.uniform(*_SHUT_M))
                return self._carry(rng, arm, route, q, way, share, thing, container, slot, things, idle_m)
        return idle_m

    def _carry(
        self,
        rng: np.random.Generator,
        arm: ArmName,
        route: list[Float64],
        q: Float64,
        way: int,
        share: float,
        thing: FreeObject,
        container: Container,
        slot: tuple[float, float],
        things: "_Things",
        idle_m: float,
    ) -> float:
        """Bring the thing to where it is on that share of the way; returns the gripper's width [m]."""
        if way < _LIFT:
            return _WIDEST_M if way or share > 0.5 else idle_m
        grasp = self._hand(arm, route[_LIFT])
        if way < _RAISE:
            apart_m = things.turn_askew(rng, thing) if rng.random() < _ASKEW else min(thing.size_m[:2])
            things.take(thing, arm, grasp, self._hand(arm, q))
            return apart_m - _PINCH_M
        yaw, (_, dropped) = things.yaw[thing.name], self._hand(arm, route[_RAISE])
        x, y, _ = dropped @ grasp[1].T @ (math.cos(yaw), math.sin(yaw), 0.0)
        things.put(thing, container, slot, math.atan2(y, x))
        return _WIDEST_M

    def _route(
        self, arm: ArmName, thing: FreeObject, container: Container, slot: tuple[float, float], things: "_Things"
    ) -> list[Float64] | None:
        """Joints at the stations of a fetch; None if one is out of reach."""
        x, y, z = things.position[thing.name]
        yaw = things.yaw[thing.name] + (math.pi / 2.0 if thing.size_m[0] > thing.size_m[1] else 0.0)
        drop = _DROP_M + (container.wall_height_m if container.slide is not None else thing.size_m[2] / 2.0)
        across = self._azimuth(arm, *slot) + math.pi / 2.0
        above = self._reach(arm, x, y, _TRAVEL_M, yaw)
        grasp = self._reach(arm, x, y, max(z, _LOWEST_GRASP_M), yaw)
        over, low = self._reach(arm, *slot, _TRAVEL_M, across), self._reach(arm, *slot, drop, across)
        if above is None or grasp is None or over is None or low is None:
            return None
        home = np.array(HOME_RAD)
        return [home, above, grasp, above, over, low, over, home]

    # ------------------------------------------------------------ geometry

    def _reach(self, arm: ArmName, x: float, y: float, z: float, yaw: float) -> Float64 | None:
        """Joints (6,) of the least tilted hand with its grasp point there and its fingers along ``yaw``."""
        base, azimuth = self._bases[ARMS.index(arm)], self._azimuth(arm, x, y)
        yaws = np.array((yaw, yaw + math.pi))
        rotations = hand_rotation(yaws[None, :], _TILTS_RAD[:, None], azimuth)  # (tilts, 2, 3, 3)
        position, turned = base.from_world((x, y, z), rotations)
        q, reachable = inverse_tcp(position, turned, np.array(HOME_RAD))
        rows = np.flatnonzero(reachable.any(axis=1))
        if len(rows) == 0:
            return None
        row = int(rows[0])
        cost = np.where(reachable[row], np.abs(q[row, :, 5]), np.inf)
        joints: Float64 = q[row, int(cost.argmin())]
        return joints

    def _azimuth(self, arm: ArmName, x: float, y: float) -> float:
        base = self._bases[ARMS.index(arm)]
        return math.atan2(y - base.y_m, x - base.x_m)

    def _hand(self, arm: ArmName, q: Float64) -> tuple[Float64, Float64]:
        """The grasp point (3,) and the hand's rotation (3, 3) in the world."""
        return self._bases[ARMS.index(arm)].to_world(*forward_tcp(q))

    def _clear(self, arm: ArmName, q: Float64, joints: dict[ArmName, Float64]) -> bool:
        both = {**joints, arm: q}
        return arm_distance_m(both["left"], both["right"], *self._bases) > _APART_M


class _Things:
    """What lies where, while a table is being put together."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self._scene = scene
        self._names = on_table(scene)
        self.containers = tuple(c for c in scene.containers if c.name in self._names)
        self.box = next((c for c in self.containers if c.slide is not None), None)
        self.position: dict[str, tuple[float, float, float]] = {o.name: o.position_m for o in scene.objects}
        self.position |= {c.name: (*c.centre_m, 0.0) for c in scene.containers}
        self.yaw = {o.name: o.yaw_rad for o in scene.objects}
        self._turned: dict[str, tuple[float, float, float, float]] = {}  # of what is in a hand
        self._held = dict.fromkeys(self._names, "")
        self._inside = dict.fromkeys(self._names, "")
        if self.box is not None and rng.random() < 0.5:
            x, y, z = self.position[self.box.name]
            self.position[self.box.name] = (x, y + float(rng.uniform(-_PUSHED_M, _PUSHED_M)), z)
        laid = [thing for thing in scene.objects if thing.name in self._names]
        rows, filled = rng.permutation(len(laid)).tolist(), int(rng.integers(6))
        for row in rows[:filled]:
            container = self.containers[int(rng.integers(len(self.containers)))]
            slot = self.free_slot(rng, laid[row], container)
            if slot is not None:
                self.put(laid[row], container, slot, float(rng.uniform(-math.pi, math.pi)))
        if rng.random() < _FALLEN:
            for row in rows[filled:][: int(rng.integers(1, 3))]:
                spots = rng.uniform(_FALLEN_LOW_M, _FALLEN_HIGH_M, (_TRIES, 2)).tolist()
                any(self._lay(laid[row], (x, y)) for x, y in spots)  # at the first of them that is free

    @property
    def qpos_size(self) -> int:
        """Numbers after those of the arms."""
        return 7 * len(self._scene.objects) + sum(c.slide is not None for c in self._scene.containers)

    def loose(self) -> list[FreeObject]:
        """What can be fetched."""
        return [
            thing
            for thing in self._scene.objects
            if thing.name in self._names and not self._inside[thing.name] and not self._held[thing.name]
        ]

    def free_slot(
        self, rng: np.random.Generator, thing: FreeObject, container: Container
    ) -> tuple[float, float] | None:
        """A place in the container that touches nothing; None if none was found."""
        x, y, _ = self.position[container.name]
        radius = math.hypot(*thing.size_m[:2]) / 2.0
        others = [
            (self.position[o.name][:2], math.hypot(*o.size_m[:2]) / 2.0)
            for o in self._scene.objects
            if o.name in self._names and self._inside[o.name] == container.name
        ]
        room = (container.inner_m[0] / 2.0 - radius, container.inner_m[1] / 2.0 - radius)
        for _ in range(_TRIES):
            spot = (x + float(rng.uniform(-room[0], room[0])), y + float(rng.uniform(-room[1], room[1])))
            if all(math.dist(spot, other) > 0.9 * (radius + other_radius) for other, other_radius in others):
                return spot
        return None

    def put(self, thing: FreeObject, container: Container, slot: tuple[float, float], yaw_rad: float) -> None:
        """Lay the thing into the container."""
        self.position[thing.name] = (*slot, thing.size_m[2] / 2.0)
        self.yaw[thing.name] = yaw_rad
        self._inside[thing.name] = container.name

    def lose(self, rng: np.random.Generator, thing: FreeObject, slot: tuple[float, float], hand: Float64) -> bool:
        """Lay the thing beside where it is or on the way to ``slot``, out of the ``hand`` (3,); False without room."""
        x, y, _ = self.position[thing.name]
        fallen = rng.random() < _LOST
        clear_m = _CLEAR_M if hand[2] < _TRAVEL_M - _CLEAR_M / 2.0 else 0.0
        for _ in range(_TRIES):
            share = float(rng.random()) if fallen else 0.0
            angle, distance_m = float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(*_BESIDE_M))
            spot = (x + share * (slot[0] - x), y + share * (slot[1] - y))
            spot = (spot[0] + distance_m * math.cos(angle), spot[1] + distance_m * math.sin(angle))
            if math.dist(spot, hand[:2].tolist()) >= clear_m and self._lay(thing, spot):
                return True
        return False

    def _lay(self, thing: FreeObject, spot: tuple[float, float]) -> bool:
        """Lay the thing on the table; False if it would touch another or a container."""
        others = [self.position[other.name][:2] for other in self.loose() if other.name != thing.name]
        if any(math.dist(spot, other) < max(thing.size_m[:2]) for other in others):
            return False
        radius = math.hypot(*thing.size_m[:2]) / 2.0
        for container in self.containers:
            x, y, _ = self.position[container.name]
            room_x, room_y = (inner / 2.0 + container.wall_thickness_m + radius for inner in container.inner_m)
            if abs(spot[0] - x) < room_x and abs(spot[1] - y) < room_y:
                return False
        self.position[thing.name] = (*spot, self.position[thing.name][2])
        return True

    def turn_askew(self, rng: np.random.Generator, thing: FreeObject) -> float:
        """Turn what a hand is about to take across its shorter side; how far its fingers are then apart [m]."""
        short_m = min(thing.size_m[:2])
        if thing.shape in ("cylinder", "sphere"):
            return short_m
        turn, long_m = math.pi / 2.0, max(thing.size_m[:2])
        if thing.shape == "box" and rng.random() < _BY_EDGES:
            turn = math.atan2(long_m, short_m) + float(rng.uniform(-_EDGE_RAD, _EDGE_RAD))
        self.yaw[thing.name] += math.copysign(turn, float(rng.uniform(-1.0, 1.0)))
        apart_m = short_m * math.cos(turn) + long_m * math.sin(turn)
        return min(apart_m, _WIDEST_M)

    def take(
        self, thing: FreeObject, arm: ArmName, grasp: tuple[Float64, Float64], now: tuple[Float64, Float64]
    ) -> None:
        """Carry the thing from where it was grasped, by a hand at ``grasp``, to where the hand is ``now``."""
        c, s = math.cos(self.yaw[thing.name]), math.sin(self.yaw[thing.name])
        upright = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        turn = now[1] @ grasp[1].T
        x, y, z = (now[0] + turn @ (np.array(self.position[thing.name]) - grasp[0])).tolist()
        self.position[thing.name] = (x, y, z)
        self._turned[thing.name] = quaternion_from_rotation(turn @ upright)
        self._held[thing.name] = arm

    def qpos(self) -> Float64:
        """Generalised positions of the things, in the model's order."""
        poses = [(*self.position[o.name], *self._quaternion(o.name)) for o in self._scene.objects]
        rails = []
        for container in self._scene.containers:
            if container.slide is not None:
                axis = "xy".index(container.slide.axis)
                rails.append(self.position[container.name][axis] - container.centre_m[axis])
        return np.array([value for pose in poses for value in pose] + rails)

    def table(self, hands_m: Float64) -> Table:
        """The truth, with the hands' grasp points there (2, 3)."""
        return Table(
            self._names,
            np.array([(*self.position[name], *self._quaternion(name)) for name in self._names]),
            tuple(self._held[name] for name in self._names),
            tuple(self._inside[name] for name in self._names),
            hands_m,
        )

    def _quaternion(self, name: str) -> tuple[float, float, float, float]:
        half = self.yaw.get(name, 0.0) / 2.0
        return self._turned.get(name, (math.cos(half), 0.0, 0.0, math.sin(half)))
