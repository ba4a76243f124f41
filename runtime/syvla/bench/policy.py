"""How often the learned policy speaks at real time, both of its systems and the twin on this machine."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from syvla.apps.director import Episode
from syvla.apps.evaluate import rates
from syvla.apps.realtime import run_realtime
from syvla.bench.conditions import conditions, progress
from syvla.errors import ConfigError
from syvla.policies import default_policy
from syvla.report.summary import summarise
from syvla.runs import RunFolder, chosen_tasks, realtime_run

TARGET_HZ = {"intent": 2.0, "chunk": 15.0}


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` seeds of each task (3 by default); of every episode the rates, and the medians of these."""
    policy = default_policy()
    if policy == "reference":
        raise ConfigError("the rates of a learned policy are measured, and its checkpoint is not here")
    seeds = repeats or (1 if quick else 3)
    limit_s = 8.0 if quick else 60.0
    tasks = chosen_tasks((), ("id",))
    episodes = [Episode(task, "id", seed, f"{task}-{seed}", limit_s) for seed in range(seeds) for task in tasks]
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        folder = RunFolder.create(Path(parent), "policy")
        result = run_realtime(realtime_run("twin", 0.0, 0.0, policy), episodes, folder, tell=progress(len(episodes)))
        paths = [folder.recordings / f"{episode.name}.mcap" for episode in episodes]
        topics = [summarise(path)["topics"] for path in paths if path.is_file()]
    hz = {name: [each.get(name, {}).get("rate_hz") or 0.0 for each in topics] for name in TARGET_HZ}
    median = {name: statistics.median(of or [0.0]) for name, of in hz.items()}
    lines = [
        f"policy {policy}: {name}s at {median[name]:.1f} Hz (median of {len(hz[name])} episodes, least "
        f"{min(hz[name], default=0.0):.1f}; target {TARGET_HZ[name]:g})"
        for name in TARGET_HZ
    ]
    lines += [
        f"  {row.task}: {row.successes}/{row.episodes} done (95 % interval {row.low:.1%} to {row.high:.1%})"
        for row in rates(result.outcomes)
    ]
    return {
        "benchmark": "policy",
        "conditions": conditions(),
        "rate_hz": hz,
        "median_hz": median,
        "target_hz": TARGET_HZ,
        "outcomes": [outcome._asdict() for outcome in result.outcomes],
        "reached": result.whole
        and len(topics) == len(episodes)
        and all(median[name] >= TARGET_HZ[name] for name in TARGET_HZ),
    }, lines
