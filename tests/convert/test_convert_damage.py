"""Damage anywhere in a file of any format: it is read, or refused with one line. Nothing else comes out."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin
from tests.convert.made import record
from tests.convert.test_convert_aloha import foreign, packed
from tests.convert.test_convert_bag import write_bag
from tests.convert.test_convert_foreign_lerobot import write

from syvla.convert.found import Reading, episodes_of
from syvla.convert.rows import Grid
from syvla.errors import SyvlaError

TIMES = 24
SOURCES: dict[str, Callable[[Path], Path]] = {
    "our recording": lambda folder: record(folder / "a.mcap", 0.4),
    "HDF5": lambda folder: foreign(folder / "a.hdf5"),
    "packed HDF5": lambda folder: foreign(folder / "a.hdf5", packed),
    "SQLite": lambda folder: write_bag(folder / "bag", duration_s=0.4),
    "ROS MCAP": lambda folder: write_bag(folder / "bag", StoragePlugin.MCAP, duration_s=0.4),
    "LeRobot": lambda folder: write(folder / "set"),
    "LeRobot with images": lambda folder: write(folder / "set", video=False),
}


def read_all(source: Path) -> int | str:
    """How many rows there are in all episodes, or why they are refused."""
    try:
        episodes = episodes_of(source, Reading(), "lerobot")
        return sum(1 for episode in episodes for _ in episode.rows(Grid(instruction="x")))
    except SyvlaError as error:
        return str(error)


@pytest.mark.parametrize("kind", SOURCES)
def test_damage_is_refused_with_one_line(tmp_path: Path, kind: str) -> None:
    source = SOURCES[kind](tmp_path)
    whole = read_all(source)
    assert isinstance(whole, int)
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    chance, refused = random.Random(kind), 0
    for _ in range(TIMES):
        path = chance.choice(files)
        before = path.read_bytes()
        at, length = chance.randrange(len(before)), chance.choice((1, 4, 64, 512))
        noise = chance.choice((b"\xff" * length, chance.randbytes(length)))
        path.write_bytes(before[:at] + chance.choice((noise + before[at + length :], b"")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read_all(source)
        path.write_bytes(before)
        if isinstance(found, str):
            refused += 1
            assert len(found.splitlines()) == 1
    assert refused > 0
    assert read_all(source) == whole
