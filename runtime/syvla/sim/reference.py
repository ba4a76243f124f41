"""The reference policy behind the real protocols: a planner that reads the truth, an expert that follows waypoints.

It proves the path that a learned policy takes later, and it demonstrates. Everything goes through the intent:
the expert knows only the waypoints in it and the arms' own state.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from syvla.clock import to_ns
from syvla.config import PolicyConfig, RigConfig
from syvla.control.kinematics import Base
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ActionChunk, ArmName, Intent, Observation, SimTruth, Task
from syvla.protocols import PartialThought
from syvla.sim.motion import ArmMotion, MotionLimits
from syvla.sim.scene import Table
from syvla.sim.script import Script
from syvla.sim.tasks import TASKS
from syvla.sim.tasks.goal import Goal, LanguageTask
from syvla.sim.waypoints import BOTH_ARMS, OTHER_ARM, Waypoint, decode, encode

MODEL_ID = "reference"
_PREFIXES = 5  # in how many pieces the chain of thought appears
OFF_PLAN_RAD = 0.08  # more than the servos' lag at full speed


class ReferencePlanner:
    """The slow system, by rule: parses the instruction and scripts the next waypoints from the truth."""

    model_id = MODEL_ID
    reads_truth = True

    def __init__(
        self, rig: RigConfig, tasks: Mapping[str, LanguageTask] = TASKS, astray_m: float = 0.0, misses: float = 0.0
    ) -> None:
        """For the arms of ``rig``; ``tasks`` are those whose instructions it understands; see :class:`Script`."""
        self._rig = rig
        self._tasks = tasks
        self._astray_m, self._misses = astray_m, misses
        self._episode: tuple[int, int, str] | None = None
        self._plan = 0
        self._goal: Goal | None = None
        self._script: Script | None = None
        self._taking_over = False

    def take_over(self) -> None:
        """Plan anew at the next thought, from where another policy has brought the arms."""
        self._taking_over = True

    def think(
        self, observation: Observation, task: Task, intent_id: int, truth: SimTruth | None
    ) -> Iterator[PartialThought | Intent]:
        """Yield the growing chain of thought, then the intent; nothing without the truth of a known task."""
        known = None if truth is None else self._tasks.get(truth.task)
        if truth is None or known is None:
            return
        table = Table.of(truth)
        episode = (task.task_id, truth.reset_id, task.instruction)
        if episode != self._episode:
            self._episode, self._taking_over = episode, False
            self._plan = _plan_at(observation.observation_ns)
            self._goal = known.goal(task.instruction)
            scene = known.reset(0, known.splits[0]).scene  # sizes are the same for every seed
            self._script = None
            if self._goal is not None:
                self._script = Script(self._rig, self._goal, scene, table, self._astray_m, self._misses)
        elif self._taking_over and self._script is not None:
            self._taking_over = False
            self._plan = _plan_at(observation.observation_ns)
            self._script = self._script.taken_over(table, observation.proprioception)
        if self._goal is None or self._script is None:
            yield PartialThought("I cannot tell from the instruction what is wanted, so the arms stay where they are.")
            return
        text = known.chain_of_thought(self._goal, table, self._script.rest_m)
        words = text.split(" ")
        for k in range(1, _PREFIXES + 1):
            yield PartialThought(" ".join(words[: len(words) * k // _PREFIXES]))
        waypoints = self._script.step(table, observation.proprioception)
        yield Intent(
            intent_id=intent_id,
            task_id=task.task_id,
            observation_ns=observation.observation_ns,
            chain_of_thought=text,
            feature_query_states=encode(waypoints, self._plan),
            model_id=self.model_id,
        )


def _plan_at(observation_ns: int) -> int:
    """A plan's number: another one after a restart, too."""
    return observation_ns // to_ns(0.01) % 2047 + 1


