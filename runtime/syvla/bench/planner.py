"""How long a thought of the shipped planner takes, beside transformers on the same images of an episode."""

from typing import Any

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.bench.conditions import conditions
from syvla.messages import Observation, Task
from syvla.protocols import Emit, Inbox, Periodic
from syvla.rig import bench_planner
from syvla.runs import lockstep_run
from syvla.stages.observer import Observer

PERIOD_NS = 300_000_000  # from one image to the next: about what a thought takes
CAMERA = "cam_high"


class _Looking:
    """Notes what a planner would see."""

    name = "recorder"
    writes: tuple[str, ...] = ()
    trigger = Periodic(PERIOD_NS)
    lossless = False
    stopped = True

    def __init__(self) -> None:
        self.observer = Observer((CAMERA,))
        self.reads = (*self.observer.reads, "task")
        self.seen: list[tuple[Observation, Task]] = []

    def step(self, now_ns: int, inbox: Inbox) -> list[Emit]:
        observation, task = self.observer.observation(now_ns, inbox), inbox.get("task")
        if observation is not None and isinstance(task, Task) and task.instruction:
            self.seen.append((observation, task))
        return []

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Ask about ``repeats`` images (60 by default) of episodes of the reference policy."""
    result, lines = bench_planner(seen_in_episodes(repeats or (5 if quick else 60)))
    return {**result, "conditions": conditions()}, lines


def seen_in_episodes(wanted: int) -> list[tuple[Observation, Task]]:
    """So many observations of a planner, in episodes of the reference policy."""
    looking = _Looking()
    run_config = lockstep_run("twin", 0.3, 0.03, "reference")
    for seed in range(wanted):
        if len(looking.seen) < wanted:
            run_lockstep(run_config, Episode("snack_loading", "id", seed, f"bench-{seed}"), [looking], (CAMERA,))
    return looking.seen[:wanted]
