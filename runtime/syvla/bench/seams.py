"""What a late chunk does to each strategy of joining chunks: success, and how hard the seams are, over the delay.

In lockstep, so that the delay is exactly what it is said to be: a chunk made for an instant arrives d rows after it,
and the expert begins the next one then. How hard a seam is, see :mod:`syvla.report.seams`, is taken twice: from what
was asked for, as chunks and blending make it, and from what was sent, where the gate has limited every acceleration.
How old an intent may be is not judged. What the default is judged by is run with more seeds than the rest.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np

from syvla.apps.director import Episode
from syvla.apps.evaluate import run_lockstep
from syvla.apps.parallel import in_order
from syvla.bench.conditions import conditions
from syvla.config import Continuity, RigConfig
from syvla.control.timeline import Timeline
from syvla.errors import ConfigError, SyvlaError
from syvla.message import Float64
from syvla.messages import ARMS, BOTH_ARMS_JOINTS, ActionChunk, JointCommand, Mode, SafetyState, Source, Splice
from syvla.policies import default_policy
from syvla.proportion import difference, wilson
from syvla.protocols import Emit, Inbox, OnNew
from syvla.report.seams import seams
from syvla.runs import PLANNER_LATENCY_S, chosen_tasks, lockstep_run

DELAYS = tuple(range(0, 13, 2))  # rows of 1/30 s
PERIOD_S = 1 / 30
LATE_S = 0.002  # behind the row: a chunk that arrives on the very instant would count as one row earlier
POINTS, SHARE, JUDGED = 3.0, 0.2, 8  # what success may lose at d = 8, and how hard its seams may be beside ``replace``
SEEDS, JUDGED_SEEDS = 20, 50  # of each task; of the default at d = 0 and 8
SAME_RAD = 1e-9
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


class Jumps(NamedTuple):
    """Of the worst joint at each seam."""

    velocity_rad_s: list[float]
    acceleration_rad_s2: list[float]


class Found(NamedTuple):
    """Of one episode. ``starved``: the share of ticks past a chunk's end, or held.

    With an ``error`` there is nothing else in it.
    """

    cell: Cell
    success: bool
    duration_s: float
    asked: Jumps
    sent: Jumps
    starved: float
    holds: int
    error: str = ""


class _Watch:
    """Notes what was sent to the arms, what was asked of the gate, and when another chunk took over.

    What was asked follows from chunks and splices, by a timeline like the robot's.
    """

    name = "recorder"
    reads: tuple[str, ...] = ("chunk", "command", "splice", "safety")
    writes: tuple[str, ...] = ()
    trigger = OnNew(reads)
    lossless = True
    stopped = True

    def __init__(self, rig: RigConfig) -> None:
        self._timeline = Timeline(rig.control, (rig.left, rig.right))
        self._chunks: dict[int, ActionChunk] = {}
        self._standing = [math.nan] * (BOTH_ARMS_JOINTS + len(ARMS))
        self.at_ns: list[int] = []
        self.asked_rad: list[Float64] = []
        self.sent_rad: list[Float64] = []
        self.spliced_ns: list[int] = []
        self.policy = self.past_end = self.held = self.holds = 0
        self._mode: Mode | None = None

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Take in what came."""
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, JointCommand):
                self._take_command(message)
            elif isinstance(message, ActionChunk):
                self._chunks[message.chunk_id] = message
            elif isinstance(message, Splice):
                self._take_splice(message)
            elif isinstance(message, SafetyState):
                self.holds += message.mode is Mode.HOLD and self._mode is Mode.ENABLED
                self._mode = message.mode
        return ()

    def _take_command(self, command: JointCommand) -> None:
        by_policy = command.provenance.source is Source.POLICY
        self.policy += by_policy
        self.past_end += by_policy and command.provenance.chunk_row == HORIZON - 1
        self.held += self.policy > 0 and command.provenance.source is Source.HOLD
        sample = self._timeline.sample(command.commanded_ns) if by_policy else None
        asked = [math.nan] * BOTH_ARMS_JOINTS if sample is None else sample.set_point[:BOTH_ARMS_JOINTS]
        self.at_ns.append(command.commanded_ns)
        self.asked_rad.append(np.array(asked))
        self.sent_rad.append(command.position_rad)
        self._standing = [*command.position_rad.tolist(), *command.gripper_width_m.tolist()]

    def _take_splice(self, splice: Splice) -> None:
        if splice.replaced_chunk_id < 0:
            self._timeline.clear()
        else:
            self.spliced_ns.append(splice.spliced_ns)
        chunk = self._chunks.get(splice.chunk_id)
        if chunk is None:
            raise SyvlaError(f"chunk {splice.chunk_id} took over, and was never seen")
        refusal = self._timeline.refusal(chunk, splice.spliced_ns)  # it forgets what is over, as the robot's did
        if refusal is not None:
            raise SyvlaError(f"chunk {chunk.chunk_id} took over, and is {refusal} here")
        jump_rad = self._timeline.splice(chunk, splice.spliced_ns, self._standing).jump_rad
        if not abs(jump_rad - splice.jump_rad) < SAME_RAD:
            raise SyvlaError(f"chunk {chunk.chunk_id} took over by {splice.jump_rad} rad, and here by {jump_rad} rad")

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""


