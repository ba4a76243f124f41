"""``syvla eval``: success rates with Wilson intervals, in lockstep with given latencies."""

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from syvla.apps.director import Director, Episode, Outcome
from syvla.apps.parallel import in_order
from syvla.config import RunConfig
from syvla.proportion import wilson
from syvla.protocols import Stage
from syvla.rig import lockstep_host

SLICE_NS = 100_000_000


class Rate(NamedTuple):
    """Successes of trials with the 95 % Wilson score interval."""

    task: str
    split: str
    successes: int
    episodes: int
    low: float
    high: float
    mean_duration_s: float | None  # of the successes

    @property
    def rate(self) -> float:
        """The share of successes."""
        return self.successes / self.episodes


def run_lockstep(
    run: RunConfig, episode: Episode, extra: Sequence[Stage] = (), cameras: Sequence[str] = ()
) -> tuple[Outcome, float]:
    """One episode on a fresh twin under the virtual clock; the outcome and how long it took on the wall."""
    director = Director([episode])
    started_s = time.perf_counter()
    host = lockstep_host(run, [director, *extra], cameras)
    while not director.finished:
        host.run_until(host.now_ns + SLICE_NS)
    host.stop()
    return director.outcomes[0], time.perf_counter() - started_s


def evaluate(
    run: RunConfig, episodes: Iterable[Episode], progress: Callable[[Outcome, float], None], jobs: int = 1
) -> list[Outcome]:
    """Run every episode on a twin of its own, ``jobs`` at a time, telling ``progress`` of each (with its wall time).

    An episode shares nothing with the others, so ``jobs`` changes neither the outcomes nor their order.
    """
    outcomes = []
    for outcome, wall_s in in_order(functools.partial(run_lockstep, run), episodes, jobs):
        progress(outcome, wall_s)
        outcomes.append(outcome)
    return outcomes


def rates(outcomes: Sequence[Outcome]) -> list[Rate]:
    """Success by task and split, in the order of first appearance."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.episode.task, outcome.episode.split), []).append(outcome)
    found = []
    for (task, split), group in groups.items():
        successes = [outcome for outcome in group if outcome.success]
        mean_s = sum(o.duration_s for o in successes) / len(successes) if successes else None
        found.append(Rate(task, split, len(successes), len(group), *wilson(len(successes), len(group)), mean_s))
    return found
