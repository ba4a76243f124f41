"""The RealSense driver over the vendor's SDK: software devices and the playback of a recording, no mocks."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syvla.config import CamerasConfig
from syvla.errors import ConfigError, DriverError
from syvla.message import UInt8, UInt16
from syvla.messages import CAMERAS, CameraFrame

rs = pytest.importorskip("pyrealsense2", exc_type=ImportError)

from syvla.drivers.realsense import RealSenseCameras, usb_devices  # noqa: E402
from syvla.drivers.realsense_emulator import (  # noqa: E402
    FOCAL,
    EmulatedCameras,
    RealSenseEmulator,
    SoftwareCamera,
)

MS = 1_000_000
S = 1_000_000_000
PERIOD = 33_333_333
WIDTH, HEIGHT = 96, 64
SERIALS = {"cam_high": "101", "cam_left_wrist": "102", "cam_right_wrist": "103"}
CONFIG = CamerasConfig(width=WIDTH, height=HEIGHT, serials=SERIALS)
ONE = CamerasConfig(width=WIDTH, height=HEIGHT, serials={"cam_high": "101"})
Start = Callable[..., RealSenseCameras]


def picture(seed: int) -> UInt8:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def shot(camera: str, exposure_ns: int, seed: int) -> CameraFrame:
    return CameraFrame(camera=camera, frame_id=0, exposure_ns=exposure_ns, rgb=picture(seed))


@pytest.fixture
def start() -> Iterator[Start]:
    """Opens a driver, and closes it in the end."""
    opened: list[RealSenseCameras] = []

    def begin(config: CamerasConfig, connected: Callable[[], list[Any]], **options: Any) -> RealSenseCameras:
        driver = RealSenseCameras(config, connected, **options)
        opened.append(driver)
        driver.open()
        return driver

    yield begin
    for driver in opened:
        driver.close()


# ---------------------------------------------------------------- pictures and their stamps


def test_each_camera_sends_its_own_pictures_once_under_its_name(start: Start) -> None:
    emulator = RealSenseEmulator(CAMERAS, CONFIG)
    driver = start(CONFIG, emulator.connected)
    assert driver.read(S) == []
    for k in range(3):
        at_ns = 10 * S + k * PERIOD
        for i, camera in enumerate(CAMERAS):
            emulator.send(shot(camera, at_ns, seed=10 * k + i))
        frames = driver.read(at_ns + 2 * MS)
        assert [frame.camera for frame in frames] == list(CAMERAS)
        for i, frame in enumerate(frames):
            np.testing.assert_array_equal(frame.rgb, picture(10 * k + i))
            assert frame.frame_id == k
            assert frame.depth_mm is None
            assert frame.exposure_ns == pytest.approx(at_ns + 2 * MS, abs=1000)
        assert driver.read(at_ns + 3 * MS) == []


def test_the_serial_number_says_which_camera_it_is_whatever_the_order(start: Start) -> None:
    swapped = {"cam_high": "103", "cam_left_wrist": "101", "cam_right_wrist": "102"}
    emulator = RealSenseEmulator(CAMERAS, CONFIG)
    driver = start(
        CamerasConfig(width=WIDTH, height=HEIGHT, serials=swapped), lambda: list(reversed(emulator.connected()))
    )
    for i, camera in enumerate(CAMERAS):
        emulator.send(shot(camera, S, seed=i))
    seeds = {frame.camera: int(frame.rgb[0, 0, 0]) for frame in driver.read(S)}
    assert seeds == {
        "cam_left_wrist": picture(0)[0, 0, 0],
        "cam_right_wrist": picture(1)[0, 0, 0],
        "cam_high": picture(2)[0, 0, 0],
    }


def test_of_several_waiting_pictures_the_newest_counts(start: Start) -> None:
    camera = SoftwareCamera("101", ONE)
    driver = start(ONE, lambda: [camera.device])
    for k in range(5):
        camera.send(picture(k), S + k * PERIOD)
    (frame,) = driver.read(S + 5 * PERIOD)
    np.testing.assert_array_equal(frame.rgb, picture(4))
    assert driver.read(S + 5 * PERIOD) == []


def test_what_was_sent_stays_as_it_was_when_the_sdk_uses_its_buffers_again(start: Start) -> None:
    camera = SoftwareCamera("101", ONE)
    driver = start(ONE, lambda: [camera.device])
    frames: list[CameraFrame] = []
    for k in range(40):
        camera.send(picture(k), S + k * PERIOD)
        frames += driver.read(S + k * PERIOD)
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.rgb, picture(k))


@pytest.mark.parametrize("form", ["rgb8", "bgr8", "yuyv"])
def test_every_colour_format_arrives_as_rgb(start: Start, form: str) -> None:
    camera = SoftwareCamera("101", ONE, colour=getattr(rs.format, form))
    driver = start(ONE, lambda: [camera.device])
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    yuyv = np.tile(np.array([[76, 85], [76, 255]], np.uint8), (HEIGHT, WIDTH // 2, 1))  # Y, then U and V in turn
    camera.send({"rgb8": red, "bgr8": red[..., ::-1], "yuyv": yuyv}[form], S)
    (frame,) = driver.read(S)
    np.testing.assert_allclose(frame.rgb.astype(int), red.astype(int), atol=8)


def test_the_stamp_is_the_middle_of_the_exposure_on_the_hosts_clock(start: Start) -> None:
    """The device's clock begins at 0; frames come 1 to 21 ms after their exposure has ended."""
    camera = SoftwareCamera("101", ONE, exposure_us=16_000)
    driver = start(ONE, lambda: [camera.device])
    late = np.random.default_rng(0).integers(1 * MS, 21 * MS, 600)
    errors = []
    for k in range(600):
        middle_ns = 5_000 * S + k * PERIOD
        camera.send(picture(k), middle_ns)
        (frame,) = driver.read(middle_ns + 8 * MS + int(late[k]))
        errors.append(frame.exposure_ns - middle_ns - 1 * MS)  # 1 ms: the least delay cannot be told from an offset
    assert np.abs(errors[300:]).max() < 1 * MS


