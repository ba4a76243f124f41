"""How long a chunk takes with every backend that is installed here, beside the least that it could take.

Every backend is a process of its own, so that memory and threads are its own too; they are asked in turn, so that all
meet the same machine. Weights are random: how long it takes does not depend on them. A backend counts if its chunks are
those of the expert in torch.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from syvla.errors import SyvlaError
from syvla_models.backends import choice
from syvla_models.backends.eager import EagerBackend
from syvla_models.backends.exported import FOLDER, Probe, parity
from syvla_models.backends.graphs import write_graphs
from syvla_models.backends.protocol import ChunkInputs, ExpertBackend
from syvla_models.expert import BASE, TINY, Expert
from syvla_models.spec import (
    EXPERT_FILE,
    SLOTS,
    ActionSpec,
    CameraView,
    ExpertConfig,
    PlannerSpec,
    PolicySpec,
    save_spec,
)
from syvla_models.weights import save_tensors

STEPS = 10
SIZES = {"tiny": (TINY, 192), "base": (BASE, 2048)}  # and the width of an intent
SCALE_RAD = 0.1  # of a slot: what chunks of robot data come to
ACTION = ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((SCALE_RAD,) * SLOTS,), euler_steps=STEPS)
ASKED = {"tiny": 20, "base": 1}  # chunks in a row
START_LIMIT_S = 900.0
FLOOR_BYTES = 1 << 29
FLOOR_SIDE = 1536


class Floors(NamedTuple):
    """The least that a chunk can take [ms]: every weight read once a step, and every product made."""

    bandwidth_ms: float
    arithmetic_ms: float


def bench(repeats: int | None, quick: bool, threads: int = 1) -> tuple[dict[str, Any], list[str]]:
    """Time every backend, ``repeats`` times in turn (15 by default)."""
    repeats = repeats or (2 if quick else 15)
    sizes: dict[str, Any] = {}
    lines: list[str] = []
    for size, (config, width) in SIZES.items():
        config = msgspec.structs.replace(config, intent_width=width)
        if quick and size == "base":
            config = msgspec.structs.replace(config, depth=1)
        with tempfile.TemporaryDirectory(prefix="syvla-bench-") as parent:
            folder = Path(parent)
            expert = _random_checkpoint(folder, config)
            probes = [_probe(config, seed) for seed in range(4)]
            floors = _floors(expert, config, threads)
            del expert
            rows = _measured(folder, probes, repeats, ASKED[size], threads)
        sizes[size] = {"floors_ms": floors._asdict(), "threads": threads, "backends": rows, **_verdict(rows, floors)}
        lines += _lines(size, sizes[size], floors)
    reached = all(row["reached"] for row in sizes.values())
    return {"benchmark": "expert", "steps": STEPS, "sizes": sizes, "reached": reached}, lines


# ---------------------------------------------------------------- what is measured


def _random_checkpoint(folder: Path, config: ExpertConfig) -> Expert:
    """The half of a checkpoint that an expert needs, exported."""
    torch.manual_seed(0)
    expert = Expert(config).eval()
    with torch.no_grad():
        for layer in (expert.time_out, expert.action_out):  # they begin at zero
            layer.weight.normal_(0.0, 0.02)
    view = CameraView(camera="cam_high", height=28, width=28)
    planner = PlannerSpec(views=(view,), hidden_size=config.intent_width)
    save_tensors(folder / EXPERT_FILE, expert.state_dict())
    save_spec(folder, PolicySpec(name="bench", planner=planner, expert=config, action=ACTION))
    (folder / FOLDER).mkdir()
    write_graphs(folder / FOLDER, expert, ACTION)
    return expert


def _probe(config: ExpertConfig, seed: int) -> Probe:
    def draw(*shape: int) -> Any:
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)

    rows = (config.horizon, SLOTS)
    inputs = ChunkInputs(draw(SLOTS), 0.3, draw(*rows), draw(*rows), 4)
    return Probe(draw(config.queries, config.intent_width), inputs, np.zeros(rows, np.float32))


def _floors(expert: Expert, config: ExpertConfig, threads: int) -> Floors:
    torch.set_num_threads(threads)
    probe = _probe(config, 0)
    backend = EagerBackend(expert, ACTION, threads)
    conditioned = backend.condition(probe.query_states)
    with FlopCounterMode(display=False) as counter:
        backend.chunk(conditioned, probe.inputs)
    each_step = sum(p.nbytes for layer in expert.layers for p in layer.parameters())
    block = torch.ones(FLOOR_BYTES // 4)
    read_s = min(_timed(block.sum) for _ in range(5))
    side = torch.ones(FLOOR_SIDE, FLOOR_SIDE)
    product_s = min(_timed(lambda: side @ side) for _ in range(5))
    bytes_per_s, flops_per_s = FLOOR_BYTES / read_s, 2.0 * FLOOR_SIDE**3 / product_s
    return Floors(1e3 * STEPS * each_step / bytes_per_s, 1e3 * counter.get_total_flops() / flops_per_s)


def _timed(work: Any) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


# ---------------------------------------------------------------- every backend


def _measured(folder: Path, probes: list[Probe], repeats: int, asked: int, threads: int) -> dict[str, Any]:
    """What was found out about each backend, by name; ``skipped`` says why one was not measured."""
    rows: dict[str, Any] = {}
    wanted: list[Probe] = []
    cached: dict[str, list[float]] = {}
    fresh: dict[str, list[float]] = {}
    for name, entry in choice.BACKENDS.items():
        if not choice.installed(name):
            rows[name] = {"skipped": f"{entry.package} is not installed"}
    names = [name for name in choice.BACKENDS if name not in rows]
    with _running(names, folder, threads) as ends:
        for name in names:  # eager is the first
            started = _answer(ends[name])
            if isinstance(started, str):
                rows[name] = {"skipped": started}
                continue
            cached[name], fresh[name] = [], []
            found = _ask(ends[name], "answers", probes)
            if not wanted:
                wanted = [probe._replace(wanted=answer) for probe, answer in zip(probes, found, strict=True)]
            near = parity(_Said(found), wanted, ACTION)
            rows[name] = {"accepted": near.accepted, "parity": msgspec.to_builtins(near)}
        for _ in range(repeats):
            for name, times in cached.items():
                times += _ask(ends[name], "cached", asked)
                fresh[name] += _ask(ends[name], "fresh", asked)
        for name in cached:
            rows[name]["memory_bytes"] = _ask(ends[name], "memory", 0)
    for name, times in cached.items():
        rows[name]["cached_intent_ms"] = _quantiles(times)
        rows[name]["new_intent_ms"] = _quantiles(fresh[name])
    return rows


class _Said:
    """Answers that were given, as a backend that gives them in order."""

    name = "said"

    def __init__(self, answers: list[Any]) -> None:
        self._answers = iter(answers)

    def condition(self, query_states: Any) -> tuple[()]:
        return ()

    def chunk(self, conditioned: Any, inputs: ChunkInputs) -> Any:
        return next(self._answers)


@contextmanager
def _running(names: list[str], folder: Path, threads: int) -> Iterator[dict[str, Connection]]:
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    try:
        for name in names:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(name, folder, threads, there), daemon=True)
            process.start()
            ends[name] = here
            processes.append(process)
        yield ends
    finally:
        for process in processes:
            process.kill()
            process.join()


def _ask(end: Connection, what: str, value: Any) -> Any:
    end.send((what, value))
    if not end.poll(START_LIMIT_S):
        raise SyvlaError(f"a backend that had started gave no answer within {START_LIMIT_S:g} s")
    return end.recv()


def _answer(end: Connection) -> Any:
    if not end.poll(START_LIMIT_S):
        return f"no answer within {START_LIMIT_S:g} s"
    return end.recv()


def _serve(name: str, folder: Path, threads: int, end: Connection) -> None:
    """Be the process of one backend."""
    before = _memory_bytes()
    try:
        backend = choice.start(name, folder, threads)
    except Exception as error:  # noqa: BLE001 - whatever its library raises is why it is skipped
        end.send(f"does not start here: {error}")
        return
    end.send(None)
    probes: list[Probe] = []
    while True:
        what, value = end.recv()
        if what == "answers":
            probes = value
            end.send([backend.chunk(backend.condition(p.query_states), p.inputs) for p in probes])
        elif what == "memory":
            end.send(_memory_bytes() - before)
        else:
            end.send(_times_s(backend, probes[0], value, anew=what == "fresh"))


def _times_s(backend: ExpertBackend, probe: Probe, count: int, anew: bool) -> list[float]:
    conditioned = backend.condition(probe.query_states)
    backend.chunk(conditioned, probe.inputs)  # its memory and caches are its own again
    times_s = []
    for _ in range(count):
        begun_s = time.perf_counter()
        if anew:
            conditioned = backend.condition(probe.query_states)
        backend.chunk(conditioned, probe.inputs)
        times_s.append(time.perf_counter() - begun_s)
    return times_s


def _memory_bytes() -> int:
    """What this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# ---------------------------------------------------------------- words


