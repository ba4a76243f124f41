"""Do the cameras show what happens, together: frozen, missing, unreadable and desynchronised pictures."""

import zlib
from collections.abc import Iterator

import numpy as np

from syvla.check.finding import Finding, Severity, Span, Tally
from syvla.clock import NS_PER_S, to_ns, to_s
from syvla.config import CamerasConfig, RunConfig
from syvla.errors import RecordingError
from syvla.message import Float64
from syvla.messages import ARMS, CAMERAS, ArmState, CameraFrame, CompressedFrame
from syvla.plain import plain
from syvla.recording.images import check_compressed, decompress
from syvla.recording.mcap_read import Recorded

FROZEN_FRAMES = 3  # two may be one that was delivered twice
# An arm that moved so far is elsewhere in the picture; less may happen between a picture's exposure and its arrival.
FROZEN_MOVED_RAD = 0.15
SKEW_PERIODS = 2  # cameras that run freely are up to one period apart
SKEW_FRAMES = 10  # in a row: what is late once was only under way longer
DECODE_NS = NS_PER_S  # so often a picture is decoded to the last pixel; of every one head and end are looked at
_SEES = {"cam_high": (0, 1), "cam_left_wrist": (0,), "cam_right_wrist": (1,)}  # which arms move its picture


class _Camera:
    """One camera's newest picture, and how long it has been the same."""

    def __init__(self, name: str, config: CamerasConfig | None, converted: bool) -> None:
        self.name = name
        # what the rig file says a camera is late by is in its stamps, and known
        self.delay_ns = to_ns(config.delay_s.get(name, 0.0)) if config is not None else 0
        self.stamp_ns, self.sent_ns = 0, 0
        self.apart = 0  # pictures in a row that are too far from the others'
        self.frozen, self.skewed, self.unreadable = Tally(), Tally(), Tally()
        self.why_unreadable = ""
        # rows of another format repeat a picture until the next
        self._most = config.frozen_frames if config is not None and not converted else 0
        self._digest = -1
        self._since_ns, self._equal = 0, 0
        self._moved_rad = 0.0
        self._told = False
        self._pose_then = self._pose_before = np.zeros(0)
        self._decoded_ns: int | None = None  # when a picture was last decoded that could be
        self._broken = False

    def see(self, frame: CameraFrame | CompressedFrame, at_ns: int, pose: Float64) -> None:
        """Take in a picture; ``pose`` are the joints of the arms that move it, as they are now."""
        digest = _digest(frame)
        if digest != self._digest:
            self._digest, self._since_ns, self._equal, self._moved_rad, self._told = digest, at_ns, 1, 0.0, False
            self._pose_then = self._pose_before = pose
            self._decode(frame, at_ns)
            return
        if self._broken:
            self.unreadable.add(at_ns)
        self._equal += 1  # up to the picture before, the arms moved before this one was taken
        self._moved_rad = max(self._moved_rad, _farthest(self._pose_before, self._pose_then))
        self._pose_before = pose
        moved = self._equal >= FROZEN_FRAMES and self._moved_rad > FROZEN_MOVED_RAD
        if moved or 0 < self._most <= self._equal:
            for_s = to_s(at_ns - self._since_ns)
            self.frozen.add(self._since_ns, for_s, count=0 if self._told else 1)
            self._told = True

    def _decode(self, frame: CameraFrame | CompressedFrame, at_ns: int) -> None:
        if isinstance(frame, CameraFrame):
            return
        try:
            check_compressed(frame)
            if self._decoded_ns is None or at_ns >= self._decoded_ns + DECODE_NS:
                decompress(frame)
                self._decoded_ns = at_ns
            self._broken = False
        except RecordingError as error:
            self._broken = True
            self.why_unreadable = self.why_unreadable or plain(str(error))
            self.unreadable.add(at_ns)


class ImagesRule:
    """All cameras of an episode."""

    def __init__(self, run: RunConfig | None, converted: bool = False) -> None:
        self._run, self._converted = run, converted
        self._config = run.rig.cameras if run is not None else None
        self._cameras: dict[str, _Camera] = {}
        self._pose = [np.zeros(0), np.zeros(0)]
        rate_hz = self._config.rate_hz if self._config is not None else 30.0
        self._apart_ns = to_ns(SKEW_PERIODS / rate_hz)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those that there are pictures of."""
        return tuple(camera for camera in CAMERAS if camera in self._cameras)

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        message = recorded.message
        if isinstance(message, ArmState):
            self._pose[ARMS.index(message.arm)] = message.position_rad
        elif isinstance(message, CameraFrame | CompressedFrame):
            name = recorded.topic.removeprefix("camera/")
            camera = self._cameras.get(name)
            if camera is None:
                camera = self._cameras[name] = _Camera(name, self._config, self._converted)
            camera.see(message, recorded.log_time_ns, np.concatenate([self._pose[arm] for arm in _SEES[name]]))
            camera.stamp_ns, camera.sent_ns = message.exposure_ns + camera.delay_ns, recorded.header.sent_ns
            self._compare(camera, recorded.log_time_ns)

    def findings(self, span: Span) -> Iterator[Finding]:
        """What is wrong with each camera."""
        error = Severity.ERROR
        if self._run is not None and self._run.rig.kind != "twin":  # a twin draws what is asked for
            for name in CAMERAS:
                if name not in self._cameras:
                    yield Finding(
                        name="camera.missing", severity=error, where=name, seen="there is no picture of it",
                        fix="syvla find-cameras says what is connected; the rig file which is which",
                    )  # fmt: skip
        for camera in self._cameras.values():
            yield from camera.frozen.told(
                span, error, "camera.frozen", camera.name,
                f"the same picture for up to {camera.frozen.worst:.2f} s while time and arms went on",
                "leave the episode out; plug the camera in anew",
            )  # fmt: skip
            yield from camera.skewed.told(
                span, error, "camera.desynchronised", camera.name,
                f"its pictures are up to {camera.skewed.worst:.3f} s apart from what the others show at the time",
                "measure the cameras' delays and put them into the rig file (cameras.delay_s)",
            )  # fmt: skip
            yield from camera.unreadable.told(
                span, error, "camera.unreadable", camera.name, camera.why_unreadable, "leave the episode out",
            )  # fmt: skip

    def _compare(self, newest: _Camera, at_ns: int) -> None:
        """The newest pictures of all cameras that still send: a policy would look at these together."""
        others = [
            camera.stamp_ns
            for camera in self._cameras.values()
            if camera is not newest and newest.sent_ns - camera.sent_ns <= self._apart_ns
        ]
        if not others:
            return
        apart_ns = abs(newest.stamp_ns - sorted(others)[len(others) // 2])
        newest.apart = newest.apart + 1 if apart_ns > self._apart_ns else 0
        if newest.apart >= SKEW_FRAMES:
            newest.skewed.add(at_ns, to_s(apart_ns))


def _digest(frame: CameraFrame | CompressedFrame) -> int:
    """Of what is seen; the recorder's JPEGs of equal pixels are equal."""
    pixels = frame.rgb if isinstance(frame, CameraFrame) else frame.jpeg
    return zlib.crc32(np.ascontiguousarray(pixels).data.cast("B"))


def _farthest(a: Float64, b: Float64) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape and a.size else 0.0
