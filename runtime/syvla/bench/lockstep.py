"""How much faster than real time the lockstep host runs a whole episode, without and with three cameras."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from syvla.apps.director import Director, Episode
from syvla.bench.conditions import conditions
from syvla.config import RunConfig
from syvla.rig import lockstep_host
from syvla.runs import chosen_tasks, lockstep_run
from syvla.topics import CAMERAS

TARGET = {"no cameras": 20.0, "three cameras 224x224 at 10 Hz": 3.0}
SLICE_NS = 100_000_000


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """Alternate the two kinds of episode ``repeats`` times; medians of simulated over wall time."""
    repeats = repeats or (1 if quick else 5)
    without = lockstep_run("twin", 0.3, 0.03, "reference")
    cameras = msgspec.structs.replace(without.rig.cameras, width=224, height=224, rate_hz=10.0)
    rig = msgspec.structs.replace(without.rig, cameras=cameras)
    with_cameras = msgspec.structs.replace(without, rig=rig)
    speeds: dict[str, list[float]] = {name: [] for name in TARGET}
    for seed in range(repeats):
        for task in chosen_tasks((), ("id",)):
            episode = Episode(task, "id", seed, f"{task}-{seed}", limit_s=3.0 if quick else 60.0)
            for name, config, seen in zip(TARGET, (without, with_cameras), ((), CAMERAS), strict=True):
                speeds[name].append(_speed(config, episode, seen))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    lines = [
        f"lockstep, {name}: {medians[name]:.1f}x real time (median of {len(values)}; "
        f"{min(values):.1f} to {max(values):.1f}; target {TARGET[name]:g}x)"
        for name, values in speeds.items()
    ]
    result = {
        "benchmark": "lockstep",
        "conditions": conditions(),
        "speed": speeds,
        "median": medians,
        "target": TARGET,
        "reached": all(medians[name] >= TARGET[name] for name in TARGET),
    }
    return result, lines


def _speed(config: RunConfig, episode: Episode, cameras: Sequence[str]) -> float:
    """Simulated seconds for each second of wall time; building the twin is not counted, as it happens once."""
    director = Director([episode])
    host = lockstep_host(config, [director], cameras=cameras)
    host.run_until(SLICE_NS)
    started_s = time.perf_counter()
    while not director.finished:
        host.run_until(host.now_ns + SLICE_NS)
    wall_s = time.perf_counter() - started_s
    simulated_s = (host.now_ns - SLICE_NS) * 1e-9
    host.stop()
    return simulated_s / wall_s
