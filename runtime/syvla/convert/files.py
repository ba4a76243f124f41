"""Opening what others made: regular files only, no more than is wanted; names that are safe."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from syvla.errors import RecordingError
from syvla.messages import CAMERAS
from syvla.plain import plain
from syvla.recording.mcap_log import MAX_EPISODE_NAME
from syvla.recording.mcap_walk import open_regular


def read_file(path: Path, most_bytes: int) -> bytes:
    """All of a file of at most ``most_bytes``."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise RecordingError(f"{path}: it has more than {most_bytes} bytes")
        return file.read(most_bytes)


def identity(path: Path) -> str:
    """What tells a file from another, and from itself once it has changed."""
    try:
        found = path.stat()
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    where = os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")  # it goes into files
    return f"{where} ({found.st_size} bytes, {found.st_mtime_ns})"


def safe_name(text: str) -> str:
    """``text`` as the name of an episode."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:MAX_EPISODE_NAME]
    return kept or "episode"


def camera_names(found: Sequence[str], given: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """What each of our cameras is called among ``found``: as ``given``, else by the same name.

    Raises:
        RecordingError: One that is given is not there, or one that is there has a name that says nothing.
    """
    shown = ", ".join(plain(name, 64) for name in found[:16]) or "none"
    if given:
        for ours, theirs in given.items():
            if theirs not in found:
                raise RecordingError(f"{where}: it has no camera {theirs!r} for {ours}; there are {shown}")
        return dict(given)
    strange = [name for name in found if name not in CAMERAS]
    if strange:
        raise RecordingError(
            f"{where}: its cameras are {shown}; say which is which, as in --camera cam_high={plain(strange[0], 64)} "
            f"(ours are {', '.join(CAMERAS)})"
        )
    return {camera: camera for camera in CAMERAS if camera in found}
