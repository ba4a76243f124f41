"""To ALOHA HDF5 and back, raw and compressed, and what a hostile file meets."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from tests.convert.made import INSTRUCTION, SIZE, assert_same_rows, picture, record, run

from syvla import messages as m
from syvla.convert.aloha_read import AlohaEpisode
from syvla.convert.found import Reading
from syvla.convert.ours import McapEpisode
from syvla.convert.rows import Grid
from syvla.errors import RecordingError
from syvla.recording.mcap_read import Recording

LENGTH = 12


def foreign(path: Path, change: Callable[[Any], None] = lambda file: None, swap: bool = False) -> Path:
    """An episode as a recorder of others writes it, compressed, without anything of ours."""
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = True
        for name in ("qpos", "qvel", "effort"):
            values = np.random.default_rng(1).normal(size=(LENGTH, 14))
            if name != "qpos":
                values[:, [6, 13]] = 0.0  # a gripper's speed and effort have no place in our recordings
            file.create_dataset(f"observations/{name}", data=values)
        file.create_dataset("action", data=np.random.default_rng(2).normal(size=(LENGTH, 14)))
        file.create_dataset("base_action", data=np.zeros((LENGTH, 2)))
        for camera in m.CAMERAS:
            files = []
            for i in range(LENGTH):
                buffer = io.BytesIO()
                rgb = picture(i)[..., ::-1] if swap else picture(i)
                Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=95)
                files.append(np.frombuffer(buffer.getvalue(), np.uint8))
            padded = np.zeros((LENGTH, max(map(len, files))), np.uint8)
            for i, data in enumerate(files):
                padded[i, : len(data)] = data
            file.create_dataset(f"observations/images/{camera}", data=padded)
        change(file)
    return path


@pytest.mark.parametrize("jpeg", [90, 0])
def test_rows_come_back_as_they_were_laid(tmp_path: Path, jpeg: int) -> None:
    source = record(tmp_path / "one.mcap", jpeg=jpeg > 0)
    status, said = run([source], tmp_path / "out", "aloha", jpeg=jpeg)
    assert status == 0, said
    episode = AlohaEpisode(tmp_path / "out/episode_0.hdf5")
    assert episode.name == "one"
    assert assert_same_rows(McapEpisode(source), episode, Grid(), pixel_error=0.0) > 50
    with h5py.File(tmp_path / "out/episode_0.hdf5") as file:
        length = len(file["action"])
        assert file.attrs["compress"] == (jpeg > 0)
        assert file["base_action"].shape == (length, 2)
        assert 0 < file["intervention"][:].sum() < length
        images = file["observations/images/cam_high"]
        assert images.dtype == np.uint8
        assert images.shape[0] == length
        if jpeg:
            assert file["compress_len"].shape == (3, length)
            assert file["compress_len"][:].max() <= images.shape[1]
        else:
            assert images.shape[1:] == (*SIZE, 3)


def test_back_in_ours_it_is_the_same_episode(tmp_path: Path) -> None:
    source = record(tmp_path / "one.mcap")
    run([source], tmp_path / "out", "aloha")
    status, said = run([tmp_path / "out"], tmp_path / "back", "mcap")
    assert status == 0, said
    assert assert_same_rows(McapEpisode(source), McapEpisode(tmp_path / "back/one.mcap"), Grid(), 0.0) > 50
    assert Recording(tmp_path / "back/one.mcap").outcome["outcome"] == "success"


def test_an_episode_of_others_needs_to_be_told_what_it_does_not_say(tmp_path: Path) -> None:
    source = foreign(tmp_path / "episode_7.hdf5")
    status, said = run([source], tmp_path / "out", "mcap")
    assert status == 2
    assert said.splitlines() == [f"refused: {source}: it does not say what was asked for; give --instruction"]
    assert [path.name for path in tmp_path.iterdir()] == ["episode_7.hdf5"]
    grid = Grid(instruction=INSTRUCTION)
    status, _ = run([source], tmp_path / "out", "mcap", grid=grid, outcome="success", run_json='{"rig": 1}')
    assert status == 0
    recording = Recording(tmp_path / "out/episode_7.mcap")
    assert recording.outcome["outcome"] == "success"
    assert recording.attachments["run.json"] == '{"rig": 1}'
    assert assert_same_rows(AlohaEpisode(source), McapEpisode(recording.path), grid, 0.0) == LENGTH


def test_gripper_units_and_swapped_colours(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.hdf5", swap=True)
    plain = next(AlohaEpisode(source).rows(Grid(instruction="x")))
    row = next(AlohaEpisode(source, gripper_unit_m=0.001, swapped=True).rows(Grid(instruction="x")))
    np.testing.assert_allclose(row.state[[6, 13]], plain.state[[6, 13]] / 1000)
    np.testing.assert_array_equal(np.delete(row.state, [6, 13]), np.delete(plain.state, [6, 13]))
    frame = row.frames["cam_high"]
    assert isinstance(frame, m.CameraFrame)
    assert np.abs(frame.rgb.astype(int) - picture(0)).mean() < 3.0


def test_raw_images_with_swapped_colours_are_swapped_too(tmp_path: Path) -> None:
    def raw(file: Any) -> None:
        file.attrs["compress"] = False
        for camera in m.CAMERAS:
            swapped = np.array([picture(i)[..., ::-1] for i in range(LENGTH)])
            _replace(f"observations/images/{camera}", swapped)(file)

    row = next(AlohaEpisode(foreign(tmp_path / "a.hdf5", raw), swapped=True).rows(Grid(instruction="x")))
    frame = row.frames["cam_high"]
    assert isinstance(frame, m.CameraFrame)
    np.testing.assert_array_equal(frame.rgb, picture(0))


@pytest.mark.parametrize(("fps", "read"), [(50, 50), (50.0, 50), (49.5, None), (np.nan, None), ("50", None), (0, None)])
def test_the_rate_may_be_written_as_a_float_and_is_never_passed_over(
    tmp_path: Path, fps: Any, read: int | None
) -> None:
    source = foreign(tmp_path / "a.hdf5", lambda file: file.attrs.__setitem__("fps", fps))
    if read:
        assert AlohaEpisode(source).fps == read
    else:
        with pytest.raises(RecordingError, match=r"fps must be a whole number, 1\.\.240"):
            AlohaEpisode(source)


def _replace(path: str, data: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[path]
        file[path] = data

    return change


def _link_images(file: Any) -> None:
    del file["observations/images/cam_high"]
    file["observations/images/cam_high"] = h5py.ExternalLink("/etc/passwd", "/x")


def _external(file: Any) -> None:
    del file["action"]
    file.create_dataset("action", (LENGTH, 14), "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(file: Any) -> None:
    del file["action"]
    layout = h5py.VirtualLayout((LENGTH, 14), "f8")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (LENGTH, 14))
    file.create_virtual_dataset("action", layout)


def _objects(file: Any) -> None:
    del file["action"]
    file.create_dataset("action", (LENGTH, 14), h5py.special_dtype(vlen=np.dtype("u1")))


def _huge(file: Any) -> None:
    for path in ("observations/qpos", "observations/qvel", "observations/effort", "action"):
        del file[path]
        file.create_dataset(path, (10**12, 14), "f4", chunks=(1024, 14))


def _huge_chunks(file: Any) -> None:
    del file["action"]
    file.create_dataset("action", (LENGTH, 14), "f8", maxshape=(None, None), chunks=(2**20, 14))


def _bomb(file: Any) -> None:
    """Few bytes that say they are an image of 6000x6000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 6000, 6000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    _replace("observations/images/cam_high", np.tile(np.frombuffer(png, np.uint8), (LENGTH, 1)))(file)


