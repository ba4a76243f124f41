"""What is written is read back and compared: a fault of one value anywhere is found, and no data set comes of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.convert.made import SIZE, assert_same_rows, record, run

from syvla.convert import lerobot_write
from syvla.convert.aloha_read import AlohaEpisode
from syvla.convert.lerobot_read import LeRobotDataset, LeRobotEpisode, data_rows
from syvla.convert.lerobot_video import Film, check_video
from syvla.convert.lerobot_write import GROUP_ROWS
from syvla.convert.making import WriteError
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Grid, Row
from syvla.message import Message, UInt8
from syvla.messages import CameraFrame
from syvla.protocols import Header
from syvla.recording.mcap_log import McapLog
from syvla.transport.wire import Buffer


def changed(row: Row) -> Row:
    state = row.state.copy()
    state[3] += 1e-6
    return row._replace(state=state)


def at(number: int, change: Callable[[Row], Row], rows: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    """The rows, one of them changed."""

    def found(*arguments: object) -> Iterator[Row]:
        for i, row in enumerate(rows(*arguments)):
            yield change(row) if i == number else row

    return found


def test_a_long_episode_is_the_same_in_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a row group has; in the second, one number is read back a millionth off."""
    source, grid = record(tmp_path / "one.mcap", 18.0, cameras=[]), Grid(fps=240)
    assert run([source], tmp_path / "out", "lerobot", fps=240)[0] == 0
    found = LeRobotDataset(tmp_path / "out")
    episode = LeRobotEpisode(found, found.episodes[0])
    assert assert_same_rows(McapEpisode(source), episode, grid, 0.0) > GROUP_ROWS + 7
    monkeypatch.setattr(lerobot_write, "data_rows", at(GROUP_ROWS + 7, changed, data_rows))
    with pytest.raises(WriteError, match="was read back with other numbers, interventions or instructions"):
        run([source], tmp_path / "bad", "lerobot", fps=240)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("jpeg", [90, 0])
def test_every_image_of_an_aloha_episode_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: int
) -> None:
    first: list[Row] = []

    def image_of_before(row: Row) -> Row:
        return row._replace(frames={**row.frames, "cam_high": first[0].frames["cam_high"]})

    def rows(self: AlohaEpisode, grid: Grid) -> Iterator[Row]:
        for i, row in enumerate(whole(self, grid)):
            first.append(row)
            yield image_of_before(row) if i == 7 else row

    whole = AlohaEpisode.rows
    source = record(tmp_path / "one.mcap", 1.0)
    monkeypatch.setattr(AlohaEpisode, "rows", rows)
    with pytest.raises(WriteError, match="was read back with other images"):
        run([source], tmp_path / "out", "aloha", jpeg=jpeg)


def test_every_message_of_a_recording_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run([record(tmp_path / "one.mcap", 1.0, cameras=[])], tmp_path / "set", "aloha")
    whole, before = McapLog.write, list[list[Buffer]]()

    def write(self: McapLog, header: Header, kind: type[Message], frames: list[Buffer], log_time_ns: int) -> None:
        if header.topic == "arm/left":
            before.append(frames)
            frames = before[6] if len(before) == 8 else frames
        whole(self, header, kind, frames, log_time_ns)

    monkeypatch.setattr(McapLog, "write", write)
    with pytest.raises(WriteError, match="was read back with other messages of arm/left"):
        run([tmp_path / "set"], tmp_path / "out", "mcap")


def moving(number: int) -> UInt8:
    """A picture in which something moves by an eighth of the width at each row."""
    wave = np.sin(np.arange(SIZE[1]) * 2 * np.pi / SIZE[1] + number * np.pi / 4) * 100 + 120
    return np.repeat(np.tile(wave, (SIZE[0], 1))[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize("length", [3, 300])
def test_a_film_that_is_a_picture_late_is_told_apart(tmp_path: Path, length: int) -> None:
    path = tmp_path / "film.mp4"
    film, late = Film(path, 30), Film(tmp_path / "late.mp4", 30)
    for i in range(length):
        for each, number in ((film, i), (late, max(0, i - 1))):
            rgb = moving(number)
            each.add(CameraFrame(camera="cam_high", frame_id=i, exposure_ns=i, rgb=rgb))
    film.close()
    late.close()
    samples = film.samples.result()
    assert len(samples) <= 70
    assert length - 1 in samples
    check_video(path, length, SIZE, samples)
    with pytest.raises(WriteError, match="another picture in row 1"):
        check_video(tmp_path / "late.mp4", length, SIZE, samples)
    with pytest.raises(WriteError, match=f"with {length} frames instead of {length - 1}"):
        check_video(path, length - 1, SIZE, samples)
