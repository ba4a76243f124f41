"""What a late chunk does to each strategy of joining chunks: success, and how hard the seams are, over the delay.

In lockstep, so that the delay is exactly what it is said to be: a chunk made for an instant arrives d rows after it,
and the expert begins the next one then. How hard a seam is is taken from what was sent to the arms, behind blending and
gate, see :mod:`syvla.report.seams`. How old an intent may be is not judged.
"""

import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.apps.parallel import in_order
from syvla.bench.conditions import conditions
from syvla.config import Continuity
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import JointCommand, Mode, SafetyState, Source, Splice
from syvla.policies import default_policy
from syvla.proportion import wilson
from syvla.protocols import Emit, Inbox, OnNew
from syvla.report.seams import seams
from syvla.runs import chosen_tasks, lockstep_run

DELAYS = tuple(range(0, 13, 2))  # rows of 1/30 s
PERIOD_S = 1 / 30
LATE_S = 0.002  # behind the row: a chunk that arrives on the very instant would count as one row earlier
PLANNER_LATENCY_S = 0.3
POINTS, SHARE, JUDGED = 3.0, 0.2, 8  # what success may lose at d = 8, and how hard its seams may be beside ``replace``
HORIZON = 50
JOBS = 2
PICTURE = Path("runs/bench-seams.png")
COLOURS = {"prefix": "#2a6f97", "guided": "#5f4b8b", "ensemble": "#d9a03f", "replace": "#d1495b"}


class Cell(NamedTuple):
    """One thing that is measured."""

    continuity: Continuity
    delay: int
    task: str
    seed: int


class Found(NamedTuple):
    """Of one episode. Jumps are of the worst joint at each seam; ``starved``: the share of ticks past a chunk's end."""

    cell: Cell
    success: bool
    duration_s: float
    velocity_rad_s: list[float]
    acceleration_rad_s2: list[float]
    starved: float
    holds: int


class _Watch:
    """Notes what was sent to the arms, and when another chunk took over."""

    name = "recorder"
    reads: tuple[str, ...] = ("command", "splice", "safety")
    writes: tuple[str, ...] = ()
    trigger = OnNew(reads)
    lossless = True
    stopped = True

    def __init__(self) -> None:
        self.at_ns: list[int] = []
        self.position_rad: list[Float64] = []
        self.spliced_ns: list[int] = []
        self.policy = self.past_end = self.holds = 0
        self._mode: Mode | None = None

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Take in what came."""
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, JointCommand):
                self.at_ns.append(message.commanded_ns)
                self.position_rad.append(message.position_rad)
                by_policy = message.provenance.source is Source.POLICY
                self.policy += by_policy
                self.past_end += by_policy and message.provenance.chunk_row == HORIZON - 1
            elif isinstance(message, Splice) and message.replaced_chunk_id >= 0:
                self.spliced_ns.append(message.spliced_ns)
            elif isinstance(message, SafetyState):
                self.holds += message.mode is Mode.HOLD and self._mode is Mode.ENABLED
                self._mode = message.mode
        return ()

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""


def measure(policy: str, cell: Cell) -> Found:
    """One episode."""
    run = lockstep_run("twin", PLANNER_LATENCY_S, cell.delay * PERIOD_S + LATE_S, policy, continuity=cell.continuity)
    # An expert that takes 0.4 s makes intents older than they may be, and the arms would hold for that.
    use = msgspec.structs.replace(run.rig.intent, stale_policy="use")
    run = msgspec.structs.replace(run, rig=msgspec.structs.replace(run.rig, intent=use))
    watch = _Watch()
    outcome, _ = run_lockstep(run, Episode(cell.task, "id", cell.seed, f"seams-{cell.seed}"), [watch])
    position_rad = np.array(watch.position_rad).reshape(len(watch.at_ns), -1)
    velocity, acceleration = seams(watch.at_ns, position_rad, watch.spliced_ns)
    starved = watch.past_end / max(watch.policy, 1)
    return Found(cell, outcome.success, outcome.duration_s, velocity, acceleration, starved, watch.holds)


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` seeds of each task, strategy and delay (20 by default); the picture goes to ``runs``."""
    seeds = repeats or (1 if quick else 20)
    delays = (0, JUDGED) if quick else DELAYS
    tasks = chosen_tasks(("snack_loading",) if quick else (), ("id",))
    policy = default_policy()
    if policy == "reference":
        raise ConfigError("the seams of a learned policy are measured, and its checkpoint is not here")
    cells = [
        Cell(continuity, delay, task, seed)
        for continuity in get_args(Continuity)
        for delay in delays
        for task in tasks
        for seed in range(seeds)
    ]
    found = []
    for number, each in enumerate(in_order(functools.partial(measure, policy), cells, JOBS), 1):
        found.append(each)
        state = "done" if each.success else "NOT DONE"
        words = f"{each.cell.continuity}, d = {each.cell.delay}, {each.cell.task}, seed {each.cell.seed}: {state}"
        print(f"[{number}/{len(cells)}] {words}", file=sys.stderr, flush=True)
    rows = [_row(continuity, delay, found) for continuity in get_args(Continuity) for delay in delays]
    verdict = _verdict(rows)
    _draw(rows, PICTURE)
    lines = [f"seams, policy {policy}, {', '.join(tasks)}, {seeds} seeds each, planner {PLANNER_LATENCY_S:g} s"]
    lines += [_words(row) for row in rows]
    lines += [verdict["words"], f"picture: {PICTURE}"]
    return {
        "benchmark": "seams",
        "conditions": conditions(),
        "rows": rows,
        "episodes": [each._asdict() for each in found],
        **verdict,
    }, lines


