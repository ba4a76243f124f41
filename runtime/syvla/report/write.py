"""Writes the whole report of a recording: summary, timeline and film."""

import json
from pathlib import Path

from syvla.errors import RecordingError
from syvla.report.episode import load
from syvla.report.plot import draw_to
from syvla.report.summary import summarise_episode
from syvla.report.video import film


def write_report(recording: Path, folder: Path) -> list[Path]:
    """Make ``<name>.summary.json``, ``<name>.timeline.png`` and, if there are images, ``<name>.mp4``; what was made.

    Raises:
        RecordingError: ``recording`` is none, or one of the files exists.
    """
    episode = load(recording)
    name = recording.name.split(".mcap")[0]
    summary, timeline, mp4 = (folder / f"{name}{ending}" for ending in (".summary.json", ".timeline.png", ".mp4"))
    for path in (summary, timeline, mp4):
        if path.exists():
            raise RecordingError(f"{path} exists; name another folder for the report")
    folder.mkdir(parents=True, exist_ok=True)
    summary.write_text(json.dumps(summarise_episode(episode), indent=2) + "\n")
    draw_to(episode, timeline)
    if not any(topic.startswith("camera/") for topic in episode.stamps):
        return [summary, timeline]
    film(episode, mp4)
    return [summary, timeline, mp4]
