"""The expert in torch as one CUDA graph: no kernel is launched by Python, and nothing waits but the end."""

from pathlib import Path

import torch
from torch import Tensor

from syvla.errors import ConfigError
from syvla.message import Float32
from syvla_models.actions import action_space
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.backends.rounded import Rounded
from syvla_models.checkpoint import load_expert
from syvla_models.expert import Expert, IntentCache
from syvla_models.flow import denoised
from syvla_models.spec import SLOTS, ActionSpec

WARM_UP = 3  # runs before the capture, in which kernels are chosen and memory is taken


class CudaGraphBackend:
    """Everything from the intent's tensors to the chunk is captured once and replayed from then on.

    The sampling loop is in ``dtype``; bfloat16 is too coarse for the twin's expert, whose chunks it moves by 7 mrad.
    Inputs and the chunk travel through pinned memory.
    """

    name = "cuda_graph"

    def __init__(self, expert: Expert, action: ActionSpec, dtype: torch.dtype = torch.float16) -> None:
        self._expert = expert.requires_grad_(False).eval().cuda()
        self._loop = Rounded(self._expert, dtype)
        self._steps = action.euler_steps
        self._live = torch.from_numpy(action_space(action).live).cuda()
        self._stream = torch.cuda.Stream()
        config = expert.config
        rows = (1, config.horizon, SLOTS)
        with torch.cuda.stream(self._stream), torch.no_grad():
            states = torch.zeros(1, config.queries, config.intent_width, device="cuda")
            self._cache = IntentCache(*(each.clone() for each in self._expert.condition(states)))
        shapes = {"state": (1, SLOTS), "age_s": (1,), "noise": rows, "prefix_rows": rows}
        self._host = {name: torch.zeros(shape).pin_memory() for name, shape in shapes.items()}
        self._host["prefix"] = torch.zeros(1, dtype=torch.int64).pin_memory()
        self._device = {name: each.cuda() for name, each in self._host.items()}
        self._answer = torch.zeros(rows).pin_memory()
        self._graph, self._rows = self._capture()

    @torch.no_grad()
    def _capture(self) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                self._compute()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            rows = self._compute()
        return graph, rows

    def _compute(self) -> Tensor:
        given = self._device
        context = self._expert.context(self._cache, given["state"], given["age_s"])
        return denoised(
            self._loop, context, given["noise"], given["prefix_rows"], given["prefix"], self._steps, self._live
        )

    @torch.no_grad()
    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim, on the device."""
        with torch.cuda.stream(self._stream):
            return self._expert.condition(torch.from_numpy(query_states)[None].cuda(non_blocking=True))

    @torch.no_grad()
    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        host = self._host
        host["state"].copy_(torch.from_numpy(inputs.state)[None])
        host["age_s"].fill_(inputs.age_s)
        host["noise"].copy_(torch.from_numpy(inputs.noise)[None])
        host["prefix_rows"].copy_(torch.from_numpy(inputs.prefix_rows)[None])
        host["prefix"].fill_(inputs.prefix)
        with torch.cuda.stream(self._stream):
            for name, each in host.items():
                self._device[name].copy_(each, non_blocking=True)
            for target, each in zip(self._cache, conditioned, strict=True):
                target.copy_(each, non_blocking=True)
            self._graph.replay()
            self._answer.copy_(self._rows, non_blocking=True)
        self._stream.synchronize()
        rows: Float32 = self._answer[0].numpy().copy()
        return rows


def check_gpu(name: str) -> None:
    """ConfigError unless torch sees a CUDA device."""
    if not torch.cuda.is_available():
        raise ConfigError(f"backend {name!r} needs an NVIDIA GPU and a torch that knows it; neither was found here")


def open_cuda_graph(folder: Path, threads: int) -> CudaGraphBackend:
    """The expert of the checkpoint ``folder``; ConfigError where there is no CUDA device."""
    check_gpu(CudaGraphBackend.name)
    torch.set_num_threads(threads)
    expert, spec = load_expert(folder)
    return CudaGraphBackend(expert, spec.action)
