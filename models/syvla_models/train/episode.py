"""One demonstration in memory: what was seen, sensed, thought and commanded, each with its own stamps.

Images stay packed until they are asked for, and only as many are kept as training draws from.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from syvla.clock import NS_PER_S, to_ns
from syvla.errors import RecordingError
from syvla.message import Float32, Float64, Message, UInt8
from syvla.messages import ARM_JOINTS, ARMS, ArmState, CameraFrame, CompressedFrame, Intent, JointCommand, Source, Task
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recording
from syvla_models.train.grounding import WAYPOINT_MODEL, WAYPOINT_SHAPE, Grounding, of_waypoints, unknown

MAX_GAP_S = 0.25  # between two commands or two states of an arm: interpolated, not guessed over
MAX_SKEW_S = 0.1  # between the images of one sight
SETTLE_S = 0.2  # after another policy, until arms do what the demonstrator wants
Stamps = npt.NDArray[np.int64]


class Track(NamedTuple):
    """Something sampled over time: ``stamps_ns`` (N,), growing; ``values`` (N, D)."""

    stamps_ns: Stamps
    values: Float32

    def at(self, times_ns: Stamps) -> Float64:
        """Linear interpolation at ``times_ns`` (...,), (..., D); before the first and after the last it stands."""
        stamps = self.stamps_ns
        before = np.clip(np.searchsorted(stamps, times_ns, "right") - 1, 0, len(stamps) - 2)
        share = (times_ns - stamps[before]) / (stamps[before + 1] - stamps[before])
        share = np.clip(share, 0.0, 1.0)[..., None]
        low = self.values[before].astype(np.float64)
        return np.asarray(low + (self.values[before + 1] - low) * share)


class Thought(NamedTuple):
    """What a planner thought of what it saw at ``observation_ns``."""

    observation_ns: int
    text: str
    grounding: Grounding


class Sight(NamedTuple):
    """An instant at which a planner could have looked: what it saw, what it was told, what there was to think."""

    observation_ns: int  # the oldest of the images, as in ``syvla.control.observation.observe``
    packed: tuple[bytes, ...]  # one image file for each camera
    instruction: str
    thought: Thought | None


class Episode(NamedTuple):
    """One successful demonstration."""

    name: str
    cameras: tuple[str, ...]
    sights: tuple[Sight, ...]
    commands: Track  # (N, 14) by due time, in the order of proprioception
    left: Track  # (N, 7) measured joints [rad] and gripper width [m]
    right: Track
    mistakes: Stamps = np.empty((0, 2), np.int64)  # from when to when [ns] what was done shall not be learned

    @property
    def end_ns(self) -> int:
        """The last instant at which both arms were measured and commanded."""
        return int(min(track.stamps_ns[-1] for track in (self.commands, self.left, self.right)))

    def proprioception(self, times_ns: Stamps) -> Float64:
        """Both arms as measured at ``times_ns`` (...,): (..., 14)."""
        return np.concatenate([self.left.at(times_ns), self.right.at(times_ns)], axis=-1)

    def imitable(self, begin_ns: int, end_ns: int) -> bool:
        """Whether all that was done in that time may be learned."""
        return not bool(((self.mistakes[:, 0] < end_ns) & (begin_ns < self.mistakes[:, 1])).any())

    def images(self, sight: Sight) -> dict[str, UInt8]:
        """The images (H, W, 3) of ``sight`` by camera."""
        return {camera: unpack(data) for camera, data in zip(self.cameras, sight.packed, strict=True)}


def read_episode(path: Path, cameras: Sequence[str], *, max_image_hz: float, thoughts: bool) -> Episode:
    """The demonstration at ``path``, of which at most ``max_image_hz`` sights a second are kept.

    Everything is aligned by its stamps; the order in which messages were received means nothing.

    Raises:
        RecordingError: It is incomplete, not a success, lacks a topic (``intent`` only if ``thoughts`` are wanted),
            has a value that is not finite, a stamp that goes backwards or a gap.
    """
    recording = Recording(path)
    if recording.ends_early:
        raise RecordingError(f"{path}: incomplete: {recording.ends_early}")
    outcome = recording.outcome.get("outcome", "")
    if outcome != "success":
        raise RecordingError(f"{path}: its outcome is {outcome!r}, not 'success'")
    streams = _Streams(path, ("task", "command", "arm/left", "arm/right", *(f"camera/{camera}" for camera in cameras)))
    wanted = (*streams.required, "intent")
    for recorded in recording.messages(wanted):
        streams.add(recorded.topic, recorded.message)
    streams.check(thoughts)
    leads_ns = _leads_ns(recording)
    lead_ns = max(leads_ns)
    commands = streams.commands(leads_ns)
    left, right = (streams.track(f"arm/{arm}") for arm in ARMS)
    begin_ns = max(int(track.stamps_ns[0]) for track in (commands, left, right))
    sights = [sight for sight in _sights(streams, cameras, max_image_hz, thoughts) if sight.observation_ns >= begin_ns]
    if not sights:
        raise RecordingError(f"{path}: no image was taken while both arms were commanded and a task was set")
    mistakes = np.concatenate([_mistakes(streams), _led(streams, lead_ns)])
    return Episode(path.stem, tuple(cameras), tuple(sights), commands, left, right, mistakes)


def unpack(data: bytes) -> UInt8:
    """The image file's pixels (H, W, 3); RecordingError if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordingError(f"an image of a demonstration cannot be read: {error}") from error


