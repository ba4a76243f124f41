"""An exported expert: ONNX graphs and what they were held against, in the folder ``export`` of a checkpoint.

``condition.onnx`` is what an intent needs once, ``context.onnx`` what a chunk needs once, ``denoise.onnx`` the whole
sampling loop, and ``denoise_fp16.onnx`` the same with its layers in float16, for backends that take types as they are.
``probe.safetensors`` has what the expert was asked in episodes, and what it answered in torch. ``export.json`` is
written last.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from syvla.errors import ConfigError
from syvla.message import Array, Float32, Float64
from syvla_models.actions import action_space
from syvla_models.backends.protocol import ChunkInputs, Conditioned, ExpertBackend
from syvla_models.prefix import GRIPPERS, JOINTS
from syvla_models.spec import EXPERT_FILE, ActionSpec, PolicySpec, Section, load_json, verify

FOLDER = "export"
EXPORT_FILE, PROBE_FILE = "export.json", "probe.safetensors"
CONDITION_FILE, CONTEXT_FILE, DENOISE_FILE = "condition.onnx", "context.onnx", "denoise.onnx"
DENOISE_HALF_FILE = "denoise_fp16.onnx"
GRAPHS = (CONDITION_FILE, CONTEXT_FILE, DENOISE_FILE)
ENGINE_GRAPHS = (CONDITION_FILE, CONTEXT_FILE, DENOISE_HALF_FILE)
FILES = (*GRAPHS, DENOISE_HALF_FILE, PROBE_FILE)
CONDITIONED, CONTEXT = ("key", "value", "aim"), ("key", "value")  # what the first two graphs hand on
# 2 mrad move a hand by 1.2 mm at arm's length, a tenth of what a grasp forgives.
MOST_RAD, MOST_GRIPPER_M = 2e-3, 1e-3


class Parity(Section, frozen=True):
    """How far a backend's chunks are from those of the expert in torch, in the worst row of the worst joint."""

    worst_rad: float
    worst_gripper_m: float

    @property
    def accepted(self) -> bool:
        """Whether it is near enough; what is not a number is not."""
        return self.worst_rad <= MOST_RAD and self.worst_gripper_m <= MOST_GRIPPER_M

    @property
    def words(self) -> str:
        """By how much."""
        return (
            f"{1e3 * self.worst_rad:.3g} mrad in the worst joint ({1e3 * MOST_RAD:g} allowed) and "
            f"{1e3 * self.worst_gripper_m:.3g} mm of the gripper ({1e3 * MOST_GRIPPER_M:g} allowed)"
        )


class Tried(Section, frozen=True):
    """What an export found out about one backend. ``done`` of ``episodes`` on the twin, ``done_eager`` in torch."""

    parity: Parity
    observations: int
    median_ms: float
    done: int
    done_eager: int
    episodes: int
    same_success: bool
    version: str

    @property
    def accepted(self) -> bool:
        """Whether it may act. Without episodes nobody knows."""
        return self.parity.accepted and self.same_success and self.episodes > 0

    @property
    def words(self) -> str:
        """Why not, or how well."""
        done = f"done {self.done} of {self.episodes} episodes, in torch {self.done_eager}"
        return f"{self.parity.words}; {done if self.episodes else 'no episodes were run'}"


class Export(Section, frozen=True):
    """What ``export.json`` says. The graphs are of one expert, one action space and one number of Euler steps."""

    expert_sha256: str
    space: str
    euler_steps: int
    sha256: dict[str, str]
    torch: str
    tried: dict[str, Tried]
    trying: bool = False  # True of the copy in which backends are tried: those that are near enough act there


class Probe(NamedTuple):
    """One chunk's inputs, and the torch expert's answer."""

    query_states: Float32  # (20, D)
    inputs: ChunkInputs
    wanted: Float32  # (H, 32)


