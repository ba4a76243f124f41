"""What several commands share: kinds of arguments, and the file of a result."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import tyro

from syvla.errors import ConfigError

Json = Annotated[Path | None, tyro.conf.arg(help="also write the result to this file")]
Policy = Annotated[str, tyro.conf.arg(metavar="reference|learned|FOLDER")]
Tasks = tuple[str, ...]
_RESULT_OF = "result_of"


def at_least_one(name: str, value: int) -> None:
    """ConfigError if ``value`` is not."""
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, not {value}")


def check_writable(path: Path | None, command: str) -> None:
    """Before the long work, not after it; what is no earlier result of ``command`` is not overwritten.

    Nothing is made yet, not even the folder.
    """
    if path is None:
        return
    from syvla.apps.results import check_ours

    there = next((folder for folder in path.parents if os.path.lexists(folder)), path.parent)
    if not there.is_dir():
        raise ConfigError(f"--json {path}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--json {path}: nothing may be written into {there}")
    if there == path.parent:
        check_ours(path, _begins(command), command)


def write_json(path: Path | None, command: str, result: Mapping[str, object]) -> None:
    """Write ``result``, and before it that it is one of ``command``, to ``path`` if there is one."""
    if path is None:
        return
    from syvla.apps.results import replace_ours

    text = json.dumps({_RESULT_OF: command, **result}, indent=2, default=str) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror}") from error
    print(replace_ours(path, text, _begins(command), command))


def _begins(command: str) -> str:
    return f'{{\n  "{_RESULT_OF}": {json.dumps(command)}'


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