class _Streams:
    """The messages of each topic, with their stamps checked as they come."""

    def __init__(self, path: Path, required: tuple[str, ...]) -> None:
        self.path = path
        self.required = required
        self.stamps: dict[str, list[int]] = {}
        self.values: dict[str, list[object]] = {}
        self.followed: list[tuple[int, int, Source]] = []  # when commanded [ns], by which intent, and by whom

    def add(self, topic: str, message: Message) -> None:
        stamp_ns, value = _content(message)
        if isinstance(message, JointCommand):
            by = message.provenance
            self.followed.append((message.commanded_ns, by.intent_id, by.source))
        stamps = self.stamps.setdefault(topic, [])
        values = self.values.setdefault(topic, [])
        if stamps and stamp_ns < stamps[-1]:
            behind_s = (stamps[-1] - stamp_ns) / NS_PER_S
            raise RecordingError(f"{self.path}: {topic} goes back by {behind_s:.3f} s at {stamp_ns} ns")
        if stamps and stamp_ns == stamps[-1]:  # a device that had nothing newer; the last word counts
            values[-1] = value
            return
        stamps.append(stamp_ns)
        values.append(value)

    @property
    def intents(self) -> list[Intent]:
        """In the order of their observations."""
        return [intent for intent in self.values.get("intent", []) if isinstance(intent, Intent)]

    @property
    def taken_over(self) -> bool:
        """Whether a person took over."""
        return any(source is Source.TELEOP for _, _, source in self.followed)

    def check(self, thoughts: bool) -> None:
        """RecordingError for the first topic that is missing."""
        for topic in (*self.required, *(("intent",) if thoughts else ())):
            if not self.stamps.get(topic):
                raise RecordingError(f"{self.path}: it has no {topic}; {', '.join(self.required)} are needed")

    def commands(self, leads_ns: Sequence[int]) -> Track:
        """The commands (N, 14) by due time: each column was sent so much before it was due, ``leads_ns`` (14,)."""
        sent = self.track("command")
        lead_ns = max(leads_ns)
        due = Track(sent.stamps_ns + lead_ns, sent.values)
        quicker = [column for column, own_ns in enumerate(leads_ns) if own_ns != lead_ns]
        if not quicker:
            return due
        values = sent.values.copy()
        for column in quicker:
            values[:, column] = sent.at(due.stamps_ns - leads_ns[column])[:, column]
        return due._replace(values=values)

    def track(self, topic: str) -> Track:
        """A topic of numbers."""
        stamps = np.array(self.stamps[topic], np.int64)
        values = np.array(self.values[topic], np.float32)
        if len(stamps) < 2:
            raise RecordingError(f"{self.path}: {topic} has only one message")
        if not np.isfinite(values).all():
            raise RecordingError(f"{self.path}: {topic} has a value that is not finite")
        gap_s = float(np.diff(stamps).max()) / NS_PER_S
        if gap_s > MAX_GAP_S:
            raise RecordingError(f"{self.path}: {topic} has a gap of {gap_s:.2f} s; at most {MAX_GAP_S} s are bridged")
        return Track(stamps, values)


def _content(message: Message) -> tuple[int, object]:
    """The stamp of a message, and what is kept of it."""
    if isinstance(message, JointCommand):
        (left, right), (wide_left, wide_right) = message.position_rad.reshape(2, 6), message.gripper_width_m
        return message.commanded_ns, (*left, wide_left, *right, wide_right)
    if isinstance(message, ArmState):
        return message.measured_ns, (*message.position_rad, message.gripper_width_m)
    if isinstance(message, CompressedFrame):
        return message.exposure_ns, message.jpeg.tobytes()
    if isinstance(message, CameraFrame):
        return message.exposure_ns, _packed(message.rgb)
    if isinstance(message, Task):
        return message.issued_ns, message
    if isinstance(message, Intent):
        return message.observation_ns, message
    raise TypeError(f"{type(message).__name__} is not part of a demonstration")


def _packed(rgb: UInt8) -> bytes:
    """Pixels that were recorded raw, losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class _Arm(msgspec.Struct):
    """Of a recorded configuration, whatever else it has, what moves a command's stamp."""

    actuation_delay_s: float = 0.0
    gripper_delay_s: float = 0.0


class _Rig(msgspec.Struct):
    left: _Arm
    right: _Arm


class _Run(msgspec.Struct):
    rig: _Rig