@pytest.mark.parametrize("set_by_s", [0, 3600, -3600])
def test_stamps_of_the_wall_clock_are_believed_until_it_is_set(start: Start, set_by_s: int) -> None:
    """The SDK's global time: a frame comes 25 ms after its exposure, and the stamp says so."""
    wall_offset_ns = 1_700_000_000 * S
    camera = SoftwareCamera("101", ONE, wall_offset_ns=wall_offset_ns)
    offset_ns = [wall_offset_ns]
    driver = start(ONE, lambda: [camera.device], wall_offset=lambda: offset_ns[0])
    for k in range(60):
        offset_ns[0] = wall_offset_ns + (set_by_s * S if k >= 30 else 0)  # the SDK has not noticed yet
        camera.send(picture(k), S + k * PERIOD)
        (frame,) = driver.read(S + k * PERIOD + 25 * MS)
        known = offset_ns[0] == wall_offset_ns
        assert (frame.exposure_ns - S - k * PERIOD) / MS == pytest.approx(0 if known else 25, abs=0.1)


@pytest.mark.parametrize("stamp_ms", [float("nan"), float("inf"), -1.0])
def test_a_frame_without_a_usable_stamp_is_refused(start: Start, stamp_ms: float) -> None:
    camera = SoftwareCamera("101", ONE)
    driver = start(ONE, lambda: [camera.device])
    camera._deliver(*camera._colour, picture(0), stamp_ms)
    assert driver.read(S) == []
    assert driver.refused == 1
    camera.send(picture(1), 2 * S)
    assert len(driver.read(2 * S)) == 1


# ---------------------------------------------------------------- which cameras


def test_a_rig_without_serial_numbers_is_told_what_is_connected(start: Start) -> None:
    emulator = RealSenseEmulator(CAMERAS, CONFIG)
    with pytest.raises(ConfigError, match=r"cameras\.serials is empty.*cam_high.*101 \(Emulated RealSense\), 102"):
        start(CamerasConfig(), emulator.connected)
    with pytest.raises(ConfigError, match="none is connected"):
        start(CamerasConfig(), list)


