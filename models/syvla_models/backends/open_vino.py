"""The exported expert in OpenVINO, on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino as ov

from syvla.message import Array
from syvla_models.backends.exported import GraphBackend, graphs


def open_open_vino(folder: Path, threads: int) -> GraphBackend:
    """The exported expert of the checkpoint ``folder``, run by ``threads``."""
    return _opened("openvino", folder, threads, "f32")


def open_open_vino_bf16(folder: Path, threads: int) -> GraphBackend:
    """The same with the sampling loop in bfloat16."""
    return _opened("openvino_bf16", folder, threads, "bf16")


def _opened(name: str, folder: Path, threads: int, precision: str) -> GraphBackend:
    """The sampling loop, which is the last graph, in ``precision``."""
    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the robot's loop has its core
    }
    each = zip(graphs(folder), ("f32", "f32", precision), strict=True)
    return GraphBackend(
        name, [_Run(core, graph, {**settings, "INFERENCE_PRECISION_HINT": inside}) for graph, inside in each]
    )


class _Run:
    """One graph."""

    def __init__(self, core: ov.Core, graph: bytes, settings: dict[str, Any]) -> None:
        model = core.compile_model(core.read_model(graph), "CPU", settings)
        # an input that nothing depends on is none of them, and others may have more names than the graph gave them
        self._names = [each.node.friendly_name for each in model.inputs]
        self._request = model.create_infer_request()

    def __call__(self, values: Mapping[str, Array]) -> list[Any]:
        found = self._request.infer({name: values[name] for name in self._names})
        return [found[i].copy() for i in range(len(found))]  # the request's own memory is written over
