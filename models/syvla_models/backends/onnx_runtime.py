"""The exported expert in ONNX Runtime, on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from syvla.message import Array, Float32
from syvla_models.backends.exported import graphs, noise_inputs, state_inputs
from syvla_models.backends.protocol import ChunkInputs, Conditioned


class OnnxRuntimeBackend:
    """The graphs of ``exported.GRAPHS`` (ONNX, as bytes), run by ``threads`` that sleep when there is nothing to do."""

    name = "onnxruntime"

    def __init__(self, onnx: Sequence[bytes], threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._condition, self._context, self._denoise = (
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]) for graph in onnx
        )

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return _run(self._condition, query_states[None])

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        context = _run(self._context, *conditioned, *state_inputs(inputs))
        rows: Float32 = _run(self._denoise, *context, *noise_inputs(inputs))[0][0]
        return rows


def _run(session: ort.InferenceSession, *values: Array) -> list[Any]:
    names = [each.name for each in session.get_inputs()]
    found: list[Any] = session.run(None, dict(zip(names, values, strict=True)))
    return found


def open_onnx_runtime(folder: Path, threads: int) -> OnnxRuntimeBackend:
    """The exported expert of the checkpoint ``folder``."""
    return OnnxRuntimeBackend(graphs(folder), threads)
