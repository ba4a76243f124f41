"""Our own recordings: an MCAP file as an episode, and episodes as MCAP files that report and training can read."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from syvla.clock import NS_PER_S
from syvla.convert.files import identity, safe_name
from syvla.convert.making import Made, WriteError
from syvla.convert.rows import Episode, Facts, Frame, Grid, Row, Stamped, aligned, begun_topics, jpeg, pixels
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
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recording, unpacked
from syvla.transport.codec import encode_body, unpack_record
from syvla.transport.wire import Buffer

CHUNK_BYTES = 2**20  # nothing is lost with this process, so chunks may be large; each costs memory for the index
UNKNOWN = "unknown"  # the outcome of an episode of which nobody says how it ended
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
        found = begun_topics((record.topic, record.log_time_ns) for record in recording.records(_TAKEN))
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


class _Seen:
    """Of one topic: how many messages there were, and the digest of their times and bytes."""

    def __init__(self) -> None:
        self.messages = 0
        self._digest = hashlib.sha256()

    def add(self, at_ns: int, frames: Iterable[Buffer]) -> None:
        """The next message."""
        self.messages += 1
        self._digest.update(at_ns.to_bytes(8, "little"))
        for frame in frames:
            self._digest.update(frame)

    def told(self) -> tuple[int, str]:
        """What two must have in common to be the same."""
        return self.messages, self._digest.hexdigest()


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
            so_far = seen.setdefault(topic, _Seen())
            with _writing(path):
                log.write(Header(topic, 0, so_far.messages, at_ns, 0), type(message), frames, at_ns)
            so_far.add(at_ns, frames)

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
    """WriteError if other messages are read back than were written. The first and last image of each is decoded."""
    recording = Recording(path)
    read: dict[str, _Seen] = {}
    last: dict[str, Frame] = {}
    for raw in recording.records():
        message = unpacked(raw).message
        if isinstance(message, CompressedFrame | CameraFrame):
            last[raw.topic] = message
            if raw.topic not in read:
                pixels(message)
        read.setdefault(raw.topic, _Seen()).add(raw.log_time_ns, unpack_record(raw.data)[1:])
    for frame in last.values():
        pixels(frame)
    topics = sorted(written.keys() | read.keys())
    different = [t for t in topics if t not in written or t not in read or written[t].told() != read[t].told()]
    if recording.ends_early or different:
        raise WriteError(f"{path}: was read back with other messages of {', '.join(different)}")