def measure(policy: str, cell: Cell) -> Found:
    """One episode. One that cannot be measured loses none of the others."""
    try:
        return _measured(policy, cell)
    except ConfigError:
        raise  # which all of them would meet
    except SyvlaError as error:
        return Found(cell, False, 0.0, Jumps([], []), Jumps([], []), 0.0, 0, str(error))


def _measured(policy: str, cell: Cell) -> Found:
    run = lockstep_run("twin", PLANNER_LATENCY_S, cell.delay * PERIOD_S + LATE_S, policy, continuity=cell.continuity)
    # An expert that takes 0.4 s makes intents older than they may be, and the arms would hold for that.
    use = msgspec.structs.replace(run.rig.intent, stale_policy="use")
    run = msgspec.structs.replace(run, rig=msgspec.structs.replace(run.rig, intent=use))
    watch = _Watch(run.rig)
    outcome, _ = run_lockstep(run, Episode(cell.task, "id", cell.seed, f"seams-{cell.seed}"), [watch])
    asked, sent = (
        Jumps(*seams(watch.at_ns, np.array(rows).reshape(len(rows), -1), watch.spliced_ns))
        for rows in (watch.asked_rad, watch.sent_rad)
    )
    starved = (watch.past_end + watch.held) / max(watch.policy + watch.held, 1)
    return Found(cell, outcome.success, outcome.duration_s, asked, sent, starved, watch.holds)


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` seeds of each task, strategy and delay; the picture goes to ``runs``."""
    seeds = repeats or (1 if quick else SEEDS)
    judged = repeats or (1 if quick else JUDGED_SEEDS)
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
        for seed in range(judged if continuity == "prefix" and delay in (0, JUDGED) else seeds)
    ]
    found: list[Found] = []
    for number, each in enumerate(in_order(functools.partial(measure, policy), cells, JOBS), 1):
        found.append(each)
        state = each.error or ("done" if each.success else "NOT DONE")
        words = f"{each.cell.continuity}, d = {each.cell.delay}, {each.cell.task}, seed {each.cell.seed}: {state}"
        print(f"[{number}/{len(cells)}] {words}", file=sys.stderr, flush=True)
    kinds = [(continuity, delay) for continuity in get_args(Continuity) for delay in delays]
    rows = [_row(*kind, [each for each in found if each.cell.task == task], task) for task in tasks for kind in kinds]
    pooled = [_row(*kind, found) for kind in kinds]
    verdict = _verdict(pooled)
    _draw(rows, PICTURE)
    told = f"{seeds} seeds each ({judged} where prefix is judged)"
    lines = [f"seams, policy {policy}, {', '.join(tasks)}, {told}, planner {PLANNER_LATENCY_S:g} s"]
    lines += [_words(row) for row in rows]
    lines += [verdict["words"], f"picture: {PICTURE}"]
    return {
        "benchmark": "seams",
        "conditions": conditions(),
        "rows": rows,
        "of_all_tasks": pooled,
        "episodes": [
            {**each._asdict(), **each.cell._asdict(), "asked": each.asked._asdict(), "sent": each.sent._asdict()}
            for each in found
        ],
        **verdict,
    }, lines


def _row(continuity: str, delay: int, found: Sequence[Found], task: str = "") -> dict[str, Any]:
    """Of all ``found`` with that strategy and delay."""
    all_of = [each for each in found if (each.cell.continuity, each.cell.delay) == (continuity, delay)]
    of = [each for each in all_of if not each.error]
    done = sum(each.success for each in of)
    low, high = wilson(done, len(of))
    return {
        "task": task,
        "continuity": continuity,
        "delay": delay,
        "episodes": len(of),
        "failed": len(all_of) - len(of),
        "done": done,
        "interval": [low, high],
        "mean_duration_s": float(np.mean([each.duration_s for each in of if each.success])) if done else None,
        "asked": _jumps([each.asked for each in of]),
        "sent": _jumps([each.sent for each in of]),
        "starved": float(np.mean([each.starved for each in of])) if of else 0.0,
        "holds": sum(each.holds for each in of),
    }


def _jumps(of: Sequence[Jumps]) -> dict[str, dict[str, float]]:
    return {name: _quantiles([value for each in of for value in getattr(each, name)]) for name in Jumps._fields}


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, most = np.quantile(values, (0.5, 0.95, 1.0)) if len(values) else (0.0, 0.0, 0.0)
    return {"p50": float(p50), "p95": float(p95), "max": float(most)}


def _verdict(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether the default keeps success, whether its seams are soft, and whether ``replace`` falls meanwhile."""
    by = {(row["continuity"], row["delay"]): row for row in rows}
    late, plain = by["prefix", JUDGED], by["replace", JUDGED]
    (points, low, high), (fall, sure, most) = (_lost(by[name, 0], by[name, JUDGED]) for name in ("prefix", "replace"))
    shares = {name: late["asked"][name]["p95"] / max(plain["asked"][name]["p95"], 1e-9) for name in Jumps._fields}
    velocity, acceleration = shares.values()
    whole = not any(row["failed"] for row in rows)
    return {
        "points_lost": points,
        "replace_points_lost": fall,
        "seam_shares": shares,
        "reached": points <= POINTS and sure > 0.0 and max(shares.values()) <= SHARE and whole,
        "words": (
            f"  from d = 0 to d = {JUDGED} prefix loses {points:.0f} points of success (95 % interval {low:.0f} to "
            f"{high:.0f}; {POINTS:g} allowed), replace {fall:.0f} ({sure:.0f} to {most:.0f}); the seams of prefix are "
            f"{velocity:.3f} of those of replace in velocity and {acceleration:.3f} in acceleration (p95, asked; "
            f"{SHARE:g} allowed)"
        ),
    }


def _lost(before: dict[str, Any], after: dict[str, Any]) -> tuple[float, float, float]:
    """Points of success that were lost, with their 95 % interval."""
    low, high = difference((before["done"], before["episodes"]), (after["done"], after["episodes"]))
    return _points(before) - _points(after), 100.0 * low, 100.0 * high


def _points(row: dict[str, Any]) -> float:
    """Success in percent."""
    return 100.0 * float(row["done"]) / float(max(row["episodes"], 1))


def _words(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    jumps = [
        f"{name} {row[name]['velocity_rad_s']['p50']:.3f} / {row[name]['velocity_rad_s']['p95']:.3f} rad/s, "
        f"{row[name]['acceleration_rad_s2']['p50']:.1f} / {row[name]['acceleration_rad_s2']['p95']:.1f} rad/s^2"
        for name in ("asked", "sent")
    ]
    failed = f", {row['failed']} COULD NOT BE MEASURED" if row["failed"] else ""
    return (
        f"  {row['task']:14s} {row['continuity']:9s} d {row['delay']:2d}: {row['done']}/{row['episodes']} "
        f"({low:.0%} to {high:.0%}), {row['mean_duration_s'] or 0.0:.1f} s; seams (p50 / p95) {'; '.join(jumps)}; "
        f"starved {row['starved']:.1%}, {row['holds']} holds{failed}"
    )


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Success, seams, time and starvation over the delay; a line of panels for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    panels: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
        ("success, 95 % interval", lambda row: 0.01 * _points(row)),
        ("jump of velocity asked, p95 [rad/s in 5 ms]", lambda row: row["asked"]["velocity_rad_s"]["p95"]),
        ("jump of acceleration asked, p95 [rad/s^2]", lambda row: row["asked"]["acceleration_rad_s2"]["p95"]),
        ("jump of velocity sent, p95 [rad/s in 5 ms]", lambda row: row["sent"]["velocity_rad_s"]["p95"]),
        ("mean time of a success [s]", lambda row: row["mean_duration_s"]),
        ("ticks starved", lambda row: row["starved"]),
    )
    figure = Figure(figsize=(4.2 * len(panels), 3.8 * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(tasks), len(panels), squeeze=False)
    for task, line in zip(tasks, grid, strict=True):
        for (label, value), axes in zip(panels, line, strict=True):
            for continuity, colour in COLOURS.items():
                of = [row for row in rows if (row["task"], row["continuity"]) == (task, continuity)]
                delays = [row["delay"] for row in of]
                numbers = [math.nan if (number := value(row)) is None else number for row in of]
                axes.plot(delays, numbers, color=colour, marker="o", label=continuity)
                if axes is line[0]:
                    low, high = np.array([row["interval"] for row in of]).T
                    axes.fill_between(delays, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set(xlabel="inference delay d [rows of 1/30 s]", ylabel=label)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set(ylim=(0.0, 1.02), title=task)
        for axes in line[1:3]:
            axes.set_yscale("log")
    grid[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
