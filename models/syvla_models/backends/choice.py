"""Which backend computes an expert's chunks on this machine."""

import functools
import importlib
import importlib.util
import logging
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from syvla.errors import ConfigError
from syvla_models.backends.engines import RTX
from syvla_models.backends.exported import EXPORT_FILE, FOLDER, checked, load_export
from syvla_models.backends.protocol import ExpertBackend
from syvla_models.spec import PolicySpec, load_spec

AUTO, EAGER = "auto", "eager"
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """Where a backend is, and what it needs; ``opener`` takes a checkpoint's folder and a number of threads.

    ``check`` takes the backend's name and raises ConfigError if what its package needs is not here.
    """

    package: str
    module: str
    opener: str
    extra: str  # of pyproject.toml, that installs ``package``
    check: str = ""


BACKENDS = {
    EAGER: Entry("torch", "eager", "open_eager", "learn"),
    "compiled": Entry("torch", "compiled", "open_compiled", "learn", "check_compiler"),
    "cuda_graph": Entry("torch", "cuda_graph", "open_cuda_graph", "learn", "check_gpu"),
    "onnxruntime": Entry("onnxruntime", "onnx_runtime", "open_onnx_runtime", "onnx"),
    "openvino": Entry("openvino", "open_vino", "open_open_vino", "openvino"),
    "tensorrt": Entry("tensorrt", "tensor_rt", "open_tensorrt", "tensorrt", "gpu"),
    "tensorrt_rtx": Entry(RTX, "tensor_rt", "open_tensorrt_rtx", "tensorrt", "gpu"),
    "openvino_bf16": Entry("openvino", "open_vino", "open_open_vino_bf16", "openvino"),
}


def installed(name: str) -> bool:
    """Whether the package of the backend ``name`` is there."""
    return importlib.util.find_spec(BACKENDS[name].package) is not None


def lacking(name: str) -> str | None:
    """What the backend ``name`` lacks here: its package, or a GPU or compiler; None if nothing."""
    entry = BACKENDS[name]
    if not installed(name):
        return f"{entry.package} is missing; it needs: pip install 'syvla[{entry.extra}]'"
    if entry.check:
        try:
            getattr(_module(entry), entry.check)(name)
        except ConfigError as error:
            return str(error)
    return None


def choose(folder: Path, asked: str) -> str:
    """The backend that ``asked`` means for the checkpoint ``folder``.

    ``auto`` is the fastest that its export accepted and that lacks nothing here, or torch itself where there is none:
    an export may have been made beside a GPU that is not here.
    """
    if asked != AUTO:
        if asked not in BACKENDS:
            raise ConfigError(f"no backend {asked!r}; there are {AUTO}, {', '.join(BACKENDS)}")
        if not installed(asked):
            raise ConfigError(str(lacking(asked)))
        return asked
    if not (folder / FOLDER / EXPORT_FILE).is_file():
        return EAGER
    tried = load_export(folder, load_spec(folder)).tried
    accepted = [name for name, found in tried.items() if found.accepted and name in BACKENDS]
    for name in sorted(accepted, key=lambda name: tried[name].median_ms):
        why_not = lacking(name)
        if why_not is None:
            return name
        _log.info("backend %s is passed over: %s", name, why_not)
    return EAGER


def open_backend(folder: Path, asked: str, threads: int) -> ExpertBackend:
    """A backend that may act; ConfigError if its export did not accept it, or if it is off on this machine."""
    spec = load_spec(folder)
    return _opened(folder, spec.model_id, choose(folder, asked), threads)


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
        raise ConfigError(
            f"backend {name!r} was not tried when {folder} was exported; it has {', '.join(tried) or 'none'}"
        )
    if not (tried[name].parity.accepted if export.trying else tried[name].accepted):
        raise ConfigError(f"backend {name!r} was not accepted when {folder} was exported: {tried[name].words}")


def start(name: str, folder: Path, threads: int) -> ExpertBackend:
    """The backend ``name`` as it is, accepted or not."""
    entry = BACKENDS[name]
    backend: ExpertBackend = getattr(_module(entry), entry.opener)(folder, threads)
    return backend


def _module(entry: Entry) -> ModuleType:
    return importlib.import_module(f"syvla_models.backends.{entry.module}")
