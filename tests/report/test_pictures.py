"""The plot and the film: readable files of the right size and length, whatever the recording lacks."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from tests.report.conftest import MS, T0, realistic, record, run_config

from syvla import messages as m
from syvla.errors import RecordingError
from syvla.recording.mcap_log import McapLog
from syvla.report.episode import load
from syvla.report.plot import ROWS, draw, timeline_plot
from syvla.report.video import video
from syvla.report.write import write_report


def decoded(mp4: Path) -> tuple[list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]], float, str]:
    """Frames, duration [s] and codec."""
    with av.open(str(mp4)) as container:
        codec = container.streams.video[0].codec_context.name
        frames = list(container.decode(video=0))
        last = frames[-1]
        assert last.pts is not None
        assert last.time_base is not None
        assert last.duration is not None
        duration_s = float((last.pts + last.duration) * last.time_base)
        return [frame.to_ndarray(format="rgb24") for frame in frames], duration_s, codec


def test_the_film_is_as_long_as_the_episode(episode: Path, tmp_path: Path) -> None:
    mp4 = tmp_path / "a.mp4"
    count = video(episode, mp4)
    frames, duration_s, codec = decoded(mp4)
    assert codec == "h264"
    assert len(frames) == count == pytest.approx(12 * 15, abs=2)
    assert duration_s == pytest.approx(12.0, abs=0.15)
    height, width, _ = frames[0].shape
    assert width > 3 * 400
    assert width % 2 == height % 2 == 0


def test_a_missing_camera_leaves_a_dark_panel(two_cameras: Path, tmp_path: Path) -> None:
    video(two_cameras, tmp_path / "a.mp4")
    frames, duration_s, _ = decoded(tmp_path / "a.mp4")
    assert duration_s == pytest.approx(3.0, abs=0.15)
    panels = np.array_split(frames[20][100:300], 3, axis=1)
    assert panels[0].std() > 30
    assert panels[1].std() > 30
    assert panels[2].std() < 15


def test_the_film_may_have_another_rate(two_cameras: Path, tmp_path: Path) -> None:
    count = video(two_cameras, tmp_path / "a.mp4", rate_hz=30)
    _, duration_s, _ = decoded(tmp_path / "a.mp4")
    assert count == pytest.approx(90, abs=3)
    assert duration_s == pytest.approx(3.0, abs=0.15)


def test_no_image_is_no_film(blind: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no camera image"):
        video(blind, tmp_path / "a.mp4")


def test_stamps_that_lie_make_no_endless_film(tmp_path: Path) -> None:
    """Images that claim to be of next year, or to have come all at once."""
    script = realistic(2.0, ())
    for i in range(6):
        frame = m.CameraFrame(
            camera="cam_high", frame_id=i, exposure_ns=T0 + i * 10**16, rgb=np.full((8, 8, 3), 40 * i, np.uint8)
        )
        script.send(T0 + 5 * MS, "camera/cam_high", frame)
    record(tmp_path, script, run_config()).close()
    count = video(tmp_path / "snack_loading-7.mcap", tmp_path / "a.mp4")
    assert 1 <= count <= 4


def test_the_plot_names_what_happened(episode: Path, tmp_path: Path) -> None:
    figure = draw(load(episode))
    assert len(figure.axes) == len(ROWS)
    words = " ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
    for expected in ("put the red bar", "HOLD", "intent_stale", "chain of", "no command waited", "joint 6", "grippers"):
        assert expected in words
    timeline_plot(episode, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1500
        assert len(picture.convert("RGB").getcolors(2**24)) > 500


def test_an_empty_recording_can_be_drawn(tmp_path: Path) -> None:
    McapLog(tmp_path / "a.mcap", {}).close({"outcome": "failure"})
    timeline_plot(tmp_path / "a.mcap", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_the_whole_report(two_cameras: Path, blind: Path, tmp_path: Path) -> None:
    made = write_report(two_cameras, tmp_path)
    stem = "snack_loading-7"
    assert [path.name for path in made] == [f"{stem}.summary.json", f"{stem}.timeline.png", f"{stem}.mp4"]
    assert json.loads(made[0].read_text())["rig"] == "test_twin"
    before = made[0].read_bytes()
    with pytest.raises(RecordingError, match="exists"):
        write_report(two_cameras, tmp_path)
    assert made[0].read_bytes() == before
    assert [path.suffix for path in write_report(blind, tmp_path / "blind")] == [".json", ".png"]
