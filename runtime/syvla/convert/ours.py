"""Our own recordings: an MCAP file as an episode, and episodes as MCAP files that report and training can read."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from syvla.clock import NS_PER_S
from syvla.convert.files import identity, safe_name
from syvla.convert.making import Made, WriteError
from syvla.convert.rows import Episode, Facts, Frame, Grid, Row, Stamped, aligned, jpeg, pixels
from syvla.errors import RecordingError
from syvla.message import Message
from syvla.messages import (
    CAMERAS,
    ArmState,
    CameraFrame,
    CompressedFrame,
    EpisodeControl,
    JointCommand,
    Task,
)
from syvla.protocols import Header
from syvla.recording.mcap_log import PARTIAL, McapLog
from syvla.recording.mcap_read import Recording
from syvla.transport.codec import encode_body

CONFIG_ATTACHMENT = "run.json"
CHUNK_BYTES = 2**20  # nothing is lost with this process, so chunks may be large; each costs memory for the index
UNKNOWN = "unknown"  # the outcome of an episode of which nobody says how it ended
_LOOK_S = 5.0  # a camera that has not begun by then is none of the episode's
_TAKEN = ("task", "command", "arm/left", "arm/right", *(f"camera/{camera}" for camera in CAMERAS))


class McapEpisode:
    """One of our recordings.

    Raises:
        RecordingError: It is none, or has no end.
    """

    def __init__(self, path: Path) -> None:
        self._recording = Recording(path)
        if self._recording.ends_early:
            raise RecordingError(f"{path}: incomplete: {self._recording.ends_early}")
        self.origin = identity(path)
        self.name = safe_name(path.name.removesuffix(".mcap"))
        self.fps: int | None = None

    @cached_property
    def facts(self) -> Facts:
        """Its cameras are those that begin in its first seconds."""
        recording = self._recording
        begin_ns, found = -1, set()
        for record in recording.records(_TAKEN):
            begin_ns = record.log_time_ns if begin_ns < 0 else begin_ns
            if record.log_time_ns - begin_ns > _LOOK_S * NS_PER_S:
                break
            found.add(record.topic)
        cameras = tuple(camera for camera in CAMERAS if f"camera/{camera}" in found)
        run = recording.attachments.get(CONFIG_ATTACHMENT, "")
        return Facts(cameras, recording.outcome.get("outcome", ""), run)

    def rows(self, grid: Grid) -> Iterator[Row]:
        """Rows laid over what was recorded."""
        return aligned(self.messages(grid), self.facts.cameras, grid, str(self._recording.path))

    def messages(self, grid: Grid) -> Iterator[Stamped]:
        """What a format can hold of it, in the order received."""
        for recorded in self._recording.messages(_TAKEN):
            yield Stamped(recorded.topic, stamp_ns(recorded.message), recorded.message)


def stamp_ns(message: Message) -> int:
    """A message's own stamp."""
    if isinstance(message, CameraFrame | CompressedFrame):
        return message.exposure_ns
    if isinstance(message, ArmState):
        return message.measured_ns
    if isinstance(message, JointCommand):
        return message.commanded_ns
    assert isinstance(message, Task)  # noqa: S101 - there is nothing else in _TAKEN
    return message.issued_ns


class _Seen(NamedTuple):
    """Of one topic: how many messages, and the first and last one's bytes."""

    messages: int
    first: bytes
    last: bytes


class McapWriter:
    """Makes recordings in ``folder``; images are JPEG of ``jpeg_quality``, or raw if that is 0.

    ``run`` is the configuration that a recording carries whose source has none.
    """

    unit = "messages"

    def __init__(self, folder: Path, jpeg_quality: int, run: str) -> None:
        self._folder = folder
        self._quality = jpeg_quality
        self._run = run

    def write(self, number: int, name: str, episode: Episode, grid: Grid, tick: Callable[[], None]) -> Made:
        """Make one recording and read it back."""
        path = self._folder / f"{name}.mcap"
        for left in (path, path.with_name(path.name + PARTIAL)):  # of a conversion that was cut short
            left.unlink(missing_ok=True)
        facts = episode.facts
        run = facts.run or self._run
        metadata = {
            "episode": name,
            "policy": UNKNOWN,
            "software": f"syvla {version('syvla')}",
            "converted_from": episode.origin,
            "images": f"jpeg {self._quality}" if self._quality else "raw",
        }
        with _writing(path):
            log = McapLog(path, metadata, {CONFIG_ATTACHMENT: run} if run else None, CHUNK_BYTES, flush_ns=NS_PER_S)
        seen: dict[str, _Seen] = {}
        last_ns = 0

        def put(topic: str, at_ns: int, message: Message) -> None:
            frames = encode_body(message)
            data = b"".join(frames)
            before = seen.get(topic)
            count = before.messages if before else 0
            with _writing(path):
                log.write(Header(topic, 0, count, at_ns, 0), type(message), frames, at_ns)
            seen[topic] = _Seen(count + 1, before.first if before else data, data)

        try:
            for topic, at_ns, message in episode.messages(grid):
                if not seen:
                    put("episode", at_ns, EpisodeControl(action="start", name=name, issued_ns=at_ns))
                put(
                    topic,
                    at_ns,
                    self._image(message) if isinstance(message, CameraFrame | CompressedFrame) else message,
                )
                last_ns = max(last_ns, at_ns)
                tick()
            if not seen:
                raise RecordingError(f"{episode.origin}: there is nothing in it")
            if facts.outcome in ("success", "failure"):
                put("episode", last_ns, EpisodeControl(action=facts.outcome, name=name, issued_ns=last_ns))  # type: ignore[arg-type]
            with _writing(path):
                log.close(
                    {"outcome": facts.outcome or UNKNOWN, "messages": str(log.messages), "ended_ns": str(last_ns)}
                )
            _check(path, seen)
        except BaseException:
            for half in (path, log.path):
                half.unlink(missing_ok=True)
            raise
        return Made(episode.origin, name, log.messages, facts.outcome)

    def finish(self, made: Callable[[], Iterator[Made]]) -> None:
        """There is nothing beside the recordings."""

    def _image(self, frame: Frame) -> Frame:
        return jpeg(frame, self._quality) if self._quality else frame


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Inside, what the disk refuses is a WriteError; what cannot be said in a recording is the episode's own fault."""
    try:
        yield
    except RecordingError as error:
        if isinstance(error.__cause__, OSError):
            raise WriteError(f"{path}: cannot be written: {error}") from error
        raise


def _check(path: Path, written: dict[str, _Seen]) -> None:
    """WriteError if other messages are read back than were written. An image is looked at first and last."""
    recording = Recording(path)
    read: dict[str, _Seen] = {}
    last: dict[str, Frame] = {}
    for recorded in recording.messages():
        topic = recorded.topic
        if isinstance(recorded.message, CompressedFrame | CameraFrame):
            last[topic] = recorded.message
            if topic not in read:
                pixels(recorded.message)
        if topic not in read:
            data = b"".join(encode_body(recorded.message))
            read[topic] = _Seen(0, data, data)
        before = read[topic]
        count = before.messages + 1
        ends = count == written[topic].messages if topic in written else True
        newest = b"".join(encode_body(recorded.message)) if ends else before.last
        read[topic] = _Seen(count, before.first, newest)
    for frame in last.values():
        pixels(frame)
    if recording.ends_early or read != written:
        topic = next((t for t in written if read.get(t) != written[t]), "")
        raise WriteError(f"{path}: was read back with other messages of {topic}")