def _packed_bomb(file: Any) -> None:
    """A chunk of 1344 bytes that unpacks to two million."""
    del file["action"]
    action = file.create_dataset("action", (LENGTH, 14), "f8", chunks=(LENGTH, 14), compression="gzip")
    action.id.write_direct_chunk((0, 0), zlib.compress(bytes(2 * 10**6)))


def packed(file: Any) -> None:
    """As it should be, packed."""
    values = file["action"][:]
    del file["action"]
    file.create_dataset("action", data=values, chunks=(5, 14), compression="gzip", shuffle=True, fletcher32=True)


def _not_utf8(file: Any) -> None:
    file.attrs.create("instruction", b"wipe \xff\xfe", dtype=h5py.string_dtype())


def _not_finite(file: Any) -> None:
    file["action"][3, 5] = np.nan


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_replace("action", h5py.ExternalLink("/etc/passwd", "/x")), "action of action is a link to elsewhere"),
        (_replace("action", h5py.SoftLink("/observations/qpos")), "action of action is a link to elsewhere"),
        (_replace("observations", h5py.ExternalLink("/etc/passwd", "/x")), "observations/qpos is a link to elsewhere"),
        (_link_images, "cam_high of observations/images/cam_high is a link to elsewhere"),
        (_external, "action has its data in another file"),
        (_virtual, "action has its data in another file"),
        (_objects, "action must be an array of numbers"),
        (_replace("action", np.zeros((LENGTH, 16))), "action must be .12, 14., not float64 .12, 16."),
        (_replace("observations/images/cam_high", np.zeros((LENGTH, 4), np.int64)), "rows of JPEG files of uint8"),
        (_huge, "it has 1000000000000 rows"),
        (_huge_chunks, "action has chunks of more than"),
        (_bomb, "row 0 of cam_high: the image is 6000x6000; up to 3840x2160 are read"),
        (_replace("observations/images/cam_high", np.ones((LENGTH, 99), np.uint8)), "row 0 of cam_high: the image c"),
        (_packed_bomb, "action: a chunk unpacks to more than the 1360 bytes of a chunk"),
        (_not_utf8, "instruction is not UTF-8"),
        (_not_finite, "action has a value that is not finite"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_with_one_line(tmp_path: Path, change: Callable[[Any], None], says: str) -> None:
    source = foreign(tmp_path / "bad.hdf5", change)
    with pytest.raises(RecordingError, match=says) as refusal:
        list(AlohaEpisode(source).rows(Grid(instruction="x")))
    assert len(str(refusal.value).splitlines()) == 1


def test_a_truncated_file_is_refused_and_the_others_are_converted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    foreign(folder / "a.hdf5")
    whole = foreign(folder / "b.hdf5")
    os.truncate(whole, whole.stat().st_size // 2)
    status, said = run([folder], tmp_path / "out", "mcap", grid=Grid(instruction="x"))
    assert status == 2
    refusal, *_ = said.splitlines()
    assert refusal.startswith(f"refused: {whole}: it cannot be read as HDF5: ")
    assert "truncated" in refusal
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mcap"]


def test_packed_numbers_are_read(tmp_path: Path) -> None:
    plain, small = foreign(tmp_path / "plain.hdf5"), foreign(tmp_path / "packed.hdf5", packed)
    assert assert_same_rows(AlohaEpisode(plain), AlohaEpisode(small), Grid(instruction="x"), 0.0) == LENGTH


def test_a_pipe_behind_a_virtual_dataset_is_not_waited_for(tmp_path: Path) -> None:
    """Of one without an end HDF5 opens the source for the shape alone, and a pipe nobody writes to never opens."""
    os.mkfifo(tmp_path / "pipe.hdf5")

    def endless(file: Any) -> None:
        del file["action"]
        none = h5py.h5s.UNLIMITED
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.VIRTUAL)
        space, source = (h5py.h5s.create_simple((LENGTH, 14), (none, 14)) for _ in range(2))
        for each in (space, source):
            each.select_hyperslab((0, 0), (1, 1), (1, 1), (none, 14))
        made.set_virtual(space, os.fsencode(tmp_path / "pipe.hdf5"), b"x", source)
        h5py.h5d.create(file.id, b"action", h5py.h5t.IEEE_F64LE, space, made)

    path = tmp_path / "bad.hdf5"
    foreign(path, endless)
    arguments = [sys.executable, "-m", "syvla.cli", "convert", str(path), str(tmp_path / "out"), "--to", "mcap"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    (line,) = done.stdout.splitlines()
    assert line.endswith("action has its data in another file, which is not opened")


def test_a_plug_in_is_not_loaded(tmp_path: Path) -> None:
    def filtered(file: Any) -> None:
        del file["action"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((LENGTH, 14))
        made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((LENGTH, 14))
        h5py.h5d.create(file.id, b"action", h5py.h5t.IEEE_F64LE, space, made)

    source = foreign(tmp_path / "bad.hdf5", filtered)
    with pytest.raises(RecordingError, match="action has filter 32015; once each there may be gzip"):
        AlohaEpisode(source, Reading().cameras)
