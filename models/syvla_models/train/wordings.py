"""Other wordings of recorded instructions, so that a planner that watches hands at work has heard more than one.

Beside the recordings lies ``wordings.json``, by instruction::

    {"Put the red cube into the white tray.": ["The white tray needs the red cube.", "Drop the red cube ..."]}
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from syvla.errors import ConfigError
from syvla.messages import MAX_TEXT

WORDINGS_FILE = "wordings.json"
Wordings = Mapping[str, tuple[str, ...]]


def read_wordings(recordings: Iterable[Path]) -> Wordings:
    """The wordings beside ``recordings``; ConfigError names a file that is missing or cannot be used, and why."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in dict.fromkeys(path.parent for path in recordings):
        path = folder / WORDINGS_FILE
        try:
            read = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]])
        except FileNotFoundError:
            raise ConfigError(f"reworded: {path} is missing; `syvla-train record-demos --wordings` writes it") from None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise ConfigError(f"reworded: {path} cannot be read: {error}") from error
        for instruction, wordings in read.items():
            if not wordings or any(not text.strip() or len(text.encode()) > MAX_TEXT for text in wordings):
                raise ConfigError(f"reworded: {path}: {instruction!r} needs wordings of 1..{MAX_TEXT} bytes")
        found.update(read)
    return found
