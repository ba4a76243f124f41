"""Lateness of the 200 Hz loop with the whole demo running and CPU hogs beside it."""

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from syvla.apps.demo import run_realtime
from syvla.apps.director import Episode
from syvla.bench.conditions import conditions, progress
from syvla.rig import RunFolder, chosen_tasks, realtime_run

TARGET_P99_S = 0.2e-3
HOGS = 1


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Run ``repeats`` episodes of each task and look at every tick."""
    episodes = [
        Episode(task, "id", seed, f"{task}-{seed}", limit_s=5.0 if quick else 60.0)
        for seed in range(repeats or (1 if quick else 3))
        for task in chosen_tasks((), ("id",))
    ]
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent, hogs(HOGS):
        folder = RunFolder.create(Path(parent), "loop")
        result = run_realtime(realtime_run("twin", 0.3, 0.03), episodes, folder, tell=progress(len(episodes)))
    lateness_s = np.asarray(result.lateness_s)
    p50, p99, p999, most = (float(q) for q in np.quantile(lateness_s, (0.5, 0.99, 0.999, 1.0)))
    fifo = "SCHED_FIFO" in result.realtime and "refused" not in result.realtime
    reached = result.whole and p99 <= TARGET_P99_S
    lines = [
        f"loop: {len(lateness_s)} ticks at 200 Hz, {HOGS} CPU hog, {result.realtime}",
        f"  lateness p50 {p50 * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us, p99.9 {p999 * 1e6:.0f} us, max {most * 1e6:.0f} us"
        f" (target p99 {TARGET_P99_S * 1e6:.0f} us{'' if fifo else '; SCHED_FIFO is not allowed here'})",
        f"  episodes done: {sum(o.success for o in result.outcomes)} of {len(episodes)}; loop whole: {result.whole}",
    ]
    return {
        "benchmark": "loop",
        "conditions": conditions(),
        "realtime": result.realtime,
        "hogs": HOGS,
        "ticks": len(lateness_s),
        "lateness_s": {"p50": p50, "p99": p99, "p999": p999, "max": most},
        "target_p99_s": TARGET_P99_S,
        "outcomes": [o._asdict() for o in result.outcomes],
        "reached": reached,
    }, lines


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """``count`` processes that only burn processor time."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_burn, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _burn() -> None:
    while True:
        pass
