"""The expert as two ONNX graphs: what an intent needs once, and the whole sampling loop of a chunk."""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from syvla_models.actions import action_space
from syvla_models.backends.exported import CHUNK_FILE, CONDITION_FILE
from syvla_models.expert import Expert, IntentCache
from syvla_models.flow import sample
from syvla_models.spec import SLOTS, ActionSpec


class ConditionGraph(nn.Module):
    """Query states (1, 20, D) to keys, values and aim."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, query_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`~syvla_models.expert.Expert.condition` gives."""
        cache = self.expert.condition(query_states)
        return cache.key, cache.value, cache.aim


class ChunkGraph(nn.Module):
    """Everything from the intent's tensors and the measured state to a chunk: ``euler_steps`` evaluations in a row."""

    live: Tensor

    def __init__(self, expert: Expert, action: ActionSpec) -> None:
        super().__init__()
        self.expert = expert
        self.steps = action.euler_steps
        self.register_buffer("live", torch.from_numpy(action_space(action).live))

    def forward(
        self,
        key: Tensor,
        value: Tensor,
        aim: Tensor,
        state: Tensor,
        age_s: Tensor,
        noise: Tensor,
        prefix_rows: Tensor,
        prefix: Tensor,
    ) -> Tensor:
        """(1, H, slots); shapes as for :func:`~syvla_models.flow.sample`."""
        cache = IntentCache(key, value, aim)
        return sample(self.expert, cache, state, age_s, noise, prefix_rows, prefix, self.steps, self.live)


@torch.no_grad()
def write_graphs(folder: Path, expert: Expert, action: ActionSpec) -> None:
    """Write ``condition.onnx`` and ``chunk.onnx`` into ``folder``; shapes are fixed, one intent and one chunk."""
    expert = expert.eval()
    config = expert.config
    states = torch.zeros(1, config.queries, config.intent_width)
    cache = expert.condition(states)
    rows = torch.zeros(1, config.horizon, SLOTS)
    inputs = (*cache, torch.zeros(1, SLOTS), torch.zeros(1), rows, rows.clone(), torch.zeros(1, dtype=torch.int64))
    names = ["key", "value", "aim", "state", "age_s", "noise", "prefix_rows", "prefix"]
    _write(folder / CONDITION_FILE, ConditionGraph(expert), (states,), ["query_states"], names[:3])
    _write(folder / CHUNK_FILE, ChunkGraph(expert, action), inputs, names, ["chunk"])


def _write(path: Path, module: nn.Module, inputs: tuple[Tensor, ...], taken: list[str], given: list[str]) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        torch.onnx.export(
            module.eval(), inputs, path, input_names=taken, output_names=given, external_data=False, verbose=False
        )