def _quantiles(times_s: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(np.array(times_s) * 1e3, (0.5, 0.99))
    return {"p50": float(p50), "p99": float(p99)}


def _verdict(rows: dict[str, Any], floors: Floors) -> dict[str, Any]:
    """The best accepted backend against torch (3x is wanted) and the floor of arithmetic."""
    ready = {name: row for name, row in rows.items() if row.get("accepted") and name != choice.EAGER}
    eager_ms = rows[choice.EAGER]["cached_intent_ms"]["p50"]
    if not ready:
        return {"best": None, "times_torch": None, "times_floor": None, "reached": False}
    best = min(ready, key=lambda name: ready[name]["cached_intent_ms"]["p50"])
    best_ms = ready[best]["cached_intent_ms"]["p50"]
    times_torch = eager_ms / best_ms
    return {
        "best": best,
        "times_torch": times_torch,
        "times_floor": best_ms / floors.arithmetic_ms,
        "reached": times_torch >= 3.0,
    }


def _lines(size: str, found: dict[str, Any], floors: Floors) -> list[str]:
    lines = [
        f"expert, {size}, {STEPS} steps, {found['threads']} thread(s); floors: {floors.bandwidth_ms:.2f} ms of reading "
        f"weights, {floors.arithmetic_ms:.2f} ms of arithmetic in float32"
    ]
    for name, row in found["backends"].items():
        if "skipped" in row:
            lines.append(f"  {name:16s} skipped: {row['skipped']}")
            continue
        cached, fresh = row["cached_intent_ms"], row["new_intent_ms"]
        lines.append(
            f"  {name:16s} {cached['p50']:9.2f} / {cached['p99']:.2f} ms, with a new intent {fresh['p50']:.2f} / "
            f"{fresh['p99']:.2f} (p50 / p99); {row['memory_bytes'] / 2**20:.0f} MiB; off by "
            f"{1e3 * row['parity']['worst_rad']:.3g} mrad{'' if row['accepted'] else ', NOT ACCEPTED'}"
        )
    if found["best"]:
        lines.append(
            f"  {found['best']}: {found['times_torch']:.2f}x as fast as torch (3x wanted), "
            f"{found['times_floor']:.2f}x the floor of arithmetic"
        )
    return lines