class ReferenceExpert:
    """The fast system, by kinematics: continues one plan of both arms, so that successive chunks agree.

    A waypoint that has started is finished; those after it are always the newest intent's. Where the measured
    arm left the plan (an override, a hold, a collision) the plan starts again from the measured pose, at the
    waypoint that was being executed.
    """

    def __init__(self, rig: RigConfig, policy: PolicyConfig | None = None, limits: MotionLimits | None = None) -> None:
        """For the arms of ``rig``, with the chunk horizon and period of ``policy``."""
        policy = policy or PolicyConfig()
        self._period_ns = to_ns(policy.period_s)
        self._horizon = policy.horizon
        self._offsets_ns = np.arange(policy.horizon, dtype=np.int64) * self._period_ns
        limits = limits or MotionLimits()
        self._motions: dict[ArmName, ArmMotion] = {
            "left": ArmMotion(Base.of(rig.left), limits),
            "right": ArmMotion(Base.of(rig.right), limits),
        }
        self._decoded: tuple[int, int, int] | None = None  # intent, task and observation of the rows below
        self._rows: dict[ArmName, tuple[Waypoint, ...]] = {"left": (), "right": ()}
        self._plan: tuple[int, int] | None = None
        self._now_ns = 0

    def act(
        self,
        intent: Intent,
        observation_ns: int,
        proprioception: Float64,
        committed: ActionChunk | None,
        chunk_id: int,
        inference_delay_steps: int,
    ) -> ActionChunk:
        """The plan at the chunk's due times. MessageError if the intent holds no waypoints."""
        self._read(intent, observation_ns, proprioception, committed)
        # What will have been executed when this chunk arrives cannot be changed any more; one row of margin.
        committed_ns = observation_ns
        if committed is not None:
            committed_ns += (inference_delay_steps + 2) * self._period_ns
        self._anchor_where_off(observation_ns, proprioception)
        for arm in BOTH_ARMS:
            self._follow_intent(self._motions[arm], self._rows[arm], committed_ns)
        self._extend(observation_ns, committed_ns)
        due_ns = observation_ns + self._offsets_ns
        position = np.empty((self._horizon, 2 * ARM_JOINTS), np.float32)
        width = np.empty((self._horizon, 2), np.float32)
        for side, arm in enumerate(BOTH_ARMS):
            joints, opening = self._motions[arm].evaluate(due_ns)
            position[:, ARM_JOINTS * side : ARM_JOINTS * (side + 1)] = joints
            width[:, side] = opening
        self._now_ns = observation_ns
        return ActionChunk(
            chunk_id=chunk_id,
            task_id=intent.task_id,
            intent_id=intent.intent_id,
            intent_observation_ns=intent.observation_ns,
            observation_ns=observation_ns,
            period_ns=self._period_ns,
            position_rad=position,
            gripper_width_m=width,
            inference_delay_steps=inference_delay_steps,
        )

    def _read(
        self, intent: Intent, observation_ns: int, proprioception: Float64, committed: ActionChunk | None
    ) -> None:
        """Take the waypoints of a new intent; another plan, or time running backwards, starts from rest."""
        widths_m = proprioception.reshape(2, ARM_JOINTS + 1)[:, ARM_JOINTS]
        if committed is not None:  # what it was commanded to, as a hand that holds something goes on pressing
            row = (observation_ns - committed.observation_ns) // committed.period_ns
            widths_m = committed.gripper_width_m[min(max(row, 0), len(committed.gripper_width_m) - 1)].astype(float)
        key = (intent.intent_id, intent.task_id, intent.observation_ns)
        if key != self._decoded:
            number, waypoints = decode(intent.feature_query_states)
            self._decoded = key
            for arm in BOTH_ARMS:
                self._rows[arm] = tuple(w for w in waypoints if w.arm == arm)
            plan = (intent.task_id, number)
            if plan != self._plan:
                self._plan = plan
                self._anchor_both(proprioception, widths_m)
        if observation_ns < self._now_ns:
            self._anchor_both(proprioception, widths_m)

    def _anchor_both(self, proprioception: Float64, widths_m: Float64) -> None:
        """Rest as measured; what comes before the first waypoint of the intent counts as completed."""
        for side, arm in enumerate(BOTH_ARMS):
            joints = proprioception[7 * side : 7 * side + ARM_JOINTS]
            completed = self._rows[arm][0].number - 1 if self._rows[arm] else 0
            self._motions[arm].anchor(joints, float(widths_m[side]), completed)

    def _anchor_where_off(self, observation_ns: int, proprioception: Float64) -> None:
        """Start again from the measured pose where an arm is further from the plan than its servos' lag explains."""
        now_ns = np.array([observation_ns], dtype=np.int64)
        for side, arm in enumerate(BOTH_ARMS):
            motion = self._motions[arm]
            motion.forget_before(observation_ns - self._period_ns)
            planned, width = motion.evaluate(now_ns)
            measured = proprioception[7 * side : 7 * side + ARM_JOINTS]
            if float(np.abs(planned[0] - measured).max()) <= OFF_PLAN_RAD:
                continue
            current = next((s for s in motion.segments if s.end_ns > observation_ns), None)
            started = [s.waypoint.number for s in motion.segments if s.start_ns <= observation_ns]
            done = started[-1] if started else motion.completed
            if current is not None and started and current.waypoint.number == done:
                done -= 1
            # The commanded width, not the measured one: a hand that holds something goes on pressing.
            motion.anchor(measured, float(width[0]), completed=done)
            other = self._motions[OTHER_ARM[arm]]
            other.drop_from(sum(s.start_ns <= observation_ns for s in other.segments))

    @staticmethod
    def _follow_intent(motion: ArmMotion, rows: tuple[Waypoint, ...], committed_ns: int) -> None:
        """Drop planned segments that are not yet committed and that the intent no longer wants so."""
        started = sum(s.start_ns <= committed_ns for s in motion.segments)
        number = motion.segments[started - 1].waypoint.number if started else motion.completed
        wanted = [w for w in rows if w.number > number]
        keep = started
        for segment, waypoint in zip(motion.segments[started:], wanted, strict=False):
            if segment.waypoint != waypoint:
                break
            keep += 1
        motion.drop_from(keep)

    def _extend(self, observation_ns: int, committed_ns: int) -> None:
        """Plan the waypoints that start within the horizon; those that wait for the other arm once it is planned."""
        end_ns = observation_ns + self._horizon * self._period_ns
        blocked: set[str] = set()
        progress = True
        while progress:
            progress = False
            for arm in BOTH_ARMS:
                motion, other = self._motions[arm], self._motions[OTHER_ARM[arm]]
                while motion.end_ns < end_ns and arm not in blocked:
                    waypoint = next((w for w in self._rows[arm] if w.number > motion.last_number), None)
                    if waypoint is None:
                        break
                    free_ns = other.end_of(waypoint.after) if waypoint.after else 0
                    if free_ns is None:
                        break
                    if not motion.append(waypoint, max(free_ns, committed_ns)):
                        blocked.add(arm)
                        break
                    progress = True
