"""The exported expert in ONNX Runtime, on the CPU."""

from pathlib import Path

import onnxruntime as ort

from syvla.message import Float32
from syvla_models.backends.exported import graph_inputs, graphs
from syvla_models.backends.protocol import ChunkInputs, Conditioned


class OnnxRuntimeBackend:
    """Two graphs (ONNX, as bytes), each run by ``threads`` threads that sleep when there is nothing to do."""

    name = "onnxruntime"

    def __init__(self, condition: bytes, chunk: bytes, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._condition, self._chunk = (
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]) for graph in (condition, chunk)
        )
        self._names = [each.name for each in self._chunk.get_inputs()]

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        made: Conditioned = self._condition.run(None, {"query_states": query_states[None]})
        return made

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        values = (*conditioned, *graph_inputs(inputs))
        rows: Float32 = self._chunk.run(None, dict(zip(self._names, values, strict=True)))[0][0]
        return rows


def open_onnx_runtime(folder: Path, threads: int) -> OnnxRuntimeBackend:
    """The exported expert of the checkpoint ``folder``."""
    return OnnxRuntimeBackend(*graphs(folder), threads)
