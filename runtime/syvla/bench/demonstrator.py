"""How many of 200 seeds of each task the scripted demonstrator solves, in lockstep and without latencies."""

from typing import Any

from syvla.apps.director import Episode
from syvla.apps.evaluate import evaluate, rates
from syvla.bench.conditions import conditions, progress
from syvla.runs import chosen_tasks, lockstep_run

TARGET_RATE = 0.98
SEEDS = 200


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` seeds of each task (200 by default)."""
    seeds = repeats or (3 if quick else SEEDS)
    plan = [Episode(task, "id", seed, f"{task}-{seed}") for task in chosen_tasks((), ("id",)) for seed in range(seeds)]
    tell = progress(len(plan))
    outcomes = evaluate(lockstep_run("twin", 0.0, 0.0, "reference"), plan, lambda outcome, wall_s: tell(outcome))
    table = rates(outcomes)
    lines = [
        f"demonstrator, {row.task}: {row.successes}/{row.episodes} {row.rate:.1%} "
        f"(95 % interval {row.low:.1%} to {row.high:.1%}; target {TARGET_RATE:.0%}), "
        f"mean {row.mean_duration_s or 0.0:.1f} s"
        for row in table
    ]
    lines += [f"  {o.episode.name}: {o.why}" for o in outcomes if not o.success]
    return {
        "benchmark": "demonstrator",
        "conditions": conditions(),
        "rates": [{**row._asdict(), "rate": row.rate} for row in table],
        "outcomes": [outcome._asdict() for outcome in outcomes],
        "reached": all(row.rate >= TARGET_RATE for row in table),
    }, lines
