"""``syvla demonstrate``: the scripted demonstrator on the twin, recorded.

The demonstrator is the reference policy without latencies: its planner sees the table as it is, and its expert
answers at once. With a learner the two act in turn, both with the latencies of an evaluation (see
:mod:`~syvla.sim.takeover`).
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from syvla.apps.director import Episode, Outcome
from syvla.apps.evaluate import run_lockstep
from syvla.apps.parallel import in_order
from syvla.config import RunConfig
from syvla.errors import ConfigError
from syvla.sim.tasks import ALL_TASKS
from syvla.sim.tasks.goal import generator
from syvla.sim.tasks.wording import instruction
from syvla.stages.recorder import RecorderStage

WORDINGS_FILE = "wordings.json"


def demonstrate(
    run: RunConfig, episodes: Sequence[Episode], out: Path, cameras: Sequence[str], jobs: int = 1
) -> Iterator[Outcome]:
    """Run and record each episode on a twin of its own; the recording is ``out/<name>.mcap``."""
    out.mkdir(parents=True, exist_ok=True)
    yield from in_order(functools.partial(_record, run, out, tuple(cameras)), episodes, jobs)


def missing(episodes: Sequence[Episode], out: Path) -> list[Episode]:
    """Those of ``episodes`` that have no recording in ``out`` yet."""
    return [episode for episode in episodes if not (out / f"{episode.name}.mcap").exists()]


def write_wordings(episodes: Sequence[Episode], out: Path, count: int) -> Path:
    """Write ``count`` other wordings of each episode's instruction into ``out/wordings.json``, by instruction.

    An instruction that is in the file already has the new ones instead. ConfigError if the file is there and cannot be
    read; it is left as it is.
    """
    path = out / WORDINGS_FILE
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]]) if path.exists() else {}
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for episode in episodes:
        task = ALL_TASKS[episode.task]
        said = task.reset(episode.seed, episode.split).instruction
        goal = task.goal(said)
        if goal is not None:
            rng = generator(f"{episode.task}/wordings", episode.split, episode.seed)
            known[said] = tuple(instruction(rng, goal) for _ in range(count))
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(known)))
    part.replace(path)
    return path


def _record(run: RunConfig, out: Path, cameras: tuple[str, ...], episode: Episode) -> Outcome:
    recorder = RecorderStage(out, run, {"policy": "demonstrator"})
    return run_lockstep(run, episode, [recorder], cameras)[0]
