"""A conversion under way: the folder it grows in, what of it is done, and how it goes on after an interruption.

Until everything is there the folder is called ``<out>.partial``. In it the journal has what is converted into what,
and a line for each episode that is whole. An ``out`` that exists is never touched.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from syvla.convert.making import PART, Made, writing
from syvla.errors import RecordingError
from syvla.recording.mcap_log import MAX_EPISODE_NAME, PARTIAL
from syvla.recording.mcap_walk import open_regular

NAME = "conversion.jsonl"
MAX_LINE = 64 * 2**20
T = TypeVar("T")


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is converted, and how. A half-made conversion goes on only if it is the same."""

    settings: dict[str, str]
    origins: list[str]


class Journal(contextlib.AbstractContextManager["Journal"]):
    """The conversion into ``out``, begun or taken up again. Until it is left, no other process has it.

    Raises:
        RecordingError: ``out`` exists, another conversion into it is half made, or one is running.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out = out
        self.folder = out.with_name(out.name + PARTIAL)
        self._path = self.folder / NAME
        if os.path.lexists(out):
            raise RecordingError(f"{out}: exists already and is not overwritten")
        if os.path.lexists(self.folder) and not self._is_ours():
            raise RecordingError(f"{self.folder}: is there and is no conversion of ours; remove it first")
        with writing(self._path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            self._take_it()
            self._begin_or_take_up(plan)
        except BaseException:
            os.close(self._lock)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def made(self) -> Iterator[Made]:
        """The episodes that are whole, in their order."""
        lines = self._lines()
        next(lines)
        for line in lines:
            yield self._decoded(line, Made)

    def add(self, made: Made) -> None:
        """Remember that an episode is whole."""
        self._append(msgspec.json.encode(made))

    def finish(self) -> None:
        """Give the folder its final name; RecordingError if that is taken meanwhile."""
        if os.path.lexists(self.out):
            raise RecordingError(f"{self.out}: exists already and is not overwritten")
        self._path.unlink()
        self.folder.rename(self.out)

    def discard(self) -> None:
        """Leave nothing of a conversion in which nothing was converted."""
        self._path.unlink()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        self.folder.rmdir()

    # ------------------------------------------------------------ inside

    def _is_ours(self) -> bool:
        """Whether the folder has a journal, or nothing at all, as one that was cut short before its first line."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return False
        return (
            stat.S_ISREG(self._path.lstat().st_mode) if os.path.lexists(self._path) else not any(self.folder.iterdir())
        )

    def _take_it(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordingError(f"{self.folder}: another conversion into it is running") from error
        except OSError:  # a file system without locks
            return
        if os.fstat(self._lock).st_nlink == 0:
            raise RecordingError(f"{self.out}: another conversion into it has just ended")

    def _begin_or_take_up(self, plan: Plan) -> None:
        first = next(self._lines(), None)
        if first is None:
            if any(path != self._path for path in self.folder.iterdir()):
                raise RecordingError(f"{self.folder}: is there and is no conversion of ours; remove it first")
            os.truncate(self._path, 0)
            self._append(msgspec.json.encode(plan))
            return
        try:
            before = self._decoded(first, Plan)
        except RecordingError as error:
            raise RecordingError(f"{self.folder}: is there and is no conversion of ours; remove it first") from error
        what = _difference(before, plan)
        if what:
            raise RecordingError(f"{self.folder}: is half made of {what}; finish or remove that first")
        whole = sum(len(line) for line in self._lines())
        os.truncate(self._path, whole)  # a line that was not written to its end
        for half in (*self.folder.rglob(f"*{PART}"), *self.folder.rglob(f"*{PARTIAL}")):
            half.unlink()

    def _lines(self) -> Iterator[bytes]:
        with open_regular(self._path) as file:
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                yield line

    def _decoded(self, line: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordingError(f"{self._path}: is not as it was written: {error}") from error

    def _append(self, line: bytes) -> None:
        with writing(self._path), self._path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _difference(before: Plan, now: Plan) -> str:
    """What of a half-made conversion is not as it is wanted now, in words."""
    for key in before.settings.keys() | now.settings.keys():
        old, new = before.settings.get(key, ""), now.settings.get(key, "")
        if old != new:
            return f"another conversion ({key} {old[:64]!r}, not {new[:64]!r})"
    return "other sources, or they have changed" if before.origins != now.origins else ""


def unique(names: Sequence[str]) -> list[str]:
    """The names, those that come again with ``-2``, ``-3``, ... behind them; none is longer than a name may be."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    found = []
    for name in names:
        free, number = name, last.get(name, 1)
        while free in taken:
            number += 1
            free = f"{name[: MAX_EPISODE_NAME - len(str(number)) - 1]}-{number}"
        last[name] = number
        taken.add(free)
        found.append(free)
    return found