def _leads_ns(recording: Recording) -> list[int]:
    """How long before it was due each column of a command was sent on that rig (see ``syvla.control.timeline``)."""
    try:
        rig = msgspec.json.decode(recording.attachments[CONFIG_ATTACHMENT], type=_Run).rig
    except KeyError:
        raise RecordingError(f"{recording.path}: it has no {CONFIG_ATTACHMENT}, which says the rig's delays") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RecordingError(f"{recording.path}: its {CONFIG_ATTACHMENT} cannot be read: {error}") from error
    return [
        to_ns(delay_s)
        for arm in (rig.left, rig.right)
        for delay_s in (*[arm.actuation_delay_s] * ARM_JOINTS, arm.gripper_delay_s)
    ]


def _sights(streams: _Streams, cameras: Sequence[str], max_hz: float, thoughts: bool) -> Iterator[Sight]:
    """The sights of an episode, thinned out to ``max_hz``, while a task is set and (if wanted) thought of."""
    stamps = [np.array(streams.stamps[f"camera/{camera}"], np.int64) for camera in cameras]
    files = [streams.values[f"camera/{camera}"] for camera in cameras]
    tasks = [task for task in streams.values["task"] if isinstance(task, Task)]
    intents, corrected = streams.intents, streams.taken_over
    learners = _of_learners(intents)
    next_ns = 0
    thoughts_at: dict[int, Thought] = {}
    for stamp in stamps[0]:
        if stamp < next_ns:
            continue
        chosen = [_nearest(s, int(stamp)) for s in stamps]
        seen_ns = [int(s[i]) for s, i in zip(stamps, chosen, strict=True)]
        observation_ns = min(seen_ns)
        if max(seen_ns) - observation_ns > to_ns(MAX_SKEW_S):
            continue
        task = next((t for t in reversed(tasks) if t.issued_ns <= observation_ns), None)
        if task is None or not task.instruction:
            continue
        intent = _newest(intents, task, observation_ns)
        if (intent is None and thoughts) or (intent is not None and intent.intent_id in learners):
            continue
        thought = None
        if intent is not None and not (corrected and intent.model_id != WAYPOINT_MODEL):
            thought = thoughts_at.setdefault(intent.observation_ns, _thought(intent))
        packed = tuple(cast(bytes, f[i]) for f, i in zip(files, chosen, strict=True))
        yield Sight(observation_ns, packed, task.instruction, thought)
        next_ns = int(stamp) + to_ns(0.99 / max_hz)  # a frame that is early by jitter is not skipped


def _mistakes(streams: _Streams) -> Stamps:
    """From each intent that goes wrong on purpose to the next one (M, 2)."""
    intents = streams.intents
    ends_ns = [*(intent.observation_ns for intent in intents[1:]), np.iinfo(np.int64).max]
    found = [
        (intent.observation_ns, end_ns)
        for intent, end_ns in zip(intents, ends_ns, strict=False)
        if _thought(intent).grounding.mistaken
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def _of_learners(intents: Sequence[Intent]) -> set[int]:
    """The intents of another policy that acted in turn with the demonstrator: not how it is done."""
    demonstrated = any(intent.model_id == WAYPOINT_MODEL for intent in intents)
    return {intent.intent_id for intent in intents if demonstrated and intent.model_id != WAYPOINT_MODEL}


def _led(streams: _Streams, lead_ns: int) -> Stamps:
    """From when to when the arms did what is not to be learned (M, 2), by the provenance of their commands.

    That is what a learner led in turn with a demonstrator; and where a person took over from a policy, all but what
    the person did, and a demonstrator.
    """
    intents, corrected = streams.intents, streams.taken_over
    learners = _of_learners(intents)
    shown = {intent.intent_id for intent in intents if intent.model_id == WAYPOINT_MODEL}
    found: list[tuple[int, int]] = []
    for commanded_ns, intent_id, source in streams.followed:
        by_other = corrected and source is not Source.TELEOP and intent_id not in shown
        if intent_id not in learners and not by_other:
            continue
        begin_ns, end_ns = commanded_ns + lead_ns, commanded_ns + lead_ns + to_ns(SETTLE_S)
        if found and begin_ns <= found[-1][1]:
            found[-1] = (found[-1][0], end_ns)
        else:
            found.append((begin_ns, end_ns))
    return np.array(found, np.int64).reshape(-1, 2)


def _nearest(stamps: Stamps, time_ns: int) -> int:
    return int(np.abs(stamps - time_ns).argmin())


def _newest(intents: Sequence[Intent], task: Task, observation_ns: int) -> Intent | None:
    """The intent for ``task`` made from the newest observation at or before ``observation_ns``."""
    return next(
        (i for i in reversed(intents) if i.observation_ns <= observation_ns and i.task_id == task.task_id), None
    )


def _thought(intent: Intent) -> Thought:
    states = intent.feature_query_states
    grounded = intent.model_id == WAYPOINT_MODEL and states.shape == WAYPOINT_SHAPE
    grounding = of_waypoints(states) if grounded else unknown()
    return Thought(intent.observation_ns, intent.chain_of_thought, grounding)
