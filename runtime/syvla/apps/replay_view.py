"""``syvla replay view``: a recording to look into, as one HTML file or for rerun."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from syvla.errors import ConfigError, RecordingError
from syvla.extras import check_rerun
from syvla.recording.mcap_read import Recording
from syvla.report.page import page
from syvla.report.video import Film, Style, film
from syvla.report.view_data import Shown, notes_of, page_data, read

MOST_FILM_BYTES = 48_000_000
LEAST_HEIGHT, MOST_HEIGHT = 60, 720
KEYFRAME_S = 0.5  # so that the film follows the playhead at once
Tell = Callable[[str], None]


def view(recording: Path, out: Path, at_s: float, for_s: float, video_height: int, tell: Tell) -> Path:
    """Write the page of ``for_s`` seconds from ``at_s`` on into the folder ``out``; what was written.

    ``video_height`` is that of a camera's picture in the film; 0: without a film.

    Raises:
        RecordingError: ``recording`` is none, holds nothing in that time, or the page exists.
        ConfigError: A number makes no sense.
    """
    if video_height != 0 and not LEAST_HEIGHT <= video_height <= MOST_HEIGHT:
        raise ConfigError(f"--video-height must be {LEAST_HEIGHT} to {MOST_HEIGHT}, or 0, not {video_height}")
    path = out / f"{recording.name.split('.mcap')[0]}.view.html"
    _check_free(path, "another folder (--out)")
    shown = read(Recording(recording), at_s, for_s)
    tell(f"{recording}: {shown.episode.duration_s:.1f} s from {at_s:g} s on")
    made, mp4, notes = _filmed(shown, video_height, tell)
    data = page_data(shown, made, notes)
    for note in data["notes"]:
        tell(f"  {note}")
    write_new(path, page(data, mp4).encode())
    return path


def to_rerun(recording: Path, rrd: Path, at_s: float, for_s: float, tell: Tell) -> Path:
    """Write ``for_s`` seconds from ``at_s`` on as rerun's own recording ``rrd``; errors as :func:`view`."""
    check_rerun()
    if rrd.suffix != ".rrd":
        raise ConfigError(f"--rerun {rrd}: the file's name must end in .rrd")
    _check_free(rrd, "another file")
    shown = read(Recording(recording), at_s, for_s)
    tell(f"{recording}: {shown.episode.duration_s:.1f} s from {at_s:g} s on")
    for note in notes_of(shown):
        tell(f"  {note}")
    from syvla.report.rerun_log import log_all

    write_new(rrd, b"")  # the name is ours from here on
    try:
        if unread := log_all(shown, rrd):
            tell(f"  {unread} images could not be read and are left out")
    except BaseException:
        rrd.unlink()
        raise
    return rrd


def _filmed(shown: Shown, height: int, tell: Tell) -> tuple[Film | None, bytes, list[str]]:
    """The film, its bytes, and why there is none."""
    if not any(topic.startswith("camera/") for topic in shown.episode.stamps):
        return None, b"", []
    if height == 0:
        return None, b"", ["The film was left out: --video-height 0."]
    tell("filming it")
    style = Style(height, captions=False, crf=24, keyframe_s=KEYFRAME_S)
    with tempfile.TemporaryDirectory(prefix="syvla-view-") as folder:
        mp4 = Path(folder) / "film.mp4"
        try:
            made = film(shown.episode, mp4, None, style, MOST_FILM_BYTES, lambda s: tell(f"  {s:.0f} s filmed"))
        except RecordingError as error:
            return None, b"", [f"The film was left out: {error}. Less --seconds or --video-height makes it smaller."]
        return made, mp4.read_bytes(), []


def _check_free(path: Path, instead: str) -> None:
    if os.path.lexists(path):
        raise RecordingError(f"{path} exists; name {instead}")


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet; what could not be written whole is taken away again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            try:
                file.write(content)
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
