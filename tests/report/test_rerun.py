"""A recording as rerun's own: read back with rerun's reader, it is what was recorded, on the recording's own time."""

import importlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.report.conftest import MS, T0, S, realistic, record, run_config

from syvla import messages as m
from syvla.apps.replay_view import to_rerun
from syvla.errors import ConfigError, RecordingError
from syvla.report.episode import load

pytest.importorskip("rerun")


def read_back(rrd: Path) -> dict[str, list[Any]]:
    """The record batches of each entity."""
    try:
        reader = importlib.import_module("rerun.chunk").RrdReader
    except ImportError:  # before 0.41
        reader = importlib.import_module("rerun.experimental").RrdReader
    found: dict[str, list[Any]] = {}
    for chunk in reader(str(rrd)).stream().to_chunks():
        found.setdefault(str(chunk.entity_path), []).append(chunk.to_record_batch())
    return found


def column(batches: list[Any], name: str) -> list[Any]:
    return [row[0] for batch in batches for row in batch.column(name).to_pylist()]


def nanoseconds(batches: list[Any], axis: str) -> list[int]:
    return [value.value for batch in batches for value in batch.column(axis)]


def quiet(_: str) -> None:
    pass


def test_what_was_recorded_can_be_read_back(two_cameras: Path, tmp_path: Path) -> None:
    found = read_back(to_rerun(two_cameras, tmp_path / "a.rrd", 0.0, 600.0, quiet))
    episode = load(two_cameras)
    for arm, k in (("left", 0), ("right", 1)):
        for j in range(6):
            command = found[f"/{arm}/joint_{j + 1}/command"]
            assert np.array_equal(column(command, "Scalars:scalars"), episode.commands.position_rad[:, 6 * k + j])
            at_ns = np.array(nanoseconds(command, "recording")) + episode.start_ns
            assert np.abs(at_ns - episode.commands.at_ns).max() <= 1000
    assert len(column(found["/left/joint_1/measured"], "Scalars:scalars")) == len(episode.measured["left"].at_ns)
    assert set(column(found["/camera/cam_high"], "EncodedImage:media_type")) == {"image/jpeg"}
    assert bytes(column(found["/camera/cam_high"], "EncodedImage:blob")[0])[:3] == b"\xff\xd8\xff"
    assert sum(batch.num_rows for batch in found["/camera/cam_high"]) == 45
    assert any("reaches for the red bar" in text for text in column(found["/thought"], "TextLog:text"))
    axes = {name for batches in found.values() for batch in batches for name in batch.schema.names}
    assert not {"log_time", "log_tick", "time of day"} & axes, "when it was written here is nobody's business"


def test_holds_are_said_with_their_causes_and_at_the_time_of_day(tmp_path: Path) -> None:
    run = msgspec.structs.replace(run_config(), wall_offset_ns=1_790_000_000 * S)
    record(tmp_path, realistic(8.0, ()), run).close()
    found = read_back(to_rerun(tmp_path / "snack_loading-7.mcap", tmp_path / "a.rrd", 0.0, 600.0, quiet))
    said = dict(zip(column(found["/mode"], "TextLog:text"), column(found["/mode"], "TextLog:level"), strict=True))
    (held,) = [text for text in said if text.startswith("hold")]
    assert "intent_stale: intent is" in held
    assert "Next: resume when the planner answers" in held
    assert said[held] == "ERROR"
    assert min(nanoseconds(found["/left/joint_1/command"], "time of day")) == T0 + run.wall_offset_ns


def test_what_cannot_be_written_is_refused_and_nothing_is_left(blind: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.rrd"):
        to_rerun(blind, tmp_path / "a.mcap", 0.0, 600.0, quiet)
    with pytest.raises(RecordingError, match="does not begin as an MCAP"):
        to_rerun(Path(__file__), tmp_path / "a.rrd", 0.0, 600.0, quiet)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.rrd").write_text("mine")
    with pytest.raises(RecordingError, match="exists; name another file"):
        to_rerun(blind, tmp_path / "a.rrd", 0.0, 600.0, quiet)
    assert (tmp_path / "a.rrd").read_text() == "mine"


def test_an_image_that_is_none_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    script = realistic(2.0, ("cam_high",))
    frame = m.CompressedFrame(
        camera="cam_high", frame_id=99, exposure_ns=T0 + 3 * MS, width=8, height=8, jpeg=np.zeros(9, np.uint8)
    )
    script.send(T0 + 3 * MS, "camera/cam_high", frame)
    record(tmp_path, script, run_config()).close()
    said: list[str] = []
    found = read_back(to_rerun(tmp_path / "snack_loading-7.mcap", tmp_path / "a.rrd", 0.0, 600.0, said.append))
    assert "  1 images could not be read and are left out" in said
    assert sum(batch.num_rows for batch in found["/camera/cam_high"]) == 30


def test_a_part_is_on_the_seconds_of_the_whole_recording(tmp_path: Path) -> None:
    record(tmp_path, realistic(8.0, ()), run_config()).close()
    recording = tmp_path / "snack_loading-7.mcap"
    whole = read_back(to_rerun(recording, tmp_path / "whole.rrd", 0.0, 600.0, quiet))
    part = read_back(to_rerun(recording, tmp_path / "part.rrd", 4.0, 2.0, quiet))
    at_ns, all_ns = (np.array(nanoseconds(found["/left/joint_1/command"], "recording")) for found in (part, whole))
    assert 3.99 * S < at_ns.min() < 4.01 * S
    assert 5.99 * S < at_ns.max() <= 6 * S
    assert set(np.rint(at_ns / 1000)) <= set(np.rint(all_ns / 1000)), "one command has one time"
    texts = column(part["/thought"], "TextLog:text")
    assert texts
    assert set(texts) <= set(column(whole["/thought"], "TextLog:text")), "of the seconds it looked at, too"
