"""The exported expert in OpenVINO, on the CPU."""

from pathlib import Path
from typing import Any

import openvino as ov

from syvla.message import Float32
from syvla_models.backends.exported import graph_inputs, graphs
from syvla_models.backends.protocol import ChunkInputs, Conditioned


class OpenVinoBackend:
    """Two graphs (ONNX, as bytes), each run by ``threads`` threads with ``precision`` (f32, bf16) inside."""

    def __init__(self, condition: bytes, chunk: bytes, threads: int, precision: str = "f32") -> None:
        self.name = "openvino" if precision == "f32" else f"openvino_{precision}"
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the robot's loop has its core
        }
        core = ov.Core()
        # An intent's tensors come once and are rounded with everything behind them: they stay exact.
        exact = {**settings, "INFERENCE_PRECISION_HINT": "f32"}
        self._condition = core.compile_model(core.read_model(condition), "CPU", exact).create_infer_request()
        self._chunk = core.compile_model(core.read_model(chunk), "CPU", settings).create_infer_request()

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return self._outputs(self._condition, (query_states[None],))

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        rows: Float32 = self._outputs(self._chunk, (*conditioned, *graph_inputs(inputs)))[0][0]
        return rows

    @staticmethod
    def _outputs(request: Any, values: tuple[Any, ...]) -> list[Any]:
        found = request.infer(dict(enumerate(values)))
        return [found[i].copy() for i in range(len(found))]  # the request's own memory is written over


def open_open_vino(folder: Path, threads: int) -> OpenVinoBackend:
    """The exported expert of the checkpoint ``folder``."""
    return OpenVinoBackend(*graphs(folder), threads)


def open_open_vino_bf16(folder: Path, threads: int) -> OpenVinoBackend:
    """The same in bfloat16, where the processor computes in it."""
    return OpenVinoBackend(*graphs(folder), threads, "bf16")
