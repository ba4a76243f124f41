"""The ``syvla-export`` command: the expert as ONNX graphs, and which backends may run them.

A backend is accepted if its chunks are those of the expert in torch, on observations of episodes on the twin, and if as
many episodes are done with it as far as one can tell. Others refuse to start.
"""

import importlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from syvla.apps.director import Director, Episode
from syvla.apps.evaluate import evaluate
from syvla.config import RunConfig
from syvla.digest import file_sha256
from syvla.errors import ConfigError, SyvlaError
from syvla.message import Float32
from syvla.policies import policy_folder
from syvla.proportion import difference
from syvla.rig import lockstep_host
from syvla.runs import EXPERT_LATENCY_S, PLANNER_LATENCY_S, chosen_tasks, load_rig, lockstep_run
from syvla_models.backends import choice
from syvla_models.backends.eager import open_eager
from syvla_models.backends.engines import RTX, EngineStore, build, library, targets
from syvla_models.backends.exported import (
    ENGINE_GRAPHS,
    EXPORT_FILE,
    FILES,
    FOLDER,
    PROBE_FILE,
    Export,
    Parity,
    Probe,
    Tried,
    load_export,
    parity,
    save_probes,
)
from syvla_models.backends.graphs import write_graphs
from syvla_models.backends.protocol import ChunkInputs, Conditioned, ExpertBackend
from syvla_models.checkpoint import load_expert
from syvla_models.learned_expert import LearnedExpert
from syvla_models.spec import EXPERT_FILE, PolicySpec, load_spec, save_json
from syvla_models.train.state import replace_folder

__all__ = ["main"]
FIRST_SEED, MOST_EPISODES = 9_000, 500  # neither evaluated nor trained on
OBSERVED_S = 10.0  # of each task's episode
OBSERVATIONS, PROBES = 64, 8  # held against torch here, and again whenever the backend is loaded
TIMED = 50
SLICE_NS = 100_000_000


class _Noting:
    """The expert in torch, and all that it was asked."""

    name = "eager"

    def __init__(self, backend: ExpertBackend) -> None:
        self._backend = backend
        self._states: Float32
        self.probes: list[Probe] = []

    def condition(self, query_states: Float32) -> Conditioned:
        """As the backend does."""
        self._states = query_states
        return self._backend.condition(query_states)

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """As the backend does."""
        found = self._backend.chunk(conditioned, inputs)
        self.probes.append(Probe(self._states, inputs, found))
        return found


def export(
    checkpoint: Positional[str] = "learned",
    backends: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    episodes: int = 20,
    jobs: int = 1,
    threads: int = 1,
    rig: str = "twin",
    engines: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GPU ...")] = (),
) -> int:
    """Export a checkpoint's expert and try the backends that are installed here (exit status 1 if none is accepted).

    The graphs and what was found out are written into the folder ``export`` of the checkpoint, in the place of what is
    there, unless that accepts a backend for this very expert and the new one accepts none.

    Args:
        checkpoint: its folder, or "learned".
        backends: those to try; all that are installed, if none is named.
        episodes: how many of each task are run with every backend and in torch; 0: only chunks are compared, and
            nothing is accepted.
        jobs: how many episodes run at a time.
        threads: of each backend.
        rig: whose limits the set-points keep to; a twin.
        engines: kinds of GPU, such as SM89, for which TensorRT-RTX engines are built; none of them needs to be here.
    """
    if not 0 <= episodes <= MOST_EPISODES:
        raise ConfigError(f"episodes must be 0..{MOST_EPISODES}, not {episodes}: other seeds have other uses")
    folder = policy_folder(checkpoint)
    spec = load_spec(folder)
    names = backends or tuple(name for name in choice.BACKENDS if name != choice.EAGER and choice.installed(name))
    for name in names:
        choice.choose(folder, name)
        if name == choice.EAGER:
            raise ConfigError("eager is what the others are held against; name another backend")
    if not names:
        extras = sorted({entry.extra for entry in choice.BACKENDS.values() if entry.package != "torch"})
        raise ConfigError(f"no backend is installed: pip install 'syvla[{','.join(extras)}]'")
    load_rig(rig)
    if not os.access(folder, os.W_OK):  # told before hours of episodes
        raise ConfigError(f"{folder} cannot be written to; export a copy of it")
    trt = library(RTX) if engines else None
    for target in engines:
        if target not in targets(trt):
            raise ConfigError(f"{RTX} builds for {', '.join(targets(trt))}, not {target!r}")
    with _beside(folder) as made:
        probes = _write(made, spec, rig)
        for target in engines:
            _build(made / FOLDER, trt, target)
        tried: dict[str, Tried] = {}
        for name in names:
            found = _try(name, made, spec, probes, threads)
            if found is not None:
                tried[name] = found
                _say(name, found)
        _save(made, spec, tried, trying=True)
        if episodes:
            tried = _act(made, tried, episodes, jobs, rig)
        _save(made, spec, tried, trying=False)
        accepted = [name for name, found in tried.items() if found.accepted]
        kept = [] if accepted else _accepted_before(folder, spec)
        if not kept:
            replace_folder(
                (folder / FOLDER).resolve(), lambda into: shutil.copytree(made / FOLDER, into, dirs_exist_ok=True)
            )
    why = "" if episodes else " (nobody knows how well episodes would go)"
    stands = f"; the export of before stays, it accepts {', '.join(kept)}" if kept else ""
    fastest = choice.choose(folder, choice.AUTO)
    print(f"accepted: {', '.join(accepted) or 'none'}{why}{stands}; the fastest here: {fastest}")
    return 0 if accepted else 1