def load_export(folder: Path, spec: PolicySpec) -> Export:
    """The export in the checkpoint ``folder``; ConfigError unless it is whole and of this very checkpoint."""
    path = folder / FOLDER
    if not (path / EXPORT_FILE).is_file():
        raise ConfigError(f"{folder} has not been exported: syvla-export {folder}")
    export = load_json(path / EXPORT_FILE, Export)
    made_of = (export.expert_sha256, export.space, export.euler_steps)
    if made_of != (spec.sha256.get(EXPERT_FILE), spec.action.space, spec.action.euler_steps):
        raise ConfigError(f"{path} was made from another expert, action space or number of steps: export it again")
    verify(path, export.sha256, FILES, EXPORT_FILE)
    return export


def save_probes(path: Path, probes: list[Probe]) -> None:
    """Write ``probes``, at least one, to ``path``."""
    columns = {
        "query_states": [p.query_states for p in probes],
        "state": [p.inputs.state for p in probes],
        "age_s": [np.float32(p.inputs.age_s) for p in probes],
        "noise": [p.inputs.noise for p in probes],
        "prefix_rows": [p.inputs.prefix_rows for p in probes],
        "prefix": [np.int64(p.inputs.prefix) for p in probes],
        "wanted": [p.wanted for p in probes],
    }
    save_file({name: np.ascontiguousarray(np.stack(values)) for name, values in columns.items()}, path)


def load_probes(path: Path) -> list[Probe]:
    """What :func:`save_probes` wrote; ConfigError if it is something else."""
    try:
        found = load_tensors(path.read_bytes())
        rows = zip(
            found["query_states"], found["state"], found["age_s"], found["noise"], found["prefix_rows"],
            found["prefix"], found["wanted"], strict=True,
        )  # fmt: skip
        return [
            Probe(states, ChunkInputs(state, float(age_s), noise, prefix_rows, int(prefix)), wanted)
            for states, state, age_s, noise, prefix_rows, prefix, wanted in rows
        ]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parity(backend: ExpertBackend, probes: list[Probe], action: ActionSpec) -> Parity:
    """How far ``backend`` is from the torch expert's answers, in the set-points that would be sent."""
    space = action_space(action)
    worst_rad = worst_gripper_m = 0.0
    for probe in probes:
        found = backend.chunk(backend.condition(probe.query_states), probe.inputs)
        anchor = space.measured(probe.inputs.state)
        off = np.abs(space.decode(found, anchor) - space.decode(probe.wanted, anchor))
        worst_rad = _worse(worst_rad, off[:, JOINTS])
        worst_gripper_m = _worse(worst_gripper_m, off[:, GRIPPERS])
    return Parity(worst_rad=worst_rad, worst_gripper_m=worst_gripper_m)


def _worse(known: float, off: Float64) -> float:
    """NaN counts as infinitely far."""
    return max(known, float(np.nan_to_num(off, nan=np.inf).max()))


def checked(backend: ExpertBackend, folder: Path, action: ActionSpec) -> ExpertBackend:
    """``backend``, if its chunks are those of the torch expert here and now; otherwise ConfigError by how much not."""
    found = parity(backend, load_probes(folder / FOLDER / PROBE_FILE), action)
    if not found.accepted:
        raise ConfigError(f"backend {backend.name!r} of {folder} is off by {found.words} on this machine")
    return backend


def graphs(folder: Path) -> list[bytes]:
    """The ONNX graphs of the exported checkpoint ``folder``, in the order of :data:`GRAPHS`."""
    return [(folder / FOLDER / name).read_bytes() for name in GRAPHS]


class GraphBackend:
    """A backend that only runs the graphs: ``runs`` has one call for each of :data:`GRAPHS`, inputs to outputs.

    Inputs are given by name, more of them than a graph may need. What a call gives must be its own: it is kept while
    others are made.
    """

    def __init__(self, name: str, runs: Sequence[Callable[[Mapping[str, Array]], list[Any]]]) -> None:
        self.name = name
        self._condition, self._context, self._denoise = runs

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return self._condition({"query_states": query_states[None]})

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        given = {name: np.asarray(value)[None] for name, value in inputs._asdict().items()}
        given["age_s"] = given["age_s"].astype(np.float32)
        context = self._context({**dict(zip(CONDITIONED, conditioned, strict=True)), **given})
        rows: Float32 = self._denoise({**dict(zip(CONTEXT, context, strict=True)), **given})[0][0]
        return rows
