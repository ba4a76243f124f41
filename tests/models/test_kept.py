"""What was read of a recording once is what reading it gives, for as long as that would give the same."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.test_samples import record

from syvla.errors import RecordingError
from syvla_models.train import kept
from syvla_models.train.episode import Episode, read_episode
from syvla_models.train.kept import FOLDER, read_kept

WANTED: dict[str, Any] = {"max_image_hz": 7.5, "thoughts": True}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("original") / "a.mcap")


@pytest.fixture
def recording(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path))


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple):
        assert isinstance(other, tuple)
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def read(path: Path, **changes: Any) -> Episode:
    return read_kept(path, ["cam_high"], **{**WANTED, **changes})


def count(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The recordings that are read from now on."""
    found: list[Path] = []

    def counted(path: Path, *arguments: Any, **wanted: Any) -> Episode:
        found.append(path)
        return read_episode(path, *arguments, **wanted)

    monkeypatch.setattr(kept, "read_episode", counted)
    return found


def test_it_is_read_once_and_is_the_same_ever_after(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_episode(recording, ["cam_high"], **WANTED)
    reads = count(monkeypatch)
    assert all(same(read(recording), whole) for _ in range(3))
    assert reads == [recording]
    assert [file.name for file in (recording.parent / FOLDER).iterdir()] == ["a.msgpack"]


def test_another_wish_another_recording_and_other_code_are_read_anew(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(recording)
    reads = count(monkeypatch)
    fewer = read(recording, max_image_hz=2.0)
    assert len(reads) == 1
    assert len(fewer.sights) < len(first.sights)
    os.utime(recording, ns=(0, 0))
    read(recording, max_image_hz=2.0)
    assert len(reads) == 2
    monkeypatch.setattr(kept, "_CODE", b"other")
    read(recording, max_image_hz=2.0)
    assert len(reads) == 3


@pytest.mark.parametrize("harm", [b"", b"\x93", b"\x92\xa1a\xc0", b"cut"])
def test_what_was_kept_and_came_to_harm_is_passed_over(
    recording: Path, harm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read(recording)
    file = recording.parent / FOLDER / "a.msgpack"
    file.write_bytes(file.read_bytes()[:-7] if harm == b"cut" else harm)
    reads = count(monkeypatch)
    assert same(read(recording), whole)
    assert len(reads) == 1


def test_a_number_that_is_not_finite_does_not_come_in_by_this_door(recording: Path) -> None:
    """Whoever hands over recordings may have put something into the folder beside them."""
    whole = read(recording)
    file = recording.parent / FOLDER / "a.msgpack"
    values = whole.commands.values.copy()
    values[3, 5] = np.nan
    forged = whole._replace(commands=whole.commands._replace(values=values))
    file.write_bytes(kept._encoder.encode(kept._Kept(kept._decoder.decode(file.read_bytes()).key, forged)))
    assert same(read(recording), whole)


def test_a_folder_that_cannot_be_written_to_is_left_alone(recording: Path) -> None:
    (recording.parent / FOLDER).write_text("not a folder")
    assert read(recording).name == "a"
    assert (recording.parent / FOLDER).read_text() == "not a folder"


def test_a_recording_that_is_refused_is_refused_again(tmp_path: Path) -> None:
    failed = record(tmp_path / "b.mcap", outcome="failure")
    for _ in range(2):
        with pytest.raises(RecordingError, match="its outcome is 'failure'"):
            read(failed)
    failed.unlink()
    with pytest.raises(RecordingError, match=r"b\.mcap"):
        read(failed)