def _accepted_before(folder: Path, spec: PolicySpec) -> list[str]:
    """The backends that the export which is there accepts for this expert."""
    try:
        return [name for name, found in load_export(folder, spec).tried.items() if found.accepted]
    except ConfigError:
        return []


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A checkpoint that is ``folder`` but for an export of its own: the one that is there stands until this is done."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as parent:
        made = Path(parent) / folder.name
        (made / FOLDER).mkdir(parents=True)
        for file in folder.iterdir():
            if file.is_file():
                (made / file.name).symlink_to(file.resolve())
        yield made


def _write(folder: Path, spec: PolicySpec, rig: str) -> list[Probe]:
    """The graphs, and observations with what torch makes of them."""
    started_s = time.perf_counter()
    expert, _ = load_expert(folder)
    write_graphs(folder / FOLDER, expert, spec.action)
    print(f"graphs written in {time.perf_counter() - started_s:.0f} s; observing ...", flush=True)
    probes = _observe(folder, rig)
    save_probes(folder / FOLDER / PROBE_FILE, _spread(probes, PROBES))
    return _spread(probes, OBSERVATIONS)


def _build(path: Path, trt: Any, target: str) -> None:
    """The engines of the exported graphs, into the user's store."""
    store = EngineStore()
    for file in ENGINE_GRAPHS:
        started_s = time.perf_counter()
        graph = (path / file).read_bytes()
        kept = store.keep(graph, trt, target, build(trt, graph, target))
        taken_s = time.perf_counter() - started_s
        print(f"{file} for {target}: {kept.stat().st_size / 2**20:.1f} MiB in {taken_s:.1f} s, {kept}", flush=True)


def _observe(folder: Path, rig: str) -> list[Probe]:
    """What the expert was asked in the first seconds of an episode of every task."""
    run = lockstep_run(rig, PLANNER_LATENCY_S, EXPERT_LATENCY_S, str(folder), backend=choice.EAGER)
    noting = _Noting(open_eager(folder, 1))
    for task in chosen_tasks((), ("id",)):
        director = Director([Episode(task, "id", FIRST_SEED, f"{task}-{FIRST_SEED}", OBSERVED_S)])
        host = lockstep_host(run, [director], expert=LearnedExpert(folder, run.rig, 1, noting))
        while not director.finished:
            host.run_until(host.now_ns + SLICE_NS)
        host.stop()
    if not noting.probes:
        raise SyvlaError("the expert was asked nothing on the twin: it cannot be compared")
    return noting.probes


def _spread(probes: list[Probe], count: int) -> list[Probe]:
    """At most ``count`` of them, from the first to the last."""
    rows = np.linspace(0, len(probes) - 1, min(count, len(probes))).round().astype(int)
    return [probes[row] for row in rows]


