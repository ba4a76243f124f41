"""How long a chunk takes with every backend that is installed here, beside the least that it could take.

Every backend is a process of its own, so that memory and threads are its own too; they are asked in turn, so that all
meet the same machine; the twin's size also while a planner thinks on another core. Weights are random: how long it
takes does not depend on them. A backend counts if its chunks are those of the expert in torch. Those of a GPU have
floors of their own.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from syvla.errors import SyvlaError
from syvla_models.backends import choice
from syvla_models.backends.exported import FOLDER, Probe, parity
from syvla_models.backends.floors import Floors, measured_floors
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
from syvla_models.tiny import build_tiny, tiny_spec
from syvla_models.weights import save_tensors

STEPS = 10
SIZES = {"tiny": (TINY, 192), "base": (BASE, 2048)}  # and the width of an intent
SCALE_RAD = 0.1  # of a slot: what chunks of robot data come to
ACTION = ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((SCALE_RAD,) * SLOTS,), euler_steps=STEPS)
ASKED = {"tiny": 20, "base": 1}  # chunks in a row
START_LIMIT_S = 900.0
THOUGHT = 40  # tokens
GPU = ("cuda_graph", "tensorrt", "tensorrt_rtx")
FASTER = 3.0  # than torch: the best backend of a CPU, at every size
LONGEST = {"tiny": {"beside_planner_ms": 20.0}, "base": {"times_floor": 1.5}}  # of the best backend of a CPU
LONGEST_GPU_MS = {"base": 3.0}  # of the best backend of a GPU


class _LostError(SyvlaError):
    """A backend gave no answer."""


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
            floors = {"cpu": measured_floors(expert, ACTION, probes[0], threads, on_gpu=False)}
            if torch.cuda.is_available():
                floors["gpu"] = measured_floors(expert, ACTION, probes[0], threads, on_gpu=True)
            del expert
            rows = _measured(folder, probes, repeats, ASKED[size], threads, beside="beside_planner_ms" in LONGEST[size])
        told = {where: each._asdict() for where, each in floors.items()}
        sizes[size] = {"floors_ms": told, "threads": threads, "backends": rows, **_verdict(size, rows, floors)}
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


# ---------------------------------------------------------------- every backend


def _measured(
    folder: Path, probes: list[Probe], repeats: int, asked: int, threads: int, *, beside: bool
) -> dict[str, Any]:
    """What was found out about each backend, by name; ``skipped`` says why one was not measured.

    With ``beside`` they are also timed while a planner thinks.
    """
    rows: dict[str, Any] = {}
    wanted: list[Probe] = []
    for name, entry in choice.BACKENDS.items():
        if not choice.installed(name):
            rows[name] = {"skipped": f"{entry.package} is not installed"}
    names = [name for name in choice.BACKENDS if name not in rows]
    with _running(names, folder, threads) as ends:
        for name in names:  # eager is the first
            try:
                _answer(ends[name])
                found = _ask(ends[name], "answers", probes)
            except _LostError as lost:
                rows[name] = {"skipped": str(lost)}
                continue
            if name == choice.EAGER:
                wanted = [probe._replace(wanted=answer) for probe, answer in zip(probes, found, strict=True)]
            if not wanted:
                rows[name] = {"skipped": "torch, which it is to be held against, does not run"}
                continue
            near = parity(_Said(found), wanted, ACTION)
            rows[name] = {"accepted": near.accepted, "parity": msgspec.to_builtins(near)}
        _time(rows, ends, repeats, {"cached_intent_ms": ("cached", asked), "new_intent_ms": ("fresh", asked)})
        if beside:
            with _thinking():
                _time(rows, ends, repeats, {"beside_planner_ms": ("cached", asked)})
        for name in _there(rows):
            try:
                rows[name]["memory_bytes"] = _ask(ends[name], "memory", 0)
            except _LostError as lost:  # noqa: PERF203 - one that is lost loses no other
                rows[name] = {"skipped": str(lost)}
    return rows


def _there(rows: dict[str, Any]) -> list[str]:
    return [name for name, row in rows.items() if "skipped" not in row]


def _time(
    rows: dict[str, Any], ends: dict[str, Connection], repeats: int, asked: Mapping[str, tuple[str, int]]
) -> None:
    """Ask all in turn; the quantiles go into ``rows`` under the names of what is ``asked``."""
    times: dict[tuple[str, str], list[float]] = {(name, what): [] for name in _there(rows) for what in asked}
    for _ in range(repeats):
        for name in _there(rows):
            try:
                for what, question in asked.items():
                    times[name, what] += _ask(ends[name], *question)
            except _LostError as lost:  # noqa: PERF203 - one that is lost loses no other
                rows[name] = {"skipped": str(lost)}
    for name in _there(rows):
        rows[name] |= {what: _quantiles(times[name, what]) for what in asked}


@contextmanager
def _thinking() -> Iterator[None]:
    """Meanwhile the twin's planner thinks, as fast as it can, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=_think, args=(began,), daemon=True)
    process.start()
    try:
        while not began.wait(1.0):
            if not process.is_alive():
                raise SyvlaError(f"the planner that is to think meanwhile ended with status {process.exitcode}")
        yield
    finally:
        process.kill()
        process.join()


