"""Rules about cameras: one fault in a good recording, and exactly that is found."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.check.episodes import (
    FRAME_NS,
    LENGTH_NS,
    MID_NS,
    MS,
    Told,
    changed,
    checked,
    configured,
    good,
    moved_stamp,
    only,
    picture,
)

from syvla import messages as m
from syvla.check.finding import Severity
from syvla.recording.images import decompress

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def frozen(camera: str, from_ns: int, to_ns: int) -> list[Told]:
    still = picture(camera, 0, 0)

    def fault(told: Told) -> Told:
        return told.but(jpeg=still.jpeg) if from_ns <= told.log_ns < to_ns else told

    return changed(fault, f"camera/{camera}")


def test_a_frozen_camera_above_moving_arms(tmp_path: Path) -> None:
    finding = only(
        checked(tmp_path, frozen("cam_left_wrist", MID_NS, MID_NS + 800 * MS)), "camera.frozen", "cam_left_wrist"
    )
    assert finding.count == 1
    assert finding.at_s == pytest.approx(1.5, abs=0.07)


def test_raw_images(tmp_path: Path) -> None:
    def raw(told: Told) -> Told:
        return told._replace(message=decompress(told.message)) if isinstance(told.message, m.CompressedFrame) else told

    assert checked(tmp_path, map(raw, good())).findings == []
    (tmp_path / "frozen").mkdir()
    told = map(raw, frozen("cam_high", MID_NS, LENGTH_NS))
    only(checked(tmp_path / "frozen", told), "camera.frozen", "cam_high")


def test_a_still_scene_is_not_frozen_unless_the_rig_says_so(tmp_path: Path) -> None:
    """In the twin two pictures of a still scene are equal; a real camera's never are."""
    told = frozen("cam_right_wrist", MID_NS, LENGTH_NS)  # whose arm stands
    assert checked(tmp_path, told).findings == []
    (tmp_path / "real").mkdir()
    only(checked(tmp_path / "real", told, configured(frozen_frames=10)), "camera.frozen", "cam_right_wrist")


def test_a_delay_that_the_rig_file_knows_is_no_fault(tmp_path: Path) -> None:
    told = moved_stamp(-300 * MS, "exposure_ns", 0, LENGTH_NS, "camera/cam_right_wrist")
    assert checked(tmp_path, told, configured(delay_s={"cam_right_wrist": 0.3})).findings == []


@pytest.mark.parametrize("late_ms", [200, 400])
def test_a_desynchronised_camera(tmp_path: Path, late_ms: int) -> None:
    told = moved_stamp(-late_ms * MS, "exposure_ns", 0, LENGTH_NS, "camera/cam_right_wrist")
    finding = only(checked(tmp_path, told), "camera.desynchronised", "cam_right_wrist")
    assert finding.count > 20


def test_cameras_that_run_freely_are_in_step(tmp_path: Path) -> None:
    def later(told: Told) -> Told:
        at_ns = told.log_ns + FRAME_NS // 2
        return told._replace(header=told.header._replace(sent_ns=at_ns), log_ns=at_ns).but(exposure_ns=at_ns - MS)

    told = sorted(changed(later, "camera/cam_high"), key=lambda each: each.log_ns)
    assert checked(tmp_path, told).findings == []


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    def fault(told: Told) -> Told:
        return told.but(jpeg=np.frombuffer(b"GIF89a" + bytes(200), np.uint8)) if told.header.sequence == 0 else told

    finding = only(checked(tmp_path, changed(fault, "camera/cam_high")), "camera.unreadable", "cam_high")
    assert "cannot be read" in finding.seen


def cut_off(frame: m.CompressedFrame) -> m.CompressedFrame:
    return msgspec.structs.replace(frame, jpeg=frame.jpeg[:-20])


def of_another_size(frame: m.CompressedFrame) -> m.CompressedFrame:
    return msgspec.structs.replace(frame, width=frame.width + 1)


def none(frame: m.CompressedFrame) -> m.CompressedFrame:
    return msgspec.structs.replace(frame, jpeg=np.zeros(100, np.uint8))


def garbled(frame: m.CompressedFrame) -> m.CompressedFrame:
    """Whole by its head and end."""
    jpeg = frame.jpeg.copy()
    jpeg[jpeg.tobytes().index(b"\xff\xda") + 2 : -2] = 0xFF
    return msgspec.structs.replace(frame, jpeg=jpeg)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(cut_off, "cut off"), (of_another_size, "not 65x48"), (none, "cannot be read"), (garbled, "cannot be read")],
)
def test_every_picture_is_looked_at_and_each_that_is_broken_counts(
    tmp_path: Path, fault: Callable[[m.CompressedFrame], m.CompressedFrame], said: str
) -> None:
    broken = range(20, 35)  # of 45: a second of them

    def put(told: Told) -> Told:
        assert isinstance(told.message, m.CompressedFrame)
        return told._replace(message=fault(told.message)) if told.header.sequence in broken else told

    finding = next(
        found for found in checked(tmp_path, changed(put, "camera/cam_right_wrist")).findings
        if found.name == "camera.unreadable"
    )  # fmt: skip
    assert said in finding.seen
    assert finding.at_s is not None
    if fault is garbled:  # one picture in a second is decoded, and after a bad one every picture
        assert 1 <= finding.count <= len(broken)
    else:
        assert finding.count == len(broken)
        assert finding.at_s == pytest.approx(20 * FRAME_NS / 1e9, abs=0.02)


def test_padding_behind_a_picture_is_no_fault(tmp_path: Path) -> None:
    def padded(told: Told) -> Told:
        assert isinstance(told.message, m.CompressedFrame)
        return told.but(jpeg=np.append(told.message.jpeg, np.zeros(7, np.uint8)))

    assert checked(tmp_path, changed(padded, "camera/cam_high")).findings == []


def test_a_robot_has_all_three_cameras(tmp_path: Path) -> None:
    told = changed(lambda t: None, "camera/cam_high")
    assert checked(tmp_path, told).findings == []  # a twin draws what is asked for
    robot = configured(frozen_frames=0).replace('"kind":"twin"', '"kind":"cobot_magic"')
    (tmp_path / "robot").mkdir()
    only(checked(tmp_path / "robot", told, robot), "camera.missing", "cam_high")
