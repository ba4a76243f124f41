"""How soon the arms answer when a thing is moved in the middle of a reach, beside a loop that does one thing at a time.

That loop thinks, infers, executes the whole chunk, and looks again. In lockstep, each episode is run twice: as it is,
and with the thing that is reached for moved; until then the two are the same to the bit, so the first set-point that
differs is the answer. A step of the planner or the expert takes what it takes on this machine, by the median.
"""

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from syvla.apps.director import Director, Episode
from syvla.apps.parallel import in_order
from syvla.bench.conditions import conditions
from syvla.bench.planner import seen_in_episodes
from syvla.clock import NS_PER_S, to_ns, to_s
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import ARMS, ActionChunk, JointCommand, SimTruth
from syvla.policies import default_policy
from syvla.protocols import Emit, Inbox, OnNew, Stage
from syvla.rig import bench_planner, lockstep_host, twin_world
from syvla.runs import lockstep_run

Loop = Literal["runtime", "synchronous"]
TARGET = 10.0  # times as fast, by the median
TASK = "snack_loading"
SEEDS = 20
JOBS = 2
MOVED_M = 0.06
LEFT = (0.3, 0.7)  # how much of the way is left when the thing is moved
GOLDEN = 0.618034
CAMERA_HZ = 30.0  # of a real robot; the twin's own 15 spare a laptop
CHANGED_RAD, CHANGED_M = 1e-3, 1e-3  # a set-point that differs by more is an answer
LIMIT_S = 4.0  # who has not answered by then has not
REACH_S = 4.0  # a reach is not longer
GRASP_LIMIT_S = 20.0
STANDING_S = 2.0
TIMED_S = 8.0
SLICE_NS = 5_000_000


class Case(NamedTuple):
    """One loop in one episode; what its planner and expert take [s]."""

    loop: Loop
    seed: int
    planner_s: float
    expert_s: float


class Found(NamedTuple):
    """When the thing was moved, from the start, and when the arms answered, from then on; None: not in time."""

    case: Case
    moved_s: float
    answered_s: float | None


class Turns:
    """Whose turn it is in a loop that does one thing at a time."""

    def __init__(self) -> None:
        self.until_ns = -1  # when the chunk that is being executed ends; far away while one is being made

    def planner(self, inner: Stage) -> Stage:
        """``inner``, which looks and thinks only when nothing is being executed."""

        def step(now_ns: int, inbox: Inbox) -> Iterable[Emit]:
            if now_ns < self.until_ns:
                return ()
            emits = list(inner.step(now_ns, inbox))
            if any(emit.topic == "intent" for emit in emits):
                self.until_ns = sys.maxsize
            return emits

        return _Instead(inner, step)

    def expert(self, inner: Stage, latency_s: float) -> Stage:
        """``inner``, which makes one chunk of each intent; it begins when it is there, and is executed to its end."""

        def step(now_ns: int, inbox: Inbox) -> Iterable[Emit]:
            if not list(inbox.new("intent")):
                return ()
            arrival_ns = now_ns + to_ns(latency_s)
            emits = []
            self.until_ns = now_ns
            for emit in inner.step(now_ns, inbox):
                chunk = emit.message
                assert isinstance(chunk, ActionChunk)  # noqa: S101 - an expert says nothing else
                emits.append(Emit(emit.topic, _standing_after(chunk, arrival_ns)))
                self.until_ns = arrival_ns + (len(chunk.position_rad) - 1) * chunk.period_ns
            return emits

        return _Instead(inner, step)


def _standing_after(chunk: ActionChunk, begin_ns: int) -> ActionChunk:
    """``chunk`` from ``begin_ns`` on, and then its last row, while the next one is made: the gate holds dry arms."""
    more = round(STANDING_S * NS_PER_S / chunk.period_ns)
    return msgspec.structs.replace(
        chunk,
        observation_ns=begin_ns,
        position_rad=np.pad(chunk.position_rad, ((0, more), (0, 0)), "edge"),
        gripper_width_m=np.pad(chunk.gripper_width_m, ((0, more), (0, 0)), "edge"),
    )


class _Instead:
    """A stage with another step."""

    def __init__(self, inner: Stage, step: Callable[[int, Inbox], Iterable[Emit]]) -> None:
        self.name, self.reads, self.writes = inner.name, inner.reads, inner.writes
        self.trigger, self.lossless = inner.trigger, inner.lossless
        self.step = step
        self.request_stop, self.close = inner.request_stop, inner.close
        self.stopped = True


