"""Golden episodes: short runs of the policy that ships, recorded once, against which every change is held.

``record`` runs one in lockstep and keeps what expert and robot are given and send. ``differences`` compares message by
message and field by field; ``story`` tells an episode in lines, so that a changed one can be read as a diff.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from syvla.apps.director import Director, Episode
from syvla.hosts.repeat import Repeated
from syvla.message import Message
from syvla.messages import ActionChunk, JointCommand, OperatorCommand, SafetyState, Splice, TeleopCommand
from syvla.protocols import Emit, Inbox, Periodic, Received
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import Recording
from syvla.rig import lockstep_host
from syvla.runs import lockstep_run
from syvla.stages.recorder import RecorderStage

FOLDER = Path(__file__).parent / "golden"
DROPPED = ("camera/", "sim/", "health/", "steps/planner", "memory/planner")  # of no stage that is run again
SLICE_NS = 100_000_000
TELEOP_NS = 5_000_000
JOG_RAD_S = 0.3

# How far another machine's arithmetic may lead from what was recorded, in the field's unit; what is not named is exact.
TOLERANCES: dict[tuple[type[Message], str], float] = {
    (ActionChunk, "position_rad"): 2e-3,  # what a backend may differ by
    (ActionChunk, "gripper_width_m"): 1e-3,
    (JointCommand, "position_rad"): 2e-3,
    (JointCommand, "gripper_width_m"): 1e-3,
    (Splice, "jump_rad"): 4e-3,
    (SafetyState, "arm_distance_m"): 4e-3,
    (SafetyState, "clamped_count"): 20,  # a joint that just reaches a limit may or may not count
}
NOT_COMPARED = {(JointCommand, "limited_joints"), (SafetyState, "limited_joints"), (SafetyState, "reasons")}
CODES = "reasons"  # of which the codes are compared, in order, and not the measured values in their words


class Act(NamedTuple):
    """What a person does, from when to when [s]; an operator's word is given once."""

    from_s: float
    to_s: float
    does: str


class Golden(NamedTuple):
    """One episode; ``until_s`` counts from the run's start."""

    task: str
    until_s: float
    planner_latency_s: float = 0.3
    acts: tuple[Act, ...] = ()


EPISODES = {
    "policy": Golden("snack_loading", 4.5),
    "person": Golden(
        "math_packaging",
        5.5,
        acts=(Act(2.2, 3.0, "override"), Act(3.0, 3.1, "policy"), Act(3.8, 3.8, "hold"), Act(4.3, 4.3, "resume")),
    ),
    "slow_planner": Golden("snack_loading", 5.0, 0.52, tuple(Act(0.5 * k, 0.5 * k, "resume") for k in range(3, 10))),
}