def _row(continuity: str, delay: int, found: Sequence[Found]) -> dict[str, Any]:
    of = [each for each in found if (each.cell.continuity, each.cell.delay) == (continuity, delay)]
    done = sum(each.success for each in of)
    low, high = wilson(done, len(of))
    velocity = [value for each in of for value in each.velocity_rad_s]
    acceleration = [value for each in of for value in each.acceleration_rad_s2]
    return {
        "continuity": continuity,
        "delay": delay,
        "episodes": len(of),
        "done": done,
        "interval": [low, high],
        "mean_duration_s": float(np.mean([each.duration_s for each in of if each.success])) if done else None,
        "velocity_jump_rad_s": _quantiles(velocity),
        "acceleration_jump_rad_s2": _quantiles(acceleration),
        "starved": float(np.mean([each.starved for each in of])),
        "holds": sum(each.holds for each in of),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, most = np.quantile(values, (0.5, 0.95, 1.0)) if len(values) else (0.0, 0.0, 0.0)
    return {"p50": float(p50), "p95": float(p95), "max": float(most)}


def _verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the default keeps success, and whether its seams are soft."""
    by = {(row["continuity"], row["delay"]): row for row in rows}
    best, late, plain = by["prefix", 0], by["prefix", JUDGED], by["replace", JUDGED]
    points = 100.0 * (best["done"] / best["episodes"] - late["done"] / late["episodes"])
    share = late["velocity_jump_rad_s"]["p95"] / max(plain["velocity_jump_rad_s"]["p95"], 1e-9)
    return {
        "points_lost": points,
        "seam_share": share,
        "reached": points <= POINTS and share <= SHARE,
        "words": (
            f"  prefix loses {points:.0f} points of success from d = 0 to d = {JUDGED} ({POINTS:g} allowed); its seams "
            f"are {share:.2f} of those of replace ({SHARE:g} allowed, velocity, p95)"
        ),
    }


def _words(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    velocity, acceleration = row["velocity_jump_rad_s"], row["acceleration_jump_rad_s2"]
    return (
        f"  {row['continuity']:9s} d {row['delay']:2d}: {row['done']}/{row['episodes']} ({low:.0%} to {high:.0%}), "
        f"{row['mean_duration_s'] or 0.0:.1f} s; seam {velocity['p50']:.3f} / {velocity['p95']:.3f} rad/s, "
        f"{acceleration['p50']:.1f} / {acceleration['p95']:.1f} rad/s^2 (p50 / p95); starved {row['starved']:.1%}, "
        f"{row['holds']} holds"
    )


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Success and seams over the delay."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    success, seam = figure.subplots(1, 2)
    for continuity, colour in COLOURS.items():
        of = [row for row in rows if row["continuity"] == continuity]
        delays = [row["delay"] for row in of]
        rate = np.array([row["done"] / row["episodes"] for row in of])
        low, high = np.array([row["interval"] for row in of]).T
        success.plot(delays, rate, color=colour, marker="o", label=continuity)
        success.fill_between(delays, low, high, color=colour, alpha=0.12, linewidth=0)
        seam.plot(delays, [row["velocity_jump_rad_s"]["p95"] for row in of], color=colour, marker="o")
    success.set(xlabel="inference delay d [rows of 1/30 s]", ylabel="success, 95 % interval", ylim=(0.0, 1.02))
    seam.set(xlabel="inference delay d [rows of 1/30 s]", ylabel="velocity jump at a seam, p95 [rad/s in 5 ms]")
    seam.set_ylim(bottom=0.0)
    success.legend(frameon=False)
    for axes in (success, seam):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