def _think(began: Event) -> None:
    """Be the process of the planner; its weights are random, and its thoughts as long as those of the twin's."""
    torch.set_num_threads(1)
    words = "The red cube is on the left."
    view = tiny_spec().views[0]
    planner = build_tiny([words], tiny_spec())
    planner.spec = msgspec.structs.replace(planner.spec, max_thought_tokens=THOUGHT)
    image = np.random.default_rng(0).integers(0, 256, (view.height, view.width, 3), dtype=np.uint8)
    while True:
        *_, _ = planner.think([image], words, reuse=False)
        began.set()


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
    """The answer; _LostError if there is none."""
    try:
        end.send((what, value))
    except OSError as error:
        raise _LostError("its process ended") from error
    return _answer(end)


def _answer(end: Connection) -> Any:
    if not end.poll(START_LIMIT_S):
        raise _LostError(f"no answer within {START_LIMIT_S:g} s")
    try:
        found = end.recv()
    except (EOFError, OSError) as error:
        raise _LostError("its process ended") from error
    if isinstance(found, str):
        raise _LostError(found)
    return found


def _serve(name: str, folder: Path, threads: int, end: Connection) -> None:
    """Be the process of one backend; words instead of an answer say why there is none."""
    before = _memory_bytes()
    doing = "start"
    try:
        backend = choice.start(name, folder, threads)
        end.send(None)
        doing = "run"
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
    except Exception as error:  # noqa: BLE001 - whatever its library raises is why it is skipped
        end.send(f"does not {doing} here: {error}")


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


def _verdict(size: str, rows: dict[str, Any], floors: Mapping[str, Floors]) -> dict[str, Any]:
    """The best accepted backend of the CPU, and of the GPU where there is one, against what is wanted of it."""
    ready = {name: row for name, row in rows.items() if row.get("accepted")}
    on_gpu = (*GPU, "compiled") if "gpu" in floors else GPU
    found: dict[str, Any] = {"best": None, "times_torch": None, "times_floor": None, "reached": False}
    best = _best(ready, [name for name in ready if name not in (choice.EAGER, *on_gpu)])
    if best is not None and choice.EAGER in ready:
        best_ms = ready[best]["cached_intent_ms"]["p50"]
        found |= {
            "best": best,
            "times_torch": ready[choice.EAGER]["cached_intent_ms"]["p50"] / best_ms,
            "times_floor": best_ms / floors["cpu"].arithmetic_ms,
        }
        if beside := ready[best].get("beside_planner_ms"):
            found["beside_planner_ms"] = beside["p50"]
        longest = LONGEST[size]
        found["reached"] = found["times_torch"] >= FASTER and all(found[what] <= most for what, most in longest.items())
    if "gpu" in floors:
        best = _best(ready, [name for name in ready if name in on_gpu])
        best_ms = ready[best]["cached_intent_ms"]["p50"] if best else None
        fast = best_ms is not None and best_ms <= LONGEST_GPU_MS.get(size, best_ms)
        found |= {"best_gpu": best, "gpu_ms": best_ms, "reached": found["reached"] and fast}
    return found


def _best(ready: dict[str, Any], names: Sequence[str]) -> str | None:
    return min(names, key=lambda name: ready[name]["cached_intent_ms"]["p50"], default=None)


def _lines(size: str, found: dict[str, Any], floors: Mapping[str, Floors]) -> list[str]:
    lines = [f"expert, {size}, {STEPS} steps, {found['threads']} thread(s)"]
    lines += [
        f"  floors of the {where.upper()}: {each.bandwidth_ms:.2f} ms of reading weights, {each.arithmetic_ms:.2f} ms "
        f"of arithmetic in {'float16' if where == 'gpu' else 'float32'}"
        for where, each in floors.items()
    ]
    for name, row in found["backends"].items():
        if "skipped" in row:
            lines.append(f"  {name:16s} skipped: {row['skipped']}")
            continue
        cached, fresh = row["cached_intent_ms"], row["new_intent_ms"]
        lines.append(
            f"  {name:16s} {cached['p50']:9.2f} / {cached['p99']:.2f} ms, with a new intent {fresh['p50']:.2f} / "
            f"{fresh['p99']:.2f} (p50 / p99){_meanwhile(row)}; {row['memory_bytes'] / 2**20:.0f} MiB of main memory; "
            f"off by {1e3 * row['parity']['worst_rad']:.3g} mrad{'' if row['accepted'] else ', NOT ACCEPTED'}"
        )
    if found["best"]:
        most = LONGEST[size].get("times_floor")
        lines.append(
            f"  {found['best']}: {found['times_torch']:.2f}x as fast as torch ({FASTER:g}x wanted), "
            f"{found['times_floor']:.2f}x the floor of arithmetic{f' ({most:g}x wanted)' if most else ''}"
        )
    if found.get("best_gpu"):
        wanted = f" ({LONGEST_GPU_MS[size]:g} wanted)" if size in LONGEST_GPU_MS else ""
        lines.append(f"  {found['best_gpu']}: {found['gpu_ms']:.2f} ms on the GPU{wanted}")
    return lines


def _meanwhile(row: dict[str, Any]) -> str:
    return f", while a planner thinks {row['beside_planner_ms']['p50']:.2f}" if "beside_planner_ms" in row else ""
