"""A good recording to put one fault into: three seconds of a golden episode, with pictures of three cameras."""

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from syvla import messages as m
from syvla.check.episode import check_episode
from syvla.check.finding import EpisodeCheck, Finding, Severity
from syvla.config import RunConfig
from syvla.message import Message
from syvla.protocols import Header
from syvla.recording.images import compress
from syvla.recording.mcap_log import McapLog
from syvla.recording.mcap_read import Recording
from syvla.topics import CAMERAS
from syvla.transport.codec import encode_body

GOLDEN = Path(__file__).parents[1] / "replay" / "golden"
MS = 1_000_000
LENGTH_NS = 3_000 * MS
MID_NS = LENGTH_NS // 2
FRAME_NS = 66_666_667
EXPOSED_NS = 4 * MS  # before it is sent


class Told(NamedTuple):
    """One message and when it was recorded."""

    header: Header
    message: Message
    log_ns: int

    @property
    def topic(self) -> str:
        return self.header.topic

    def but(self, **fields: Any) -> "Told":
        """The same with other fields."""
        return self._replace(message=msgspec.structs.replace(self.message, **fields))


Fault = Callable[[Told], Told | None]


def picture(camera: str, number: int, stamp_ns: int) -> m.CompressedFrame:
    """A stripe that wanders."""
    rgb = np.full((48, 64, 3), 60 + 20 * CAMERAS.index(camera), np.uint8)
    rgb[:, (number * 3) % 56 : (number * 3) % 56 + 8] = 200
    return compress(m.CameraFrame(camera=camera, frame_id=number, exposure_ns=stamp_ns, rgb=rgb), 90)


@functools.cache
def good() -> tuple[Told, ...]:
    """What is recorded, in order."""
    recording = Recording(GOLDEN / "policy.mcap")
    told = [Told(r.header, r.message, r.log_time_ns) for r in recording if r.log_time_ns < LENGTH_NS]
    for camera in CAMERAS:
        for number, at_ns in enumerate(range(10 * MS, LENGTH_NS, FRAME_NS)):
            header = Header(f"camera/{camera}", 0, number, at_ns, 0)
            told.append(Told(header, picture(camera, number, at_ns - EXPOSED_NS), at_ns))
    return tuple(sorted(told, key=lambda each: each.log_ns))


def configured(**cameras: Any) -> str:
    """The golden run's configuration, with other settings of its cameras."""
    run = msgspec.json.decode(Recording(GOLDEN / "policy.mcap").attachments["run.json"], type=RunConfig)
    rig = msgspec.structs.replace(run.rig, cameras=msgspec.structs.replace(run.rig.cameras, **cameras))
    return msgspec.json.encode(msgspec.structs.replace(run, rig=rig)).decode()


def numbered(told: Iterable[Told]) -> Iterator[Told]:
    """As if those that are missing had never been sent."""
    numbers: dict[tuple[str, int], int] = {}
    for each in told:
        key = (each.topic, each.header.epoch)
        numbers[key] = numbers.get(key, -1) + 1
        yield each._replace(header=each.header._replace(sequence=numbers[key]))


def changed(fault: Fault, *topics: str) -> list[Told]:
    """The good episode with the fault put into the messages of these topics (all if none is named); None drops one."""
    found = (fault(each) if not topics or each.topic in topics else each for each in good())
    return [each for each in found if each is not None]


def write(path: Path, told: Iterable[Told], configuration: str | None = None, outcome: str = "success") -> Path:
    """Record it."""
    texts = {"run.json": configured() if configuration is None else configuration}
    log = McapLog(path, {"rig": "twin"}, texts)
    for each in told:
        frames = encode_body(each.message)
        log.write(each.header, type(each.message), frames, each.log_ns)
    return log.close({"outcome": outcome})


def checked(folder: Path, told: Iterable[Told], configuration: str | None = None) -> EpisodeCheck:
    return check_episode(write(folder / "episode.mcap", told, configuration))


def only(result: EpisodeCheck, name: str, where: str, severity: Severity = Severity.ERROR) -> Finding:
    """The one finding there is."""
    assert [(f.name, f.where) for f in result.findings] == [(name, where)]
    finding = result.findings[0]
    assert finding.severity is severity
    assert finding.seen
    assert finding.fix
    return finding


def late(told: Told, from_ns: int = MID_NS) -> bool:
    return told.log_ns >= from_ns


def moved_stamp(by_ns: int, field: str, from_ns: int, to_ns: int, topic: str) -> list[Told]:
    def fault(told: Told) -> Told:
        hit = from_ns <= told.log_ns < to_ns
        return told.but(**{field: getattr(told.message, field) + by_ns}) if hit else told

    return changed(fault, topic)