class Person:
    """Takes over and gives back, holds and resumes, as it was written down."""

    name = "teleop"
    reads: tuple[str, ...] = ()
    writes = ("teleop", "teleop/operator")
    trigger = Periodic(TELEOP_NS)
    lossless = False
    stopped = True

    def __init__(self, acts: Sequence[Act]) -> None:
        self._acts = acts
        self._said: set[int] = set()

    def step(self, now_ns: int, inbox: Inbox) -> Iterator[Emit]:
        """What is being done at ``now_ns``."""
        for number, act in enumerate(self._acts):
            if act.does in ("hold", "resume"):
                if now_ns >= act.from_s * 1e9 and number not in self._said:
                    self._said.add(number)
                    action: Any = act.does
                    yield Emit("teleop/operator", OperatorCommand(command_id=number, issued_ns=now_ns, action=action))
            elif act.from_s * 1e9 <= now_ns < act.to_s * 1e9:
                request: Any = act.does
                velocity = np.zeros(12)
                velocity[0] = JOG_RAD_S
                jog = TeleopCommand(
                    sampled_ns=now_ns, deadman=act.does == "override", joint_velocity_rad_s=velocity,
                    gripper_velocity_m_s=np.zeros(2), mode_request=request,
                )  # fmt: skip
                yield Emit("teleop", jog)

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is owned."""


def record(name: str, folder: Path) -> Path:
    """Run the golden episode ``name`` and leave it in ``folder``; the file."""
    golden = EPISODES[name]
    run = lockstep_run("twin", golden.planner_latency_s, 0.03, "learned", backend="eager")
    recorder = RecorderStage(folder, msgspec.structs.replace(run, policy_name="learned"))
    director = Director([Episode(golden.task, "id", 0, "whole")])
    host = lockstep_host(run, [Person(golden.acts), director, recorder])
    while host.now_ns < golden.until_s * 1e9:
        host.run_until(host.now_ns + SLICE_NS)
    recorder.close()
    whole = Recording(folder / "whole.mcap")
    facts = {key: value for key, value in whole.run.items() if key != "software"}  # another version is no difference
    log = McapLog(folder / f"{name}.mcap", facts, whole.attachments)
    remembered = set()
    for raw in whole.records():
        again = raw.topic in remembered  # where it begins is enough
        if raw.topic.startswith("memory/"):
            remembered.add(raw.topic)
        if not again and not raw.topic.startswith(DROPPED):
            log.write_record(raw.topic, raw.kind, raw.data, raw.log_time_ns, raw.sent_ns, raw.sequence)
    path = log.close({"outcome": "golden"})
    whole.path.unlink()
    return path


def differences(repeated: Repeated) -> Iterator[str]:
    """Each field of each message of a step that is not what it was, with both values and the tolerance."""
    step = repeated.step
    topics = [[r.header.topic for r in side] for side in (step.sent, repeated.sent)]
    if topics[0] != topics[1]:
        yield f"{step.now_ns} ns: sent {', '.join(topics[0]) or 'nothing'}, now {', '.join(topics[1]) or 'nothing'}"
        return
    for was, now in zip(step.sent, repeated.sent, strict=True):
        for field in type(was.message).__struct_fields__:
            for place, old, new in _unequal(was.message, now.message, field):
                yield f"{step.now_ns} ns: {was.header.topic}.{place}: {old} -> {new}"


def _unequal(was: Message, now: Message, field: str) -> Iterator[tuple[str, Any, Any]]:
    old, new = getattr(was, field), getattr(now, field)
    if field == CODES and isinstance(was, SafetyState):
        old, new = ([reason.code for reason in reasons] for reasons in (old, new))
    elif (type(was), field) in NOT_COMPARED:
        return
    tolerance = TOLERANCES.get((type(was), field), 0.0)
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and old.shape == new.shape:
        apart = np.abs(old.astype(np.float64) - new) > tolerance
        for index in np.argwhere(apart | (np.isnan(old) != np.isnan(new)))[:1].tolist():
            yield f"{field}{index} (of {int(apart.sum())})", old[tuple(index)], new[tuple(index)]
    elif isinstance(old, float | int) and isinstance(new, float | int) and not isinstance(old, bool):
        if abs(old - new) > tolerance:
            yield field, old, new
    elif msgspec.to_builtins(old, enc_hook=str) != msgspec.to_builtins(new, enc_hook=str):
        yield field, old, new


def story(recording: Recording) -> list[str]:
    """An episode in lines: every change of mode, source, chunk or reason, and where both arms are commanded to."""
    lines, last = [], None
    begun_ns = next(recording.records()).log_time_ns
    safety: SafetyState | None = None
    for recorded in recording.messages({"command", "safety"}):
        message = recorded.message
        if isinstance(message, SafetyState):
            safety = message
        elif isinstance(message, JointCommand) and safety is not None:
            by = message.provenance
            codes = " ".join(reason.code for reason in safety.reasons) or "-"
            key = (safety.mode.value, by.source.value, by.intent_id, by.chunk_id // 5, codes)
            if key != last:
                last = key
                joints = " ".join(f"{q:+.2f}" for q in message.position_rad)
                widths = " ".join(f"{1e3 * w:.0f}" for w in message.gripper_width_m)
                at_s = (message.commanded_ns - begun_ns) / 1e9
                lines.append(f"{at_s:6.2f} s  {' '.join(map(str, key))}  {joints} rad  {widths} mm")
    return lines


def engaged(recording: Recording) -> tuple[int, float]:
    """How many commands the policy gave, and the furthest that a joint went under it [rad]."""
    commands = [r.message for r in recording.messages({"command"})]
    rows = [c.position_rad for c in commands if isinstance(c, JointCommand) and c.provenance.source.value == "policy"]
    return len(rows), float(np.ptp(np.array(rows), axis=0).max()) if rows else 0.0


def over_a_link(intents: Sequence[Received]) -> list[Received]:
    """The intents as a robot has them from a planner on another machine, under the headers that they had here."""
    import time

    from syvla.transport.planner_end import PlannerEnd
    from syvla.transport.robot_end import RobotEnd

    planner = PlannerEnd("tcp://127.0.0.1:*", 1)
    robot = RobotEnd(planner.address, 2)
    came: list[Received] = []
    deadline_s = time.monotonic() + 30.0
    try:
        waiting = list(intents)
        sent = 0
        while len(came) < len(intents):
            assert time.monotonic() < deadline_s, f"{len(came)} of {len(intents)} intents came over the link"
            if robot.connected and sent == len(came) and waiting:  # newest first: one at a time, or some are overtaken
                planner.publish("intent", waiting.pop(0).message, time.monotonic_ns(), 0)
                sent += 1
            planner.drain()
            planner.poll()
            robot.poll()
            came += [r for r in robot.drain() if r.header.topic == "intent"]
            time.sleep(0.001)
    finally:
        robot.close()
        planner.close()
    return [now._replace(header=was.header) for was, now in zip(intents, came, strict=True)]
