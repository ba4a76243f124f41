"""``syvla demonstrate``: the scripted demonstrator on the twin, recorded.

The demonstrator is the reference policy without latencies: its planner sees the table as it is, and its expert
answers at once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from syvla.apps.director import Episode, Outcome
from syvla.apps.evaluate import run_lockstep
from syvla.config import RunConfig
from syvla.stages.recorder import RecorderStage


def demonstrate(run: RunConfig, episodes: Sequence[Episode], out: Path, cameras: bool) -> Iterator[Outcome]:
    """Run and record each episode on a twin of its own; the recording is ``out/<name>.mcap``."""
    out.mkdir(parents=True, exist_ok=True)
    for episode in episodes:
        recorder = RecorderStage(out, run, {"policy": "demonstrator"})
        outcome, _ = run_lockstep(run, episode, [recorder], cameras)
        yield outcome
