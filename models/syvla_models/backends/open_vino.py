"""The exported expert in OpenVINO, on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino as ov

from syvla.message import Array, Float32
from syvla_models.backends.exported import graphs, noise_inputs, state_inputs
from syvla_models.backends.protocol import ChunkInputs, Conditioned


class OpenVinoBackend:
    """The graphs of ``exported.GRAPHS`` (ONNX, as bytes), run by ``threads``; the sampling loop in ``precision``."""

    def __init__(self, onnx: Sequence[bytes], threads: int, precision: str = "f32") -> None:
        self.name = "openvino" if precision == "f32" else f"openvino_{precision}"
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the robot's loop has its core
        }
        core = ov.Core()
        self._condition, self._context, self._denoise = (
            core.compile_model(
                core.read_model(graph), "CPU", {**settings, "INFERENCE_PRECISION_HINT": inside}
            ).create_infer_request()
            for graph, inside in zip(onnx, ("f32", "f32", precision), strict=True)
        )

    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return _run(self._condition, query_states[None])

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        context = _run(self._context, *conditioned, *state_inputs(inputs))
        rows: Float32 = _run(self._denoise, *context, *noise_inputs(inputs))[0][0]
        return rows


def _run(request: Any, *values: Array) -> list[Any]:
    found = request.infer(dict(enumerate(values)))
    return [found[i].copy() for i in range(len(found))]  # the request's own memory is written over


def open_open_vino(folder: Path, threads: int) -> OpenVinoBackend:
    """The exported expert of the checkpoint ``folder``."""
    return OpenVinoBackend(graphs(folder), threads)


def open_open_vino_bf16(folder: Path, threads: int) -> OpenVinoBackend:
    """The same with the sampling loop in bfloat16."""
    return OpenVinoBackend(graphs(folder), threads, "bf16")
