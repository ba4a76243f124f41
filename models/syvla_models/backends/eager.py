"""The expert in torch as it is written: the reference that every other backend is held against."""

from pathlib import Path

import torch

from syvla.message import Float32
from syvla_models.actions import action_space
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.checkpoint import load_expert
from syvla_models.expert import Expert, IntentCache
from syvla_models.flow import sample
from syvla_models.guidance import LEAST_STEPS, guided, soft_mask
from syvla_models.spec import ActionSpec


class EagerBackend:
    """``threads`` are torch's, for the whole process."""

    name = "eager"

    def __init__(self, expert: Expert, action: ActionSpec, threads: int) -> None:
        torch.set_num_threads(threads)
        self._expert = expert.requires_grad_(False)
        self._steps = action.euler_steps
        self._live = torch.from_numpy(action_space(action).live)

    @torch.no_grad()
    def condition(self, query_states: Float32) -> Conditioned:
        """Keys, values and aim."""
        return self._expert.condition(torch.from_numpy(query_states)[None])

    @torch.no_grad()
    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        """Denoise one chunk."""
        x = sample(
            self._expert,
            IntentCache(*conditioned),
            torch.from_numpy(inputs.state)[None],
            torch.tensor([inputs.age_s], dtype=torch.float32),
            torch.from_numpy(inputs.noise)[None],
            torch.from_numpy(inputs.prefix_rows)[None] if inputs.prefix else None,
            torch.tensor([inputs.prefix]) if inputs.prefix else None,
            self._steps,
            self._live,
        )
        rows: Float32 = x[0].numpy()
        return rows

    @torch.no_grad()
    def guided(self, conditioned: Conditioned, inputs: ChunkInputs, kept: int, overlap: int) -> Float32:
        """One chunk near the one that is being executed."""
        state, age_s = torch.from_numpy(inputs.state)[None], torch.tensor([inputs.age_s], dtype=torch.float32)
        x = guided(
            self._expert,
            self._expert.context(IntentCache(*conditioned), state, age_s),
            torch.from_numpy(inputs.noise)[None],
            torch.from_numpy(inputs.prefix_rows)[None],
            torch.from_numpy(soft_mask(len(inputs.noise), kept, overlap))[None],
            max(self._steps, LEAST_STEPS),
            self._live,
        )
        rows: Float32 = x[0].numpy()
        return rows


def open_eager(folder: Path, threads: int) -> EagerBackend:
    """The expert of the checkpoint ``folder``."""
    expert, spec = load_expert(folder)
    return EagerBackend(expert, spec.action, threads)
