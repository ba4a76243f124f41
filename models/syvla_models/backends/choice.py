"""Which backend computes an expert's chunks on this machine."""

import functools
import importlib
import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

from syvla.errors import ConfigError, SyvlaError
from syvla_models.backends.engines import RTX
from syvla_models.backends.exported import EXPORT_FILE, FOLDER, checked, load_export
from syvla_models.backends.protocol import ExpertBackend
from syvla_models.spec import PolicySpec, load_spec

AUTO, EAGER = "auto", "eager"
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Where a backend is, and what it needs; ``opener`` takes a checkpoint's folder and a number of threads."""

    package: str
    module: str
    opener: str
    extra: str  # of pyproject.toml, that installs ``package``


BACKENDS = {
    EAGER: Entry("torch", "eager", "open_eager", "learn"),
    "compiled": Entry("torch", "compiled", "open_compiled", "learn"),
    "cuda_graph": Entry("torch", "cuda_graph", "open_cuda_graph", "learn"),
    "onnxruntime": Entry("onnxruntime", "onnx_runtime", "open_onnx_runtime", "onnx"),
    "openvino": Entry("openvino", "open_vino", "open_open_vino", "openvino"),
    "tensorrt": Entry("tensorrt", "tensor_rt", "open_tensorrt", "tensorrt"),
    "tensorrt_rtx": Entry(RTX, "tensor_rt", "open_tensorrt_rtx", "tensorrt"),
    "openvino_bf16": Entry("openvino", "open_vino", "open_open_vino_bf16", "openvino"),
}


def installed(name: str) -> bool:
    """Whether the package of the backend ``name`` is there."""
    return importlib.util.find_spec(BACKENDS[name].package) is not None


def choose(folder: Path, asked: str) -> str:
    """The backend that ``asked`` means for the checkpoint ``folder``.

    ``auto`` is the fastest that its export accepted and that is installed here, or torch itself where there is none.
    """
    if asked == AUTO:
        return _ranked(folder)[0]
    if asked not in BACKENDS:
        raise ConfigError(f"no backend {asked!r}; there are {AUTO}, {', '.join(BACKENDS)}")
    entry = BACKENDS[asked]
    if not installed(asked):
        raise ConfigError(f"{entry.package} is missing; it needs: pip install 'syvla[{entry.extra}]'")
    return asked


def _ranked(folder: Path) -> list[str]:
    """The backends that ``auto`` may mean, the fastest where it was exported first; torch itself is the last."""
    if not (folder / FOLDER / EXPORT_FILE).is_file():
        return [EAGER]
    tried = load_export(folder, load_spec(folder)).tried
    ready = [name for name, found in tried.items() if found.accepted and name in BACKENDS and installed(name)]
    return [*sorted(ready, key=lambda name: tried[name].median_ms), EAGER]


def open_backend(folder: Path, asked: str, threads: int) -> ExpertBackend:
    """A backend that may act; ConfigError if its export did not accept it, or if it is off on this machine.

    Where ``auto`` was asked for, the next takes the place of one that does not start here: the export may have been
    made on a machine with another GPU or with a compiler.
    """
    spec = load_spec(folder)
    *better, last = _ranked(folder) if asked == AUTO else [choose(folder, asked)]
    for name in better:
        try:
            return _opened(folder, spec.model_id, name, threads)
        except SyvlaError as error:  # noqa: PERF203 - the next one is tried
            _log.warning("backend %s is passed over: %s", name, error)
    return _opened(folder, spec.model_id, choose(folder, last), threads)


@functools.lru_cache(maxsize=1)
def _opened(folder: Path, model_id: str, name: str, threads: int) -> ExpertBackend:
    """Weights are read, and graphs compiled, once for each process and checkpoint."""
    spec = load_spec(folder)
    if name == EAGER:
        return start(name, folder, threads)
    _check_accepted(folder, spec, name)
    return checked(start(name, folder, threads), folder, spec.action)


def _check_accepted(folder: Path, spec: PolicySpec, name: str) -> None:
    export = load_export(folder, spec)
    tried = export.tried
    if name not in tried:
        raise ConfigError(f"backend {name!r} was not tried when {folder} was exported; it has {', '.join(tried)}")
    if not (tried[name].accepted if export.complete else tried[name].parity.accepted):
        raise ConfigError(f"backend {name!r} was not accepted when {folder} was exported: {tried[name].words}")


def start(name: str, folder: Path, threads: int) -> ExpertBackend:
    """The backend ``name`` as it is, accepted or not."""
    entry = BACKENDS[name]
    opener = getattr(importlib.import_module(f"syvla_models.backends.{entry.module}"), entry.opener)
    backend: ExpertBackend = opener(folder, threads)
    return backend
