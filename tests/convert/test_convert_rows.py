"""Rows over messages: what a row is made from, and what is refused; in memory that does not grow."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.convert.made import INSTRUCTION, arm_state, command, picture, record

from syvla import messages as m
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Grid, Stamped, aligned
from syvla.errors import RecordingError


def test_a_row_is_what_was_seen_measured_and_commanded_last(tmp_path: Path) -> None:
    episode = McapEpisode(record(tmp_path / "one.mcap"))
    rows = list(episode.rows(Grid(fps=25)))
    assert {b.time_ns - a.time_ns for a, b in itertools.pairwise(rows)} == {40_000_000}
    for row in rows:
        at_ns = row.time_ns // 5_000_000 * 5_000_000
        np.testing.assert_array_equal(row.state[:6], arm_state("left", at_ns).position_rad)
        np.testing.assert_array_equal(row.action[:6], command(0, at_ns, m.Source.POLICY).position_rad[:6])
        assert row.instruction == INSTRUCTION
        for frame in row.frames.values():
            assert 0 <= row.time_ns - frame.exposure_ns < 33_333_333
    led = [row.intervention for row in rows]
    assert led == [0.8 <= (row.time_ns - 100_000_000) / 1e9 < 1.2 for row in rows]
    assert 8 <= sum(led) <= 11


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hole_s": (0.7, 1.1)}, "camera/cam_high is 0.2[67] s old"),
        ({"hole_s": (0.5, 9.0), "duration_s": 3.0}, "camera/cam_high (is 0.2[67] s old|has nothing for 1.0 s)"),
        ({"without": ("command",)}, "command has nothing in the first 1.0 s"),
        ({"without": ("command",), "duration_s": 0.3}, "it has no command"),
        ({"without": ("task",)}, "it does not say what was asked for; give --instruction"),
    ],
)
def test_what_is_missing_or_too_old_is_refused(tmp_path: Path, arguments: dict[str, object], says: str) -> None:
    path = record(tmp_path / "one.mcap", **arguments)  # type: ignore[arg-type]
    with pytest.raises(RecordingError, match=says):
        list(McapEpisode(path).rows(Grid()))


def test_without_a_task_the_instruction_that_is_given_counts(tmp_path: Path) -> None:
    path = record(tmp_path / "one.mcap", without=("task",))
    assert {row.instruction for row in McapEpisode(path).rows(Grid(instruction="wipe"))} == {"wipe"}


def test_a_topic_that_goes_back_in_time_is_refused() -> None:
    messages = [Stamped("arm/left", at_ns, arm_state("left", at_ns)) for at_ns in (5_000_000, 10_000_000, 7_000_000)]
    with pytest.raises(RecordingError, match=r"arm/left goes back by 0\.003 s"):
        list(aligned(messages, (), Grid(), "here"))


def test_what_comes_late_is_put_where_it_belongs() -> None:
    """Images are told 90 ms after they were exposed, arms at once."""

    def messages() -> Iterator[Stamped]:
        for tick in range(400):
            at_ns = tick * 5_000_000
            for arm in m.ARMS:
                yield Stamped(f"arm/{arm}", at_ns, arm_state(arm, at_ns))
            yield Stamped("command", at_ns, command(tick, at_ns, m.Source.POLICY))
            if tick >= 18 and tick % 6 == 0:
                seen_ns = at_ns - 90_000_000
                frame = m.CameraFrame(camera="cam_high", frame_id=tick, exposure_ns=seen_ns, rgb=picture(tick))
                yield Stamped("camera/cam_high", seen_ns, frame)

    rows = list(aligned(messages(), ("cam_high",), Grid(instruction="x"), "here"))
    assert rows[0].time_ns == 0
    assert all(0 <= row.time_ns - row.frames["cam_high"].exposure_ns < 30_000_000 for row in rows)
    assert len(rows) == 57  # the last image was exposed at 1.89 s


def test_a_camera_that_begins_late_is_not_left_out_in_silence(tmp_path: Path) -> None:
    path = record(tmp_path / "one.mcap", 7.0, hole_s=(0.0, 6.0))
    with pytest.raises(RecordingError, match="camera/cam_high begins late"):
        list(McapEpisode(path).rows(Grid()))


def test_a_recording_without_an_end_is_refused(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"cut\.mcap: incomplete"):
        McapEpisode(cut)
