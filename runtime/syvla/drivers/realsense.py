"""RealSense cameras through the vendor's sensor API, each bound by its serial number.

A sensor delivers into a queue of its own, the same for a camera on USB, a software device and the playback of a
recording; the SDK's threads fill it and ``read`` empties it. The SDK's pipeline is not used: it sees no software
device.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import pyrealsense2 as rs

from syvla.clock import wall_offset_ns
from syvla.config import CamerasConfig
from syvla.drivers.device_clock import DeviceClock
from syvla.drivers.realsense_depth import DepthAligner
from syvla.errors import ConfigError, DriverError
from syvla.message import UInt8
from syvla.messages import CAMERAS, CameraFrame

COLOUR_FORMATS = (rs.format.rgb8, rs.format.bgr8, rs.format.yuyv)  # best first
ON_WALL_CLOCK = (rs.timestamp_domain.global_time, rs.timestamp_domain.system_time)
BELIEVED_AGE_NS = 200_000_000  # a stamp on the wall clock that makes a frame older, or of the future, is not believed
MAX_EXPOSURE_US = 200_000
SEARCH_AFTER_NS = 1_000_000_000  # of silence: is the camera still there?
SEARCH_PERIOD_NS = 2_000_000_000  # looking takes the SDK a while, in which nothing is read
_log = logging.getLogger(__name__)

Devices = Callable[[], Sequence[Any]]


def usb_devices() -> Devices:
    """What finds the cameras that are connected now."""
    context = rs.context()
    return lambda: list(context.query_devices())


class RealSenseCameras:
    """The cameras of a rig; a :class:`~syvla.protocols.CameraSource`. One thread owns an instance.

    A camera that was unplugged is opened again when it is back. Nothing is said here of silence: whoever reads judges.

    Args:
        config: ``serials`` says which cameras there are; size, rate and depth hold for all.
        connected: finds the devices that are connected: :func:`usb_devices`, an emulator's or a recording's.
        wall_offset: the wall clock minus the monotonic one, now; for cameras that stamp by the wall clock.
    """

    def __init__(
        self, config: CamerasConfig, connected: Devices, wall_offset: Callable[[], int] = wall_offset_ns
    ) -> None:
        self._connected = connected
        self._cameras = [
            _Camera(name, config.serials[name], config, wall_offset) for name in CAMERAS if name in config.serials
        ]
        self._searched_ns = 0

    def open(self) -> None:
        """Start every camera.

        Raises:
            ConfigError: the rig names no serial number; those connected are listed.
            DriverError: a camera is not connected, or cannot send what the rig asks for.
        """
        found = self._found()
        if not self._cameras:
            raise ConfigError(
                f"cameras.serials is empty; give {', '.join(CAMERAS)} the serial numbers of their cameras: "
                f"{_words(found)}"
            )
        try:
            for camera in self._cameras:
                if camera.serial not in found:
                    raise DriverError(f"{camera.words} is not connected: {_words(found)}")
                camera.start(found[camera.serial])
        except DriverError:
            self.close()
            raise

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        """The newest frame of each camera that has a new one."""
        frames = [frame for camera in self._cameras if (frame := camera.read(now_ns)) is not None]
        if now_ns - self._searched_ns >= SEARCH_PERIOD_NS:
            silent = [camera for camera in self._cameras if now_ns - camera.heard_ns >= SEARCH_AFTER_NS]
            if silent:
                self._searched_ns = now_ns
                self._search(silent)
        return frames

    def close(self) -> None:
        """Stop every camera."""
        for camera in self._cameras:
            camera.stop()

    @property
    def refused(self) -> int:
        """Frames that were not what the camera was asked for."""
        return sum(camera.refused for camera in self._cameras)

    def _found(self) -> dict[str, Any]:
        try:
            return _by_serial(self._connected())
        except RuntimeError as error:
            raise DriverError(f"looking for cameras: {error}") from error

    def _search(self, silent: Sequence["_Camera"]) -> None:
        """Open those again that went away and came back."""
        try:
            found = self._found()
            for camera in silent:
                if camera.serial not in found or not camera.connected:
                    camera.stop()
                if camera.serial in found and not camera.started:
                    camera.start(found[camera.serial])
                    _log.warning("%s is back", camera.words)
        except (RuntimeError, DriverError) as error:  # it may go away again while it is looked at
            _log.warning("looking for %s: %s", ", ".join(camera.words for camera in silent), error)


class _Camera:
    """One camera: its streams, and its clock."""

    def __init__(self, name: str, serial: str, config: CamerasConfig, wall_offset: Callable[[], int]) -> None:
        self.name, self.serial = name, serial
        self.words = f"{name} (serial number {serial})"
        self.refused = 0
        self.heard_ns = 0
        self._config = config
        self._wall_offset = wall_offset
        self._clock = DeviceClock()
        self._device: Any = None
        self._sensors: list[Any] = []
        self._queues: list[Any] = []
        self._colour: _Colour | None = None  # waits for its depth
        self._depths: deque[Any] = deque(maxlen=4)
        self._decoder = rs.yuy_decoder()
        self._aligner = DepthAligner() if config.depth else None

    @property
    def started(self) -> bool:
        return self._device is not None

    @property
    def connected(self) -> bool:
        return self._device is not None and bool(self._device.is_connected())

    def start(self, device: Any) -> None:
        """Open the streams. DriverError says what the camera has instead, or what the SDK said."""
        try:
            self._start(device)
        except RuntimeError as error:
            self.stop()
            raise DriverError(f"{self.words}: {error}") from error

    def _start(self, device: Any) -> None:
        sensors = device.query_sensors()
        chosen = [self._choose(sensors, rs.stream.color, COLOUR_FORMATS)]
        if self._aligner is not None:
            chosen.append(self._choose(sensors, rs.stream.depth, (rs.format.z16,)))
        self._device = device
        for sensor in dict.fromkeys(i for i, _ in chosen):  # one sensor may have both
            profiles = [profile for i, profile in chosen if i == sensor]
            queue = rs.frame_queue(2 * len(profiles))  # full, it drops the oldest
            sensors[sensor].open(profiles)
            self._sensors.append(sensors[sensor])
            self._queues.append(queue)
            sensors[sensor].start(queue)
        _log.info("%s is a %s", self.words, _info(device, rs.camera_info.name))

    def _choose(self, sensors: Sequence[Any], stream: Any, formats: Sequence[Any]) -> tuple[int, Any]:
        config = self._config
        offers = [
            (i, profile)
            for i, sensor in enumerate(sensors)
            for profile in sensor.get_stream_profiles()
            if profile.stream_type() == stream and profile.format() in formats
        ]
        asked = (config.width, config.height, round(config.rate_hz))
        fitting = [(i, profile) for i, profile in offers if _size_and_rate(profile) == asked]
        if not fitting:
            has = sorted({"{}x{} at {} Hz".format(*_size_and_rate(profile)) for _, profile in offers})
            raise DriverError(
                f"{self.words} has no {stream.name} stream of {asked[0]}x{asked[1]} at {asked[2]} Hz; "
                f"it has {', '.join(has) or 'none'}"
            )
        return min(fitting, key=lambda offer: formats.index(offer[1].format()))

    def stop(self) -> None:
        """Close the streams; a camera that is gone may refuse, and is gone all the same."""
        for sensor in self._sensors:
            for end in (sensor.stop, sensor.close):
                with contextlib.suppress(RuntimeError):
                    end()
        self._device = None
        self._sensors.clear()
        self._queues.clear()
        self._depths.clear()
        self._colour = None

    def read(self, now_ns: int) -> CameraFrame | None:
        """The newest picture since the last call; with depth, once that is there as well."""
        if self.heard_ns == 0:
            self.heard_ns = now_ns
        overtaken: _Colour | None = None
        for frame in self._drain():
            if frame.get_profile().stream_type() == rs.stream.depth:
                self._depths.append(frame)
                continue
            colour = self._check(frame, now_ns)
            if colour is not None:
                self.heard_ns = now_ns
                overtaken, self._colour = self._colour, colour
        newest = self._colour
        if newest is None:
            return None
        depth = self._depth_of(newest)
        if self._aligner is None or depth is not None:
            self._colour = None
            return self._picture(newest, depth)
        return None if overtaken is None else self._picture(overtaken, None)  # its depth did not come in time

    def _drain(self) -> Iterator[Any]:
        for queue in self._queues:
            while frame := queue.poll_for_frame():
                yield from frame.as_frameset() if frame.is_frameset() else (frame,)

    def _check(self, frame: Any, now_ns: int) -> "_Colour | None":
        """A colour frame with its stamp, if it is what was asked for."""
        frame = frame.as_video_frame()
        size = (frame.get_width(), frame.get_height())
        stamp_ms = frame.get_timestamp()
        if size != (self._config.width, self._config.height) or not isfinite(stamp_ms) or stamp_ms < 0.0:
            self.refused += 1
            if self.refused == 1:
                _log.warning("%s sent %dx%d at %s ms", self.words, *size, stamp_ms)
            return None
        return _Colour(frame, stamp_ms, self._exposure_ns(frame, round(stamp_ms * 1e6), now_ns))

    def _exposure_ns(self, frame: Any, stamp_ns: int, now_ns: int) -> int:
        """The middle of the exposure; a frame is stamped at its end.

        By its own clock, a camera's stamp says when it was to within the least time that a frame takes to come. On the
        wall clock the SDK has done better, unless somebody has just set it.
        """
        at_ns = self._clock.host_ns(stamp_ns, now_ns)
        if frame.get_frame_timestamp_domain() in ON_WALL_CLOCK:
            told_ns = stamp_ns - self._wall_offset()
            if 0 <= now_ns - told_ns <= BELIEVED_AGE_NS:
                at_ns = told_ns
        exposure_us = 0
        if frame.supports_frame_metadata(rs.frame_metadata_value.actual_exposure):
            exposure_us = frame.get_frame_metadata(rs.frame_metadata_value.actual_exposure)
        return at_ns - (exposure_us * 500 if 0 < exposure_us <= MAX_EXPOSURE_US else 0)

    def _depth_of(self, colour: "_Colour") -> Any:
        """The depth frame of the same instant; both streams are stamped by one clock."""
        near_ms = 500.0 / self._config.rate_hz
        near = [frame for frame in self._depths if abs(frame.get_timestamp() - colour.stamp_ms) < near_ms]
        return min(near, key=lambda frame: abs(frame.get_timestamp() - colour.stamp_ms), default=None)

    def _picture(self, colour: "_Colour", depth: Any) -> CameraFrame:
        return CameraFrame(
            camera=self.name,
            frame_id=colour.frame.get_frame_number(),
            exposure_ns=colour.exposure_ns,
            rgb=self._rgb(colour.frame),
            depth_mm=None if depth is None or self._aligner is None else self._aligner.align(colour.frame, depth),
        )

    def _rgb(self, frame: Any) -> UInt8:
        """A copy: the SDK has few buffers and wants them back."""
        form = frame.get_profile().format()
        if form == rs.format.yuyv:
            frame = self._decoder.process(frame).as_video_frame()
        pixels = np.asanyarray(frame.get_data())
        return np.array(pixels[..., ::-1] if form == rs.format.bgr8 else pixels, order="C")


class _Colour(NamedTuple):
    """A colour frame that was found well."""

    frame: Any
    stamp_ms: float
    exposure_ns: int


def _by_serial(devices: Sequence[Any]) -> dict[str, Any]:
    """The devices that have serial numbers, by them. DriverError where two have the same."""
    found: dict[str, Any] = {}
    for device in devices:
        if not device.supports(rs.camera_info.serial_number):
            continue
        serial = device.get_info(rs.camera_info.serial_number)
        if serial in found:
            raise DriverError(f"two cameras with serial number {serial}: which is which cannot be told")
        found[serial] = device
    return found


def _words(found: Mapping[str, Any]) -> str:
    listed = [f"{serial} ({_info(device, rs.camera_info.name)})" for serial, device in sorted(found.items())]
    return f"connected are {', '.join(listed)}" if listed else "none is connected"


def _info(device: Any, what: Any) -> str:
    return str(device.get_info(what)) if device.supports(what) else "unknown"


def _size_and_rate(profile: Any) -> tuple[int, int, int]:
    video = profile.as_video_stream_profile()
    return video.width(), video.height(), video.fps()
