"""The exported expert in ONNX Runtime, on the CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from syvla.message import Array
from syvla_models.backends.exported import GraphBackend, graphs


def open_onnx_runtime(folder: Path, threads: int) -> GraphBackend:
    """The exported expert of the checkpoint ``folder``, run by ``threads`` that sleep when there is nothing to do."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return GraphBackend("onnxruntime", [_Run(graph, options) for graph in graphs(folder)])


class _Run:
    """One graph."""

    def __init__(self, graph: bytes, options: ort.SessionOptions) -> None:
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]

    def __call__(self, values: Mapping[str, Array]) -> list[Any]:
        found: list[Any] = self._session.run(None, {name: values[name] for name in self._names})
        return found
