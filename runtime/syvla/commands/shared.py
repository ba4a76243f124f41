"""What several commands share: kinds of arguments, and the file of a result."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from syvla.errors import ConfigError

Json = Annotated[Path | None, tyro.conf.arg(help="also write the result to this file")]
Policy = Annotated[str, tyro.conf.arg(metavar="reference|learned|FOLDER")]
Tasks = tuple[str, ...]


def at_least_one(name: str, value: int) -> None:
    """ConfigError if ``value`` is not."""
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}")


def check_writable(path: Path | None) -> None:
    """Before the long work, not after it; what is no earlier result is not overwritten."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            if file.read(1) not in (b"", b"{", b"["):
                raise ConfigError(f"--json {path}: exists, is no result in JSON, and is not overwritten")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from error


def write_json(path: Path | None, result: object) -> None:
    """Write ``result`` to ``path`` if there is one."""
    if path is not None:
        path.write_text(json.dumps(result, indent=2, default=str) + "\n")
        print(f"written to {path}")


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once: there is nothing to clean up yet.

    While modules load, a KeyboardInterrupt may be raised where somebody else's code swallows it, and a run that was
    told to stop would begin.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