def test_a_camera_that_is_not_connected_is_named_with_what_is_and_no_other_is_left_open(start: Start) -> None:
    emulator = RealSenseEmulator(CAMERAS, CONFIG)
    emulator.unplug("cam_right_wrist")
    with pytest.raises(DriverError, match=r"cam_right_wrist \(serial number 103\) is not connected: connected are 101"):
        start(CONFIG, emulator.connected)
    emulator.plug("cam_right_wrist")
    start(CONFIG, emulator.connected)


def test_two_devices_with_one_serial_number_are_refused(start: Start) -> None:
    twins = [SoftwareCamera("101", ONE), SoftwareCamera("101", ONE)]
    with pytest.raises(DriverError, match="two cameras with serial number 101"):
        start(ONE, lambda: [camera.device for camera in twins])


def test_devices_without_a_serial_number_are_passed_over(start: Start) -> None:
    camera = SoftwareCamera("101", ONE)
    start(ONE, lambda: [rs.software_device(), camera.device, rs.software_device()])


def test_an_sdk_that_cannot_look_is_an_error_that_says_why(start: Start) -> None:
    def refuse() -> list[Any]:
        raise RuntimeError("failed to set power state")

    with pytest.raises(DriverError, match="looking for cameras: failed to set power state"):
        start(ONE, refuse)


def test_a_camera_that_has_not_the_size_asked_for_says_what_it_has(start: Start) -> None:
    camera = SoftwareCamera("101", CamerasConfig())
    with pytest.raises(DriverError, match=r"cam_high .*color stream of 96x64 at 30 Hz; it has 640x480 at 30 Hz"):
        start(ONE, lambda: [camera.device])
    with pytest.raises(DriverError, match=r"depth stream .* it has none"):
        start(CamerasConfig(serials={"cam_high": "101"}, depth=True), lambda: [camera.device])


def test_looking_for_cameras_on_usb_finds_what_there_is() -> None:
    assert isinstance(usb_devices()(), list)


def test_an_unplugged_camera_is_opened_again_when_it_is_back(start: Start) -> None:
    emulator = RealSenseEmulator(CAMERAS, CONFIG)
    driver = start(CONFIG, emulator.connected)
    came: list[tuple[int, str]] = []

    def run(seconds: int, at_ns: int) -> int:
        for _ in range(seconds * 30):
            at_ns += PERIOD
            for camera in CAMERAS:
                emulator.send(shot(camera, at_ns, seed=at_ns % 97))
            came.extend((at_ns, frame.camera) for frame in driver.read(at_ns))
        return at_ns

    at_ns = run(1, S)
    emulator.unplug("cam_left_wrist")
    gone_ns = at_ns = run(1, at_ns)
    at_ns = run(4, at_ns)
    assert "cam_left_wrist" not in {camera for when_ns, camera in came if when_ns > gone_ns}
    assert [camera for when_ns, camera in came if when_ns > gone_ns].count("cam_high") == 4 * 30
    emulator.plug("cam_left_wrist")
    back_ns = at_ns
    run(4, at_ns)
    again_ns = min(when_ns for when_ns, camera in came if camera == "cam_left_wrist" and when_ns > back_ns)
    assert again_ns - back_ns <= 2.1 * S


# ---------------------------------------------------------------- depth


def _scene() -> tuple[UInt8, UInt16]:
    """A near square before a far wall."""
    depth_mm = np.full((HEIGHT, WIDTH), 2000, np.uint16)
    depth_mm[24:40, 40:56] = 500
    return picture(0), depth_mm