class _Watch:
    """Notes what was sent to the arms and where things were."""

    name = "recorder"
    reads: tuple[str, ...] = ("command", "sim/truth")
    writes: tuple[str, ...] = ()
    trigger = OnNew(reads)
    lossless = True
    stopped = True

    def __init__(self) -> None:
        self.sent: dict[int, Float64] = {}  # (14,) by when
        self.truths: list[SimTruth] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Take in what came."""
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, JointCommand):
                self.sent[message.commanded_ns] = np.append(message.position_rad, message.gripper_width_m)
            elif isinstance(message, SimTruth):
                self.truths.append(message)
        return ()

    def request_stop(self) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be closed."""


class Reach(NamedTuple):
    """The first grasp of an episode: of what, an instant on the way to it, and where to it is moved."""

    thing: str
    at_ns: int
    by_m: tuple[float, float]


def first_reach(truths: Sequence[SimTruth], left: float) -> Reach | None:
    """The instant is that at which the share ``left`` of the way is left: of the hand's farthest distance before."""
    grasp = next((truth for truth in truths if any(truth.held_by)), None)
    if grasp is None:
        return None
    row = next(row for row, arm in enumerate(grasp.held_by) if arm)
    hand = ARMS.index(grasp.held_by[row])
    way = [
        (truth.stamp_ns, math.dist(truth.hands_m[hand], truth.pose[row, :3]))
        for truth in truths
        if grasp.stamp_ns - to_ns(REACH_S) <= truth.stamp_ns <= grasp.stamp_ns and truth.task == grasp.task
    ]
    farthest_m = max(distance_m for _, distance_m in way)
    at_ns = max(at_ns for at_ns, distance_m in way if distance_m >= left * farthest_m)
    return Reach(grasp.names[row], at_ns, _free_direction(grasp.pose[:, :2], row))


def _free_direction(places_m: Float64, row: int) -> tuple[float, float]:
    """Of four ways from ``row`` the one that ends farthest from everything else."""
    others = np.delete(places_m, row, axis=0)
    ways = MOVED_M * np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
    room_m = [np.linalg.norm(places_m[row] + way - others, axis=1).min(initial=1.0) for way in ways]
    x, y = ways[int(np.argmax(room_m))].tolist()
    return x, y


def first_difference_s(plain: dict[int, Float64], moved: dict[int, Float64], from_ns: int) -> float | None:
    """When after ``from_ns`` the set-points (14,) of two runs first differ; None if they do not in time."""
    bound = np.array([CHANGED_RAD] * 12 + [CHANGED_M] * 2)
    for at_ns, sent in moved.items():
        if at_ns in plain and (np.abs(sent - plain[at_ns]) > bound).any():
            return to_s(at_ns - from_ns)
    return None


def measure(policy: str, case: Case) -> Found | None:
    """One loop in one episode; None if it grasped nothing."""
    plain = _run(policy, case, None)
    share = case.seed * GOLDEN % 1.0  # all over the middle, so that a loop's turns do not meet it alike
    reach = first_reach(plain.truths, LEFT[0] + share * (LEFT[1] - LEFT[0]))
    if reach is None:
        return None
    moved = _run(policy, case, reach)
    answered_s = first_difference_s(plain.sent, moved.sent, reach.at_ns)
    return Found(case, to_s(reach.at_ns), answered_s)


def _run(policy: str, case: Case, reach: Reach | None) -> _Watch:
    """One episode: until ``LIMIT_S`` after the first grasp, or so long after the move of ``reach``."""
    run = lockstep_run("twin", case.planner_s, case.expert_s, policy)
    cameras = msgspec.structs.replace(run.rig.cameras, rate_hz=CAMERA_HZ)
    run = msgspec.structs.replace(run, rig=msgspec.structs.replace(run.rig, cameras=cameras))
    arrange: dict[str, Callable[[Stage], Stage]] = {}
    if case.loop == "synchronous":
        rig = msgspec.structs.replace(run.rig, intent=msgspec.structs.replace(run.rig.intent, stale_policy="use"))
        run = msgspec.structs.replace(run, rig=rig, policy=msgspec.structs.replace(run.policy, continuity="replace"))
        turns = Turns()
        arrange = {"planner": turns.planner, "expert": functools.partial(turns.expert, latency_s=case.expert_s)}
    watch, world = _Watch(), twin_world(run)
    director = Director([Episode(TASK, "id", case.seed, f"reaction-{case.seed}")])
    host = lockstep_host(run, [director, watch], world=world, arrange=arrange)
    end_ns = to_ns(GRASP_LIMIT_S)
    is_moved = is_grasped = False
    while host.now_ns < end_ns and not director.finished:
        if reach is not None and not is_moved and host.now_ns >= reach.at_ns:
            world.move(reach.thing, reach.by_m)
            is_moved, end_ns = True, reach.at_ns + to_ns(LIMIT_S)
        host.run_until(host.now_ns + SLICE_NS)
        if reach is None and not is_grasped and watch.truths and any(watch.truths[-1].held_by):
            is_grasped, end_ns = True, host.now_ns + to_ns(LIMIT_S)
    host.stop()
    return watch


