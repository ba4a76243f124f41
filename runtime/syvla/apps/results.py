"""The file of a result: written whole or not at all, over an earlier result of the same command alone."""

import os
import tempfile
from pathlib import Path

from syvla.check.episode import shown
from syvla.errors import ConfigError


def check_ours(path: Path, mark: str, by: str) -> None:
    """ConfigError if something is at ``path`` that does not begin with ``mark``, or nothing can be put there.

    An empty file is nothing. ``by``: who writes the mark.
    """
    try:
        if os.path.lexists(path):
            if path.is_symlink() or not path.is_file():
                raise ConfigError(f"{shown(path)}: is no regular file")
            with path.open("rb") as file:
                if file.read(len(mark.encode())) not in (b"", mark.encode()):
                    raise ConfigError(f"{shown(path)}: exists, was not written by {by}, and is not overwritten")
        elif not path.parent.is_dir():
            raise ConfigError(f"{shown(path)}: there is no folder {shown(path.parent)}")
    except OSError as error:
        raise ConfigError(f"{shown(path)}: {error.strerror}") from error


def replace_ours(path: Path, text: str, mark: str, by: str) -> str:
    """Write ``text``, whole or not at all, where nothing or an older result of ours is; what was done, in words."""
    check_ours(path, mark, by)
    again = path.exists()
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            part = Path(file.name)
            try:
                file.write(text)
                file.flush()
                part.chmod(0o644)
                if not again:
                    path.touch(exist_ok=False)  # ours to replace
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{shown(path)}: {error.strerror}") from error
    return f"written to {shown(path)}{', over the one of before' if again else ''}"
