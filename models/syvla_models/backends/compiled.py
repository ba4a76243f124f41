"""The expert in torch with its sampling loop compiled, on a GPU where there is one."""

from pathlib import Path

import torch
from torch import Tensor

from syvla.errors import ConfigError
from syvla.message import Float32
from syvla_models.actions import action_space
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.checkpoint import load_expert
from syvla_models.expert import Expert, IntentCache
from syvla_models.flow import denoised
from syvla_models.spec import SLOTS, ActionSpec


class CompiledBackend:
    """Compiled when it is made, which takes a minute or so and needs a C++ compiler; ``threads`` are torch's.

    Raises:
        ConfigError: it cannot be compiled here.
    """

    name = "compiled"

    def __init__(self, expert: Expert, action: ActionSpec, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._expert = expert.requires_grad_(False).eval().to(self._device)
        self._steps = action.euler_steps
        self._live = torch.from_numpy(action_space(action).live).to(self._device)
        self._run = torch.compile(self._denoise, fullgraph=True, dynamic=False)
        config = expert.config
        rows = torch.zeros(config.horizon, SLOTS).numpy()
        nothing = ChunkInputs(torch.zeros(SLOTS).numpy(), 0.0, rows, rows, 0)
        try:
            self.chunk(self.condition(torch.zeros(config.queries, config.intent_width).numpy()), nothing)
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[0]
            raise ConfigError(f"backend {self.name!r} cannot compile the expert here: {first_line}") from error

    def _denoise(
        self, cache: IntentCache, state: Tensor, age_s: Tensor, noise: Tensor, prefix_rows: Tensor, prefix: Tensor
    ) -> Tensor:
        context = self._expert.context(cache, state, age_s)
        return denoised(self._expert, context, noise, prefix_rows, prefix, self._steps, self._live)

    @torch.no_grad()
    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return self._expert.condition(torch.from_numpy(query_states)[None].to(self._device))

    @torch.no_grad()
    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        given = (
            torch.from_numpy(inputs.state)[None],
            torch.tensor([inputs.age_s], dtype=torch.float32),
            torch.from_numpy(inputs.noise)[None],
            torch.from_numpy(inputs.prefix_rows)[None],
            torch.tensor([inputs.prefix]),
        )
        rows: Float32 = (
            self._run(IntentCache(*conditioned), *(each.to(self._device) for each in given))[0].cpu().numpy()
        )
        return rows


def check_compiler(name: str) -> None:
    """ConfigError where torch finds nothing to compile with: on a CPU it needs a C++ compiler."""
    if torch.cuda.is_available():
        return
    from torch._inductor.cpp_builder import get_cpp_compiler  # late: it takes seconds, and is seldom asked

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[0]
        raise ConfigError(f"backend {name!r} needs a C++ compiler: {first_line}") from error


def open_compiled(folder: Path, threads: int) -> CompiledBackend:
    """The expert of the checkpoint ``folder``."""
    expert, spec = load_expert(folder)
    return CompiledBackend(expert, spec.action, threads)
