"""The closed loop over the bus at real time: are the tasks solved, and does a command ever wait for the planner?"""

import tempfile
from pathlib import Path
from typing import Any

from syvla.apps.director import Episode
from syvla.apps.evaluate import rates
from syvla.apps.realtime import run_realtime
from syvla.bench.conditions import conditions, progress
from syvla.report.summary import summarise
from syvla.runs import RunFolder, chosen_tasks, realtime_run

TARGET_RATE = 0.95
PLANNER_LATENCY_S = 0.3
EXPERT_LATENCY_S = 0.03


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` seeds of each task (40 by default), each recorded and looked through."""
    seeds = repeats or (1 if quick else 40)
    tasks = chosen_tasks((), ("id",))
    episodes = [Episode(task, "id", seed, f"{task}-{seed}") for seed in range(seeds) for task in tasks]
    with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
        folder = RunFolder.create(Path(parent), "closed-loop")
        run_config = realtime_run("twin", PLANNER_LATENCY_S, EXPERT_LATENCY_S)
        result = run_realtime(run_config, episodes, folder, tell=progress(len(episodes)))
        summaries = [summarise(path) for path in sorted(folder.recordings.glob("*.mcap"))]
    table = rates(result.outcomes)
    lines = [
        f"closed loop, {row.task}: {row.successes}/{row.episodes} {row.rate:.1%} "
        f"(95 % interval {row.low:.1%} to {row.high:.1%}; target {TARGET_RATE:.0%}), "
        f"mean {row.mean_duration_s or 0.0:.1f} s"
        for row in table
    ]
    lines += [f"  {o.episode.name}: {o.why}" for o in result.outcomes if not o.success]
    waiting = [summary["waiting_for_the_planner"] for summary in summaries]
    waited = sum(row["commands_that_waited"] or 0 for row in waiting)
    thoughts = sum(row["thoughts"] for row in waiting)
    gaps = [row["gap_while_planner_busy_s"]["max"] for row in waiting if "gap_while_planner_busy_s" in row]
    gap_s = max((gap for gap in gaps if gap is not None), default=0.0)
    seen = len(gaps) == len(episodes)  # otherwise "nobody waited" would be said of recordings that are not there
    oldest_s = max((s["intent"]["age_at_command_s"]["max"] or 0.0 for s in summaries), default=0.0)
    lines.append(
        f"  commands that waited for the planner: {waited}, during {thoughts} thoughts in {len(waiting)} recordings; "
        f"longest gap between two commands while it thought: {gap_s * 1e3:.1f} ms; "
        f"oldest intent behind a command: {oldest_s:.2f} s"
    )
    return {
        "benchmark": "closed-loop",
        "conditions": conditions(),
        "planner_latency_s": PLANNER_LATENCY_S,
        "expert_latency_s": EXPERT_LATENCY_S,
        "rates": [{**row._asdict(), "rate": row.rate} for row in table],
        "commands_that_waited": waited,
        "longest_gap_while_planner_busy_s": gap_s,
        "oldest_intent_at_command_s": oldest_s,
        "recordings": summaries,
        "outcomes": [o._asdict() for o in result.outcomes],
        "reached": result.whole and seen and waited == 0 and all(row.rate >= TARGET_RATE for row in table),
    }, lines
