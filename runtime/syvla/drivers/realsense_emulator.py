"""RealSense cameras without hardware: software devices of the vendor's SDK that send the pictures they are given."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyrealsense2 as rs

from syvla.config import CamerasConfig
from syvla.drivers.realsense import RealSenseCameras
from syvla.message import Array
from syvla.messages import CameraFrame
from syvla.protocols import CameraSource

FOCAL = 0.94  # of the width: a D435's colour camera
BYTES = {rs.format.rgb8: 3, rs.format.bgr8: 3, rs.format.yuyv: 2, rs.format.z16: 2}


class SoftwareCamera:
    """One device with a colour sensor and, if asked for, a depth sensor beside it.

    Its clock starts at the first picture; with a ``wall_offset_ns`` it stamps by the wall clock, as the SDK's global
    time does. A stamp is the end of an exposure of ``exposure_us``; 0 does not say.
    """

    def __init__(
        self,
        serial: str,
        config: CamerasConfig,
        colour: Any = rs.format.rgb8,
        exposure_us: int = 0,
        wall_offset_ns: int | None = None,
        depth_focal: float = FOCAL,
        baseline_m: float = 0.0,
    ) -> None:
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.name, "Emulated RealSense")
        self.device.register_info(rs.camera_info.serial_number, serial)
        self._exposure_us = exposure_us
        domains = rs.timestamp_domain
        self._domain = domains.hardware_clock if wall_offset_ns is None else domains.global_time
        self._start_ns = None if wall_offset_ns is None else -wall_offset_ns
        self._sent = 0
        self._colour = self._add("RGB Camera", rs.stream.color, colour, FOCAL, config)
        self._depth = None
        if config.depth:
            self._depth = self._add("Stereo Module", rs.stream.depth, rs.format.z16, depth_focal, config)
            self._depth[0].add_read_only_option(rs.option.depth_units, 0.001)
            colour_from_depth = rs.extrinsics()
            colour_from_depth.rotation = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
            colour_from_depth.translation = [baseline_m, 0.0, 0.0]
            self._depth[1].register_extrinsics_to(self._colour[1], colour_from_depth)

    def _add(self, name: str, stream: Any, form: Any, focal: float, config: CamerasConfig) -> tuple[Any, Any]:
        """A sensor and the profile of its one stream."""
        lens = rs.intrinsics()
        lens.width, lens.height, lens.model, lens.coeffs = config.width, config.height, rs.distortion.none, [0.0] * 5
        lens.fx = lens.fy = focal * config.width
        lens.ppx, lens.ppy = config.width / 2, config.height / 2
        video = rs.video_stream()
        video.type, video.fmt, video.bpp, video.index = stream, form, BYTES[form], 0
        video.uid = 1 if stream == rs.stream.color else 2
        video.width, video.height, video.fps, video.intrinsics = (
            config.width,
            config.height,
            round(config.rate_hz),
            lens,
        )
        sensor = self.device.add_sensor(name)
        return sensor, sensor.add_video_stream(video, True).as_video_stream_profile()

    def send(self, pixels: Array, exposure_ns: int, depth_mm: Array | None = None) -> None:
        """Send one picture in the colour stream's format, exposed in the middle at ``exposure_ns``, and its depth."""
        if self._start_ns is None:
            self._start_ns = exposure_ns
        stamp_ms = (exposure_ns - self._start_ns) / 1e6 + self._exposure_us / 2e3
        if depth_mm is not None and self._depth is not None:
            self._deliver(*self._depth, depth_mm, stamp_ms)
        if self._exposure_us:
            self._colour[0].set_metadata(rs.frame_metadata_value.actual_exposure, self._exposure_us)
        self._deliver(*self._colour, pixels, stamp_ms)
        self._sent += 1

    def _deliver(self, sensor: Any, profile: Any, pixels: Array, stamp_ms: float) -> None:
        frame = rs.software_video_frame()  # the SDK owns it from now on: a second use would free it twice
        frame.pixels = np.ascontiguousarray(pixels)
        frame.bpp = BYTES[profile.format()]
        frame.stride = frame.bpp * profile.width()
        frame.timestamp, frame.domain = stamp_ms, self._domain
        frame.frame_number, frame.profile = self._sent, profile
        sensor.on_video_frame(frame)


class RealSenseEmulator:
    """The devices of a rig's cameras; ``config.serials`` are theirs, and those that were missing are made up."""

    def __init__(self, cameras: Sequence[str], config: CamerasConfig) -> None:
        self._config = config
        self.serials = {camera: config.serials.get(camera, f"emulated-{camera}") for camera in cameras}
        self._plugged: dict[str, SoftwareCamera] = {}
        for camera in cameras:
            self.plug(camera)

    def plug(self, camera: str) -> None:
        """Connect ``camera``, newly switched on."""
        self._plugged[camera] = SoftwareCamera(self.serials[camera], self._config)

    def unplug(self, camera: str) -> None:
        """Disconnect ``camera``; it sends nothing more."""
        del self._plugged[camera]

    def connected(self) -> list[Any]:
        """The SDK's devices that are connected now."""
        return [camera.device for camera in self._plugged.values()]

    def send(self, frame: CameraFrame) -> None:
        """Let the frame's camera send it, if it is connected."""
        camera = self._plugged.get(frame.camera)
        if camera is not None:
            camera.send(frame.rgb, frame.exposure_ns, frame.depth_mm)


class EmulatedCameras:
    """A CameraSource: what ``pictures`` shows, as the vendor's SDK and its driver deliver it."""

    def __init__(self, pictures: CameraSource, emulator: RealSenseEmulator, driver: RealSenseCameras) -> None:
        self._pictures = pictures
        self._emulator = emulator
        self._driver = driver

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        """The newest frame of each camera."""
        for frame in self._pictures.read(now_ns):
            self._emulator.send(frame)
        return self._driver.read(now_ns)

    def close(self) -> None:
        """Stop the cameras and what they see."""
        self._driver.close()
        self._pictures.close()