def _step_times_s(policy: str) -> tuple[float, float]:
    """What a step of the planner and one of the expert take here, with one thread each."""
    taken_s: dict[str, list[float]] = {"planner": [], "expert": []}

    def timed(inner: Stage) -> Stage:
        def step(now_ns: int, inbox: Inbox) -> Iterable[Emit]:
            begun_s = time.perf_counter()
            emits = list(inner.step(now_ns, inbox))
            if emits:
                taken_s[inner.name].append(time.perf_counter() - begun_s)
            return emits

        return _Instead(inner, step)

    director = Director([Episode(TASK, "id", 0, "times")])
    host = lockstep_host(lockstep_run("twin", 0.0, 0.0, policy), [director], arrange=dict.fromkeys(taken_s, timed))
    host.run_until(to_ns(TIMED_S))
    host.stop()
    return statistics.median(taken_s["planner"]), statistics.median(taken_s["expert"])


def run(repeats: int | None, quick: bool) -> tuple[dict[str, Any], list[str]]:
    """``repeats`` episodes of each loop (20 by default)."""
    policy = default_policy()
    if policy == "reference":
        raise ConfigError("the reactions of a learned policy are measured, and its checkpoint is not here")
    thought, _ = bench_planner(seen_in_episodes(5 if quick else 20))
    planner_s, expert_s = _step_times_s(policy)
    loops: list[tuple[str, Loop, float]] = [
        ("runtime", "runtime", planner_s),
        ("synchronous", "synchronous", planner_s),
        ("synchronous, by transformers", "synchronous", thought["median_ms"]["transformers"] / 1e3),
    ]
    seeds = range(repeats or (2 if quick else SEEDS))
    cases = [Case(loop, seed, seconds, expert_s) for _, loop, seconds in loops for seed in seeds]
    found = []
    for number, each in enumerate(in_order(functools.partial(measure, policy), cases, JOBS), 1):
        found.append(each)
        print(f"[{number}/{len(cases)}] {_words(cases[number - 1], each)}", file=sys.stderr, flush=True)
    rows = {
        name: _row([each for each in found[k * len(seeds) : (k + 1) * len(seeds)] if each is not None])
        for k, (name, _, _) in enumerate(loops)
    }
    times = {name: row["median_s"] / rows["runtime"]["median_s"] for name, row in rows.items() if name != "runtime"}
    lines = [
        f"reaction, policy {policy}, {TASK}, {len(seeds)} episodes each, a thing moved by {MOVED_M:g} m in the "
        f"middle of the reach for it; expert {1e3 * expert_s:.1f} ms"
    ]
    for name, _, seconds in loops:
        row = rows[name]
        ratio = f"; {times[name]:.1f}x the runtime's" if name in times else ""
        lines.append(
            f"  {name} (planner {1e3 * seconds:.0f} ms): answered {row['answered']} of {row['episodes']}, median "
            f"{row['median_s']:.3f} s ({row['least_s']:.3f} to {row['most_s']:.3f}){ratio}"
        )
    lines.append(f"  {times['synchronous']:.1f}x as fast as with the same planner in turn ({TARGET:g}x wanted)")
    return {
        "benchmark": "reaction",
        "conditions": conditions(),
        "planner_s": planner_s,
        "expert_s": expert_s,
        "rows": rows,
        "times": times,
        "reached": times["synchronous"] >= TARGET,
        "episodes": [
            {**each.case._asdict(), "moved_s": each.moved_s, "answered_s": each.answered_s}
            for each in found
            if each is not None
        ],
    }, lines


def _row(found: Sequence[Found]) -> dict[str, Any]:
    """Who has not answered counts with the limit."""
    if not found:
        raise ConfigError(f"no episode of {TASK} grasped anything within {GRASP_LIMIT_S:g} s")
    seconds = [LIMIT_S if each.answered_s is None else each.answered_s for each in found]
    return {
        "episodes": len(found),
        "answered": sum(each.answered_s is not None for each in found),
        "median_s": statistics.median(seconds),
        "least_s": min(seconds),
        "most_s": max(seconds),
    }


def _words(case: Case, found: Found | None) -> str:
    what = f"{case.loop}, seed {case.seed}"
    if found is None:
        return f"{what}: nothing was grasped"
    answer = "no answer" if found.answered_s is None else f"{found.answered_s:.3f} s"
    return f"{what}: moved at {found.moved_s:.2f} s, {answer}"
