"""What every format is read into and written from: an episode as messages, or as rows on a regular grid.

Everything streams: at most about a second of an episode is in memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.errors import RecordingError
from syvla.message import Float64, Message, UInt8
from syvla.messages import (
    ARM_JOINTS,
    ARMS,
    PROPRIOCEPTION,
    ArmName,
    ArmState,
    CameraFrame,
    CompressedFrame,
    JointCommand,
    Provenance,
    Source,
    Task,
)
from syvla.recording import images

Frame = CameraFrame | CompressedFrame
COLUMNS = tuple(f"{arm}_{joint}" for arm in ARMS for joint in (*(f"joint{i + 1}" for i in range(6)), "gripper"))
GRIPPERS = [ARM_JOINTS, PROPRIOCEPTION - 1]
MAX_FPS = 240
FIRST_NS = NS_PER_S  # the stamp of the first row of what has no stamps
_LOOK_S = 5.0
_BEHIND_S = 1.0  # a topic may be so much behind the newest of another
_STREAMS = ("command", *(f"arm/{arm}" for arm in ARMS))


class Facts(NamedTuple):
    """What is said of an episode as a whole."""

    cameras: tuple[str, ...]
    outcome: str = ""  # success, failure, ...; "" where nobody says
    run: str = ""  # the configuration of the run that recorded it, as JSON; "" where there is none


class Row(NamedTuple):
    """One instant. The vectors (14,) are left joints [rad], left gripper [m], then the same for the right arm."""

    time_ns: int
    state: Float64  # measured
    velocity: Float64  # [rad/s], grippers 0
    effort: Float64  # [Nm], grippers 0
    action: Float64  # the command in force
    frames: Mapping[str, Frame]
    intervention: bool  # whether a person commanded
    instruction: str


class Stamped(NamedTuple):
    """A message of a topic, with its own stamp."""

    topic: str
    stamp_ns: int
    message: Message


class Grid(NamedTuple):
    """How rows are laid over messages."""

    fps: int = 30
    max_age_s: float = 0.25  # of whatever a row is made from
    instruction: str = ""  # where the source says none


class Episode(Protocol):
    """One episode of a source. ``origin`` tells it from every other, and is another once its file has changed."""

    origin: str
    name: str  # safe as a file's name
    fps: int | None  # None: it has no rows of its own, or does not say at what rate they are

    @property
    def facts(self) -> Facts:
        """What is said of it as a whole; this may have to be looked for in it."""
        ...

    def rows(self, grid: Grid) -> Iterator[Row]:
        """Its rows; RecordingError where it cannot be read or a source of a row is too old."""
        ...

    def messages(self, grid: Grid) -> Iterator[Stamped]:
        """Its cameras, arms, commands and tasks by their stamps; of rows those that they stand for."""
        ...


def begun_topics(records: Iterable[tuple[str, int]]) -> set[str]:
    """The topics of an episode's first seconds, of each message's topic and time [ns].

    A camera that has not begun by then is none of the episode's.
    """
    begin_ns, found = -1, set()
    for topic, at_ns in records:
        begin_ns = at_ns if begin_ns < 0 else begin_ns
        if at_ns - begin_ns > _LOOK_S * NS_PER_S:
            break
        found.add(topic)
    return found


def pixels(frame: Frame) -> UInt8:
    """The colour image (H, W, 3); RecordingError if its JPEG is broken."""
    return frame.rgb if isinstance(frame, CameraFrame) else images.decompress(frame).rgb


def jpeg(frame: Frame, quality: int) -> CompressedFrame:
    """The frame as JPEG: its own if it has one, else made with ``quality``."""
    return frame if isinstance(frame, CompressedFrame) else images.compress(frame, quality)


def size(frame: Frame) -> tuple[int, int]:
    """Height and width."""
    return (frame.height, frame.width) if isinstance(frame, CompressedFrame) else frame.rgb.shape[:2]


def in_metres(row: Row, gripper_unit_m: float) -> Row:
    """The row with its grippers in metres, which were in units of ``gripper_unit_m``."""
    if gripper_unit_m == 1.0:
        return row
    scale = np.ones(PROPRIOCEPTION)
    scale[GRIPPERS] = gripper_unit_m
    return row._replace(state=row.state * scale, action=row.action * scale)


# ---------------------------------------------------------------- messages to rows


def aligned(messages: Iterable[Stamped], cameras: Sequence[str], grid: Grid, where: str) -> Iterator[Row]:
    """Rows at ``grid.fps`` from the instant on at which everything has begun until something ends.

    A row has of each camera and arm what was seen and measured last, and the command in force.

    Raises:
        RecordingError: Something is missing, goes back in time, or is older than ``max_age_s`` at a row.
    """
    streams = {topic: _Stream(topic, where) for topic in (*_STREAMS, *(f"camera/{camera}" for camera in cameras))}
    tasks = _Stream("task", where)
    newest_ns, begin_ns, count = -1, -1, 0
    max_age_ns = to_ns(grid.max_age_s)
    behind_ns = max(to_ns(_BEHIND_S), 2 * max_age_ns)
    for topic, stamp_ns, message in messages:
        if isinstance(message, Task):
            if message.instruction:  # an empty one only says that nothing is wanted any more
                tasks.add(message.issued_ns, message)
            continue
        stream = streams.get(topic)
        if stream is None:
            raise RecordingError(f"{where}: {topic} begins late; a camera must be there from the start")
        stream.add(stamp_ns, message)
        newest_ns = max(newest_ns, stamp_ns)
        slowest = min(streams.values(), key=lambda s: s.newest_ns)
        if slowest.newest_ns < 0:
            oldest_ns = min(s.first_ns for s in streams.values() if s.newest_ns >= 0)
            if newest_ns - oldest_ns > behind_ns:
                raise RecordingError(f"{where}: {slowest.topic} has nothing in the first {behind_ns / NS_PER_S:.1f} s")
            continue
        if newest_ns - slowest.newest_ns > behind_ns:
            raise RecordingError(f"{where}: {slowest.topic} has nothing for {behind_ns / NS_PER_S:.1f} s")
        if begin_ns < 0:
            begin_ns = max(s.first_ns for s in streams.values())
            if not grid.instruction and tasks.newest_ns >= 0:
                begin_ns = max(begin_ns, tasks.first_ns)
        while (now_ns := begin_ns + count * NS_PER_S // grid.fps) <= slowest.newest_ns:
            yield _row(now_ns, streams, tasks, cameras, max_age_ns, grid.instruction, where)
            count += 1
    if count == 0:
        missing = next((s.topic for s in streams.values() if s.newest_ns < 0), None)
        raise RecordingError(
            f"{where}: " + (f"it has no {missing}" if missing else "there is nothing to lay rows over")
        )


class _Stream:
    """The newest messages of a topic, from the last one that a row may still need."""

    def __init__(self, topic: str, where: str) -> None:
        self.topic = topic
        self.first_ns = self.newest_ns = -1
        self._where = where
        self._kept: deque[tuple[int, Message]] = deque()

    def add(self, stamp_ns: int, message: Message) -> None:
        if stamp_ns < 0:
            raise RecordingError(f"{self._where}: {self.topic} is stamped {stamp_ns} ns")
        if stamp_ns < self.newest_ns:
            behind_s = (self.newest_ns - stamp_ns) / NS_PER_S
            raise RecordingError(f"{self._where}: {self.topic} goes back by {behind_s:.3f} s at {stamp_ns} ns")
        if stamp_ns == self.newest_ns:  # a device that had nothing newer; the last word counts
            self._kept.pop()
        if self.first_ns < 0:
            self.first_ns = stamp_ns
        self.newest_ns = stamp_ns
        self._kept.append((stamp_ns, message))

    def at(self, time_ns: int) -> tuple[int, Message] | None:
        """The last one not after ``time_ns``; what came before it is forgotten."""
        while len(self._kept) > 1 and self._kept[1][0] <= time_ns:
            self._kept.popleft()
        return self._kept[0] if self._kept and self._kept[0][0] <= time_ns else None


def _row(
    now_ns: int,
    streams: Mapping[str, _Stream],
    tasks: _Stream,
    cameras: Sequence[str],
    max_age_ns: int,
    instruction: str,
    where: str,
) -> Row:
    found: dict[str, Message] = {}
    for topic, stream in streams.items():
        last = stream.at(now_ns)
        age_ns = max_age_ns + 1 if last is None else now_ns - last[0]
        if last is None or age_ns > max_age_ns:
            raise RecordingError(
                f"{where}: {topic} is {age_ns / NS_PER_S:.2f} s old at {now_ns} ns; "
                f"at most {max_age_ns / NS_PER_S} s are allowed (--max-age)"
            )
        found[topic] = last[1]
    task = tasks.at(now_ns)
    if task is not None and isinstance(task[1], Task):
        instruction = task[1].instruction
    if not instruction:
        raise RecordingError(f"{where}: it does not say what was asked for; give --instruction")
    left, right, command = (found[topic] for topic in ("arm/left", "arm/right", "command"))
    assert isinstance(left, ArmState)  # noqa: S101 - the topics' types
    assert isinstance(right, ArmState)  # noqa: S101
    assert isinstance(command, JointCommand)  # noqa: S101
    frames = {camera: found[f"camera/{camera}"] for camera in cameras}
    return Row(
        time_ns=now_ns,
        state=_both(left.position_rad, left.gripper_width_m, right.position_rad, right.gripper_width_m),
        velocity=_both(left.velocity_rad_s, 0.0, right.velocity_rad_s, 0.0),
        effort=_both(left.effort_nm, 0.0, right.effort_nm, 0.0),
        action=_both(
            command.position_rad[:ARM_JOINTS], float(command.gripper_width_m[0]),
            command.position_rad[ARM_JOINTS:], float(command.gripper_width_m[1]),
        ),
        frames={camera: frame for camera, frame in frames.items() if isinstance(frame, CameraFrame | CompressedFrame)},
        intervention=command.provenance.source is Source.TELEOP,
        instruction=instruction,
    )  # fmt: skip


def _both(left: Float64, left_gripper: float, right: Float64, right_gripper: float) -> Float64:
    return np.array([*left, left_gripper, *right, right_gripper])


# ---------------------------------------------------------------- rows to messages


def messages_of(rows: Iterable[Row]) -> Iterator[Stamped]:
    """What the rows stand for: a frame, both arms' states, a command at each, and the task whenever it changes.

    Nobody says who commanded where no person did, and that is what the provenance says.
    """
    asked, tasks, overrides, before = "", 0, 0, False
    shown: dict[str, Frame] = {}
    for i, row in enumerate(rows):
        if row.instruction != asked:
            asked, tasks = row.instruction, tasks + 1
            yield Stamped("task", row.time_ns, Task(task_id=tasks, instruction=asked, issued_ns=row.time_ns))
        for camera, frame in row.frames.items():
            if frame is not shown.get(camera):
                shown[camera] = frame
                yield Stamped(f"camera/{camera}", frame.exposure_ns, frame)
        for arm in ARMS:
            yield Stamped(f"arm/{arm}", row.time_ns, _arm_state(arm, row))
        overrides += row.intervention and not before
        before = row.intervention
        yield Stamped("command", row.time_ns, _command(i, row, overrides))


def _arm_state(arm: ArmName, row: Row) -> ArmState:
    at = ARMS.index(arm) * (ARM_JOINTS + 1)
    joints = slice(at, at + ARM_JOINTS)
    return ArmState(
        arm=arm,
        measured_ns=row.time_ns,
        position_rad=row.state[joints].copy(),
        velocity_rad_s=row.velocity[joints].copy(),
        effort_nm=row.effort[joints].copy(),
        gripper_width_m=float(row.state[at + ARM_JOINTS]),
        enabled=True,
    )


def _command(number: int, row: Row, overrides: int) -> JointCommand:
    who = Provenance(source=Source.UNKNOWN)
    if row.intervention:
        who = Provenance(source=Source.TELEOP, override_id=overrides)
    return JointCommand(
        command_id=number,
        commanded_ns=row.time_ns,
        position_rad=np.delete(row.action, GRIPPERS),
        gripper_width_m=row.action[GRIPPERS],
        provenance=who,
        intent_age_s=-1.0,
        limited_joints=0,
    )