def _try(name: str, folder: Path, spec: PolicySpec, probes: list[Probe], threads: int) -> Tried | None:
    """How near the backend is and how fast; None if it does not run here."""
    try:
        backend = choice.start(name, folder, threads)
        found: Parity = parity(backend, probes, spec.action)
        conditioned = backend.condition(probes[0].query_states)
        times_s = []
        for k in range(TIMED):
            begun_s = time.perf_counter()
            backend.chunk(conditioned, probes[k % len(probes)].inputs)
            times_s.append(time.perf_counter() - begun_s)
    except Exception as error:  # noqa: BLE001 - whatever its library raises: the others are tried nevertheless
        print(f"{name}: does not run here: {error}", flush=True)
        return None
    return Tried(
        parity=found,
        observations=len(probes),
        median_ms=round(1e3 * statistics.median(times_s), 3),
        done=0,
        done_eager=0,
        episodes=0,
        same_success=False,
        version=version(name),
    )


def version(name: str) -> str:
    """Of the package of a backend that is installed; its distribution may have another name."""
    return str(importlib.import_module(choice.BACKENDS[name].package).__version__)


def _act(folder: Path, tried: dict[str, Tried], episodes: int, jobs: int, rig: str) -> dict[str, Tried]:
    """The same with episodes on the twin, for those that are near enough."""
    near = [name for name, found in tried.items() if found.parity.accepted]
    tasks = chosen_tasks((), ("id",))
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    plan = [Episode(task, "id", seed, f"{task}-{seed}") for task in tasks for seed in seeds]
    done: dict[str, int] = {}
    for name in (choice.EAGER, *near) if near else ():
        run = lockstep_run(rig, PLANNER_LATENCY_S, EXPERT_LATENCY_S, str(folder), backend=name)
        try:
            done[name] = _done(name, run, plan, jobs)
        except Exception as error:
            if name == choice.EAGER:
                raise
            print(f"\n{name}: its episodes do not run here: {error}", flush=True)
    acted = dict(tried)
    for name in (name for name in near if name in done):
        low, high = difference((done[name], len(plan)), (done[choice.EAGER], len(plan)))
        acted[name] = Tried(
            parity=tried[name].parity,
            observations=tried[name].observations,
            median_ms=tried[name].median_ms,
            done=done[name],
            done_eager=done[choice.EAGER],
            episodes=len(plan),
            same_success=low <= 0.0 <= high,
            version=tried[name].version,
        )
        _say(name, acted[name])
    return acted


def _done(name: str, run: RunConfig, plan: Sequence[Episode], jobs: int) -> int:
    count = 0

    def tell(outcome: object, wall_s: float) -> None:
        nonlocal count
        count += 1
        print(f"\r{name}: episode {count} of {len(plan)}", end="", flush=True)

    outcomes = evaluate(run, plan, tell, jobs)
    print()
    return sum(outcome.success for outcome in outcomes)


def _say(name: str, found: Tried) -> None:
    untried = found.parity.accepted and not found.episodes
    state = "accepted" if found.accepted else "near enough" if untried else "NOT ACCEPTED"
    print(f"{name}: {state}, {found.words}; {found.median_ms:g} ms a chunk", flush=True)


def _save(folder: Path, spec: PolicySpec, tried: dict[str, Tried], *, trying: bool) -> None:
    path = folder / FOLDER
    sha256 = {name: file_sha256(path / name) for name in FILES}
    made = Export(
        expert_sha256=spec.sha256[EXPERT_FILE],
        space=spec.action.space,
        euler_steps=spec.action.euler_steps,
        sha256=sha256,
        torch=str(torch.__version__),
        tried=tried,
        trying=trying,
    )
    save_json(path / EXPORT_FILE, made)


def main() -> None:
    """Entry point: 0 done, 1 nothing was accepted, 2 bad input, 130 interrupted."""
    try:
        status = tyro.cli(export, prog="syvla-export", description=__doc__)
    except (SyvlaError, OSError) as error:
        print(f"syvla-export: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("syvla-export: interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
