"""``syvla demonstrate``: the scripted demonstrator on the twin, recorded.

The demonstrator is the reference policy without latencies: its planner sees the table as it is, and its expert
answers at once.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from syvla.apps.director import Episode, Outcome
from syvla.apps.evaluate import run_lockstep
from syvla.apps.parallel import in_order
from syvla.config import RunConfig
from syvla.stages.recorder import RecorderStage


def demonstrate(
    run: RunConfig, episodes: Sequence[Episode], out: Path, cameras: Sequence[str], jobs: int = 1
) -> Iterator[Outcome]:
    """Run and record each episode on a twin of its own; the recording is ``out/<name>.mcap``."""
    out.mkdir(parents=True, exist_ok=True)
    yield from in_order(functools.partial(_record, run, out, tuple(cameras)), episodes, jobs)


def missing(episodes: Sequence[Episode], out: Path) -> list[Episode]:
    """Those of ``episodes`` that have no recording in ``out`` yet."""
    return [episode for episode in episodes if not (out / f"{episode.name}.mcap").exists()]


def _record(run: RunConfig, out: Path, cameras: tuple[str, ...], episode: Episode) -> Outcome:
    recorder = RecorderStage(out, run, {"policy": "demonstrator"})
    return run_lockstep(run, episode, [recorder], cameras)[0]
