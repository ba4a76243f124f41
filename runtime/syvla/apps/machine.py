"""What the doctor looks through: files below a root, programs that are asked, packages. Looks, and changes nothing."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

T = TypeVar("T")
ASK_LIMIT_S = 30.0  # importing torch on a busy machine takes most of it


class Answer(NamedTuple):
    """What a program said. ``status`` 0: done; None: it is not here, or gave no answer in time."""

    status: int | None
    out: str = ""
    error: str = ""  # the last line of its errors, or why it could not be run

    def decode(self, kind: type[T]) -> T | None:
        """The last line of its output as JSON, or None where that is not a ``kind``; libraries talk above it."""
        lines = self.out.strip().splitlines()
        if self.status != 0 or not lines:
            return None
        try:
            return msgspec.json.decode(lines[-1], type=kind)
        except msgspec.MsgspecError:
            return None


def run_program(command: Sequence[str]) -> Answer:
    """Run a program to its end, without a terminal, for at most ``ASK_LIMIT_S``."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ASK_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, error=f"{command[0]} gave no answer in {ASK_LIMIT_S:.0f} s")
    except OSError as error:
        return Answer(None, error=f"{command[0]}: {error.strerror}")
    errors = done.stderr.strip().splitlines()
    return Answer(done.returncode, done.stdout, errors[-1].strip() if errors else "")


def package_version(module: str, distribution: str) -> str | None:
    """The version of an importable package, "" where it has none, None where it is not here. Does not import it."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Machine(NamedTuple):
    """This machine, or a made-up one: paths below ``root``, the environment, programs and packages."""

    root: Path
    environment: Mapping[str, str]
    run: Callable[[Sequence[str]], Answer]
    package: Callable[[str, str], str | None]

    def path(self, name: str) -> Path:
        """``name``, an absolute path, below the root."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """The text of a file without the spaces around it; None where it cannot be read."""
        try:
            return self.path(name).read_text(errors="replace").strip()
        except OSError:
            return None

    def glob(self, pattern: str) -> list[Path]:
        """The paths that match, in order."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def python(self, script: str, *arguments: str) -> Answer:
        """Run ``script`` in an interpreter of its own: a library that crashes takes nobody with it."""
        return self.run([sys.executable, "-c", script, *arguments])


def this_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(Path("/"), dict(os.environ), run_program, package_version)
