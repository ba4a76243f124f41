"""Judges cameras by what they send: one that sends nothing newer is lost, one that sends the same again is frozen."""

from collections.abc import Sequence

import numpy as np

from syvla.clock import to_ns, to_s
from syvla.config import CamerasConfig
from syvla.errors import ConfigError
from syvla.message import UInt8
from syvla.messages import CAMERAS, CameraFault, CameraFrame, CameraName

_STRIDE = 8  # every eighth pixel of every eighth row: a sensor's noise is everywhere


class CameraWatch:
    """The watched ``cameras`` of a rig, on simulated or real time.

    A picture is new when it was exposed later than any before and, if ``frozen_frames`` is not 0, when it differs from
    the one before. Age counts from the exposure, so that a camera whose pictures come too late is lost as well.
    """

    def __init__(self, cameras: Sequence[str], config: CamerasConfig) -> None:
        unknown = [camera for camera in cameras if camera not in CAMERAS]
        if unknown:
            raise ConfigError(f"no camera {unknown[0]!r}; there are {', '.join(CAMERAS)}")
        self._silent_ns = to_ns(config.silent_s)
        self._frozen_frames = config.frozen_frames
        self._seen: dict[CameraName, _Seen] = {camera: _Seen() for camera in CAMERAS if camera in cameras}

    def see(self, frame: CameraFrame) -> None:
        """Take in what a camera sent."""
        for camera, seen in self._seen.items():
            if camera == frame.camera and (seen.exposure_ns is None or frame.exposure_ns > seen.exposure_ns):
                seen.take(frame, self._frozen_frames > 0)

    def faults(self, now_ns: int) -> tuple[CameraFault, ...]:
        """What is wrong at ``now_ns``; a camera that has never sent anything is lost since the first call."""
        found: list[CameraFault] = []
        for camera, seen in self._seen.items():
            if seen.since_ns is None:
                seen.since_ns = now_ns
            newest_ns = seen.since_ns if seen.exposure_ns is None else seen.exposure_ns
            if seen.exposure_ns is None or now_ns - newest_ns > self._silent_ns:
                found.append(CameraFault(camera=camera, what="lost", for_s=to_s(now_ns - newest_ns)))
            elif 0 < self._frozen_frames <= seen.equal:
                found.append(CameraFault(camera=camera, what="frozen", for_s=to_s(now_ns - seen.since_ns)))
        return tuple(found)


class _Seen:
    """What one camera has sent."""

    def __init__(self) -> None:
        self.exposure_ns: int | None = None  # of the newest picture
        self.since_ns: int | None = None  # of the first of the equal pictures
        self.equal = 0  # pictures in a row that are the same
        self._pixels: UInt8 | None = None

    def take(self, frame: CameraFrame, compare: bool) -> None:
        self.exposure_ns = frame.exposure_ns
        pixels = frame.rgb[::_STRIDE, ::_STRIDE].copy() if compare else None
        if pixels is not None and self._pixels is not None and np.array_equal(pixels, self._pixels):
            self.equal += 1
            return
        self._pixels, self.equal, self.since_ns = pixels, 1, frame.exposure_ns
