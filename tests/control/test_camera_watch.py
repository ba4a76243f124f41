"""The watch over cameras, on simulated time: what is lost, what is frozen, and what is not."""

import numpy as np
import pytest

from syvla.config import CamerasConfig
from syvla.control.camera_watch import CameraWatch
from syvla.errors import ConfigError
from syvla.messages import CameraFrame

MS = 1_000_000
PERIOD = 33_333_333
CONFIG = CamerasConfig()
ONE = ("cam_high",)


def frame(exposure_ns: int, seed: int = 0, camera: str = "cam_high") -> CameraFrame:
    rgb = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    return CameraFrame(camera=camera, frame_id=0, exposure_ns=exposure_ns, rgb=rgb)


def faults(watch: CameraWatch, now_ns: int) -> list[tuple[str, str]]:
    return [(fault.camera, fault.what) for fault in watch.faults(now_ns)]


def test_a_camera_that_has_sent_nothing_yet_is_lost_and_for_how_long_is_said() -> None:
    watch = CameraWatch(ONE, CONFIG)
    assert watch.faults(100 * MS)[0].for_s == 0.0
    assert watch.faults(300 * MS)[0].for_s == pytest.approx(0.2)
    watch.see(frame(310 * MS))
    assert watch.faults(320 * MS) == ()


def test_silence_is_counted_from_the_last_exposure_and_ends_with_a_newer_one() -> None:
    watch = CameraWatch(ONE, CONFIG)
    watch.see(frame(0))
    assert faults(watch, 150 * MS) == []
    assert faults(watch, 150 * MS + 1) == [("cam_high", "lost")]
    watch.see(frame(-MS, seed=1))  # nothing newer
    assert faults(watch, 150 * MS) == []
    assert faults(watch, 150 * MS + 1) == [("cam_high", "lost")]
    watch.see(frame(155 * MS, seed=3))
    assert faults(watch, 160 * MS) == []


def test_pictures_that_come_but_come_too_late_are_a_loss() -> None:
    watch = CameraWatch(ONE, CONFIG)
    for k in range(1, 10):
        watch.see(frame(k * PERIOD, seed=k))
        assert faults(watch, k * PERIOD + 151 * MS) == [("cam_high", "lost")]


def test_the_same_picture_under_new_stamps_is_frozen_within_400_ms_until_another_comes() -> None:
    watch = CameraWatch(ONE, CONFIG)
    watch.see(frame(0, seed=1))
    frozen_from_ns = PERIOD
    for k in range(1, 10):
        watch.see(frame(k * PERIOD, seed=2))
        assert faults(watch, k * PERIOD) == [], "fewer than ten are not frozen"
    watch.see(frame(10 * PERIOD, seed=2))
    assert faults(watch, 10 * PERIOD) == [("cam_high", "frozen")]
    assert watch.faults(10 * PERIOD)[0].for_s == pytest.approx(9 * PERIOD * 1e-9)
    assert 10 * PERIOD - frozen_from_ns < 400 * MS
    watch.see(frame(11 * PERIOD, seed=3))
    assert faults(watch, 11 * PERIOD) == []


def test_a_picture_that_is_delivered_twice_is_not_frozen() -> None:
    watch = CameraWatch(ONE, CONFIG)
    for _ in range(20):
        watch.see(frame(0))
    assert faults(watch, 0) == []


def test_noise_in_one_pixel_of_what_is_compared_is_a_new_picture() -> None:
    watch = CameraWatch(ONE, CONFIG)
    for k in range(30):
        rgb = np.zeros((48, 64, 3), np.uint8)
        rgb[8, 16, k % 3] = 1
        watch.see(CameraFrame(camera="cam_high", frame_id=k, exposure_ns=k * PERIOD, rgb=rgb))
        assert faults(watch, k * PERIOD) == []


def test_where_equal_pictures_are_allowed_nothing_freezes() -> None:
    watch = CameraWatch(ONE, CamerasConfig(frozen_frames=0))
    for k in range(100):
        watch.see(frame(k * PERIOD))
        assert faults(watch, k * PERIOD) == []


def test_each_camera_is_judged_by_its_own_and_an_unwatched_one_not_at_all() -> None:
    watch = CameraWatch(("cam_high", "cam_right_wrist"), CONFIG)
    watch.see(frame(0, camera="cam_high"))
    watch.see(frame(0, camera="cam_left_wrist"))
    assert faults(watch, 0) == [("cam_right_wrist", "lost")]
    watch.see(frame(100 * MS, camera="cam_right_wrist"))
    assert faults(watch, 160 * MS) == [("cam_high", "lost")]


def test_an_unknown_camera_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="cam_right_wrist"):
        CameraWatch(("cam_low",), CONFIG)
