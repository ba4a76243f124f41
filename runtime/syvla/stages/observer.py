"""Where a planner's observations come from: made here of the newest senses, or delivered from another machine."""

import logging
from collections.abc import Sequence
from typing import Protocol

from syvla.clock import to_ns
from syvla.control.observation import observe
from syvla.errors import RecordingError
from syvla.messages import ArmState, CameraFrame, CompressedObservation, Observation
from syvla.protocols import Inbox
from syvla.recording.images import compress, decompress
from syvla.topics import topic

_log = logging.getLogger(__name__)


class Senses(Protocol):
    """What a planner looks through."""

    reads: tuple[str, ...]
    wakes: tuple[str, ...]  # those of them that bring a new observation about

    def observation(self, now_ns: int, inbox: Inbox) -> Observation | None:
        """The newest one that may be thought about at ``now_ns``."""
        ...


class Observer:
    """Aligns the newest feedback of both arms and the newest frame of each camera.

    There is no observation while one is missing or stale by this machine's clock, which stamped them.

    Args:
        cameras: names of the cameras; none on a twin without cameras.
    """

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = tuple(topic(f"camera/{camera}") for camera in cameras)
        names = tuple(row.name for row in self._cameras)
        self.reads: tuple[str, ...] = ("arm/left", "arm/right", *names)
        self.wakes: tuple[str, ...] = (*(names or ("arm/left", "arm/right")), "task")

    def observation(self, now_ns: int, inbox: Inbox) -> Observation | None:
        """The newest senses, or None if one is missing or stale."""
        left, right = inbox.get("arm/left"), inbox.get("arm/right")
        if not isinstance(left, ArmState) or not isinstance(right, ArmState):
            return None
        oldest_ns = now_ns - to_ns(topic("arm/left").stale_after_s or 0.0)
        if min(left.measured_ns, right.measured_ns) < oldest_ns:
            return None
        frames: list[CameraFrame] = []
        for row in self._cameras:
            frame = inbox.get(row.name)
            if not isinstance(frame, CameraFrame) or frame.exposure_ns < now_ns - to_ns(row.stale_after_s or 0.0):
                return None
            frames.append(frame)
        return observe(left, right, frames)


class Delivered:
    """Observations from the robot's machine, each looked at once. Its stamps mean nothing to this machine's clock.

    Args:
        cameras: what the planner cannot do without; an observation that lacks one is refused.
    """

    reads: tuple[str, ...] = ("observation", "observation/jpeg")
    wakes: tuple[str, ...] = reads

    def __init__(self, cameras: Sequence[str]) -> None:
        self._cameras = frozenset(cameras)

    def observation(self, now_ns: int, inbox: Inbox) -> Observation | None:
        """The one that came since the last step, with its pixels; None if none did."""
        for received in reversed(inbox.fresh):
            message = received.message
            if not isinstance(message, Observation | CompressedObservation):
                continue
            missing = self._cameras.difference(frame.camera for frame in message.frames)
            if missing:
                _log.warning("an observation was refused: it lacks %s", ", ".join(sorted(missing)))
                return None
            if isinstance(message, Observation):
                return message
            try:
                return unpacked(message)
            except RecordingError as error:
                _log.warning("an observation was refused: %s", error)
                return None
        return None


def packed(observation: Observation, quality: int) -> CompressedObservation:
    """The observation with its images as JPEG of ``quality`` (1..95)."""
    return CompressedObservation(
        observation_ns=observation.observation_ns,
        proprioception=observation.proprioception,
        frames=tuple(compress(frame, quality) for frame in observation.frames),
        source_age_s=observation.source_age_s,
    )


def unpacked(small: CompressedObservation) -> Observation:
    """The observation with its pixels again, decoded as a recording's are; RecordingError for a bad JPEG."""
    return Observation(
        observation_ns=small.observation_ns,
        proprioception=small.proprioception,
        frames=tuple(decompress(frame) for frame in small.frames),
        source_age_s=small.source_age_s,
    )
