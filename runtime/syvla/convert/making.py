"""What writers have in common: a file that is whole or not there, what was made, what is compared on reading back."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from syvla.convert.rows import Episode, Grid, Row
from syvla.convert.statistics import Stats
from syvla.errors import RecordingError

PART = ".part"


class WriteError(RecordingError):
    """The data set cannot be written: unlike a bad episode, this ends the conversion, which can go on later."""


@contextlib.contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Inside, an OSError or one of ``errors`` becomes a WriteError."""
    expected: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except expected as error:
        raise WriteError(f"{path}: cannot be written: {error}") from error


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One episode that is whole and was read back: a line of the journal."""

    origin: str
    name: str
    rows: int  # messages, where the format has no rows
    outcome: str = ""
    run: str = ""
    tasks: tuple[str, ...] = ()
    sizes: dict[str, tuple[int, int]] = {}  # height and width of each camera's images
    stats: dict[str, Stats] = {}


class Writer(Protocol):
    """Makes one data set in a folder of its own."""

    unit: str  # what of an episode is counted

    def write(self, number: int, name: str, episode: Episode, grid: Grid, tick: Callable[[], None]) -> Made:
        """Make the episode's files and read them back; RecordingError if either fails. ``tick`` at each row."""
        ...

    def finish(self, made: Callable[[], Iterator[Made]]) -> None:
        """Make what the data set has beside its episodes and read that back."""
        ...


@contextlib.contextmanager
def whole_files(*finals: Path) -> Iterator[list[Path]]:
    """Names to write to; what stands there becomes ``finals`` if nothing was raised, else it is removed."""
    parts = [final.with_name(final.name + PART) for final in finals]
    for final in finals:
        with writing(final):
            final.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield parts
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    for part, final in zip(parts, finals, strict=True):
        with writing(final):
            part.replace(final)


class Ends(NamedTuple):
    """The first and last row, how many there are and the digest of all, of what was written or read back."""

    length: int
    first: Row
    last: Row
    digest: str  # of every number as float32, every intervention and instruction


class Watched:
    """Rows that pass by, whose ends are remembered and whose values are digested."""

    def __init__(self, rows: Iterable[Row], tick: Callable[[], None] = lambda: None) -> None:
        self._rows = rows
        self._tick = tick
        self._first: Row | None = None
        self._last: Row | None = None
        self._count = 0
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self._first = self._first or row
            self._last = row
            self._count += 1
            numbers = np.array([row.state, row.velocity, row.effort, row.action], np.float32)
            self._digest.update(numbers.tobytes() + bytes([row.intervention]) + row.instruction.encode() + b"\0")
            yield row
            self._tick()

    def ends(self, where: str) -> Ends:
        """What passed; RecordingError if that was nothing."""
        if self._first is None or self._last is None:
            raise RecordingError(f"{where}: it has no rows")
        return Ends(self._count, self._first, self._last, self._digest.hexdigest())


def check_same(path: Path, written: Ends, read: Ends) -> None:
    """WriteError if what was read back is not what was written, in any row, to float32; images are not looked at."""
    if read.length != written.length:
        raise WriteError(f"{path}: was read back with {read.length} rows instead of {written.length}")
    if read.digest != written.digest:
        raise WriteError(f"{path}: was read back with other numbers, interventions or instructions")