def test_depth_is_aligned_to_colour(start: Start) -> None:
    """The depth sensor has the wider lens and stands 30 mm beside: near things move more."""
    config = CamerasConfig(width=WIDTH, height=HEIGHT, serials={"cam_high": "101"}, depth=True)
    camera = SoftwareCamera("101", config, depth_focal=0.6, baseline_m=0.03)
    driver = start(config, lambda: [camera.device])
    rgb, depth_mm = _scene()
    camera.send(rgb, S, depth_mm)
    (frame,) = driver.read(S)
    assert frame.depth_mm is not None
    assert set(np.unique(frame.depth_mm)) <= {0, 500, 2000}
    columns = np.nonzero((frame.depth_mm == 500).any(axis=0))[0]
    seen = [WIDTH / 2 + (u - WIDTH / 2) * FOCAL / 0.6 + FOCAL * WIDTH * 0.03 / 0.5 for u in (40, 55)]
    assert [columns.min(), columns.max()] == pytest.approx(seen, abs=1.5)


def test_a_picture_waits_for_its_depth_and_goes_without_it_when_the_next_comes(start: Start) -> None:
    config = CamerasConfig(width=WIDTH, height=HEIGHT, serials={"cam_high": "101"}, depth=True)
    camera = SoftwareCamera("101", config)
    driver = start(config, lambda: [camera.device])
    rgb, depth_mm = _scene()
    camera.send(rgb, S)
    assert driver.read(S) == []
    camera.send(picture(1), S + PERIOD, depth_mm)
    (paired,) = driver.read(S + PERIOD)
    assert paired.depth_mm is not None
    np.testing.assert_array_equal(paired.rgb, picture(1))
    for k in range(2, 5):
        camera.send(picture(k), S + k * PERIOD)
        came = driver.read(S + k * PERIOD)
        assert [frame.depth_mm for frame in came] == [None] * (k > 2)
        if came:
            np.testing.assert_array_equal(came[0].rgb, picture(k - 1))


# ---------------------------------------------------------------- playback


def test_a_recording_is_played_back_through_the_same_code(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "cameras.db3")
    camera = SoftwareCamera("101", ONE, exposure_us=8_000)
    devices = [rs.recorder(path, camera.device)]
    recorded = start(ONE, lambda: devices)
    for k in range(20):
        camera.send(picture(k), S + k * PERIOD)
        assert len(recorded.read(S + k * PERIOD + 9 * MS)) == 1
    recorded.close()
    devices.clear()  # the file is whole when the recorder is gone

    context = rs.context()
    devices.append(context.load_device(path))
    driver = start(ONE, lambda: devices)
    frames: list[CameraFrame] = []
    deadline_s = time.monotonic() + 20
    while not (frames and frames[-1].frame_id == 19):  # a busy machine may miss some: the newest wins
        assert time.monotonic() < deadline_s, "the recording was not played to its end"
        frames += driver.read(time.monotonic_ns())
        time.sleep(0.002)
    for frame in frames:
        np.testing.assert_array_equal(frame.rgb, picture(frame.frame_id))
    assert sorted({frame.frame_id for frame in frames}) == [frame.frame_id for frame in frames]
    assert all(later.exposure_ns > frame.exposure_ns for frame, later in pairwise(frames))
    driver.close()
    devices.clear()
    context.unload_device(path)


# ---------------------------------------------------------------- the twin's pictures under the SDK


class _Pictures:
    """What a renderer shows: one picture of each camera at a time."""

    def __init__(self) -> None:
        self.closed = False

    def read(self, now_ns: int) -> list[CameraFrame]:
        return [shot(camera, now_ns - MS, seed=i) for i, camera in enumerate(CAMERAS)]

    def close(self) -> None:
        self.closed = True


def test_a_renderers_pictures_come_through_the_sdk_in_the_same_read() -> None:
    emulator = RealSenseEmulator(CAMERAS, CamerasConfig(width=WIDTH, height=HEIGHT))
    config = CamerasConfig(width=WIDTH, height=HEIGHT, serials=emulator.serials)
    driver, pictures = RealSenseCameras(config, emulator.connected), _Pictures()
    driver.open()
    cameras = EmulatedCameras(pictures, emulator, driver)
    for k in range(1, 4):
        frames = cameras.read(k * S)
        assert [frame.camera for frame in frames] == list(CAMERAS)
        for i, frame in enumerate(frames):
            np.testing.assert_array_equal(frame.rgb, picture(i))
    cameras.close()
    assert pictures.closed
