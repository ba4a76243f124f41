"""The expert as three ONNX graphs: what an intent needs once, what a chunk needs once, and the whole sampling loop.

The first two are small and stay exact where the third is rounded: a metre in bfloat16 has no centimetres.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from syvla_models.actions import action_space
from syvla_models.backends.exported import CONDITION_FILE, CONTEXT_FILE, DENOISE_FILE, DENOISE_HALF_FILE
from syvla_models.backends.rounded import Rounded
from syvla_models.expert import Context, Expert, IntentCache
from syvla_models.flow import denoised
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


class ContextGraph(nn.Module):
    """The intent's tensors, the measured state (1, 32) and the intent's age (1,) to the keys and values of a chunk."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, key: Tensor, value: Tensor, aim: Tensor, state: Tensor, age_s: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`~syvla_models.expert.Expert.context` gives."""
        context = self.expert.context(IntentCache(key, value, aim), state, age_s)
        return context.key, context.value


class DenoiseGraph(nn.Module):
    """Noise to a chunk, (1, H, slots) each: all ``euler_steps`` evaluations in a row."""

    live: Tensor

    def __init__(self, expert: Expert | Rounded, action: ActionSpec) -> None:
        super().__init__()
        self.expert = expert
        self.steps = action.euler_steps
        self.register_buffer("live", torch.from_numpy(action_space(action).live))

    def forward(self, key: Tensor, value: Tensor, noise: Tensor, prefix_rows: Tensor, prefix: Tensor) -> Tensor:
        """What :func:`~syvla_models.flow.denoised` gives."""
        return denoised(self.expert, Context(key, value), noise, prefix_rows, prefix, self.steps, self.live)


@torch.no_grad()
def write_graphs(folder: Path, expert: Expert, action: ActionSpec) -> None:
    """Write the graphs into ``folder``; shapes are fixed, one intent and one chunk."""
    expert = expert.eval()
    config = expert.config
    states = torch.zeros(1, config.queries, config.intent_width)
    state, age_s = torch.zeros(1, SLOTS), torch.zeros(1)
    rows = torch.zeros(1, config.horizon, SLOTS)
    prefix = torch.zeros(1, dtype=torch.int64)
    cache = expert.condition(states)
    context = expert.context(cache, state, age_s)
    _write(folder / CONDITION_FILE, ConditionGraph(expert), {"query_states": states}, cache._fields)
    taken = {**cache._asdict(), "state": state, "age_s": age_s}
    _write(folder / CONTEXT_FILE, ContextGraph(expert), taken, context._fields)
    taken = {**context._asdict(), "noise": rows, "prefix_rows": rows.clone(), "prefix": prefix}
    for file, loop in ((DENOISE_FILE, expert), (DENOISE_HALF_FILE, Rounded(expert, torch.float16))):
        _write(folder / file, DenoiseGraph(loop, action), taken, ["chunk"])


def _write(path: Path, module: nn.Module, taken: Mapping[str, Tensor], given: Sequence[str]) -> None:
    for noisy in ("onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # What goes in and comes out under one name would be one tensor to ONNX.
    outputs = [f"{name}_out" if name in taken else name for name in given]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside the exporter
        torch.onnx.export(
            module.eval(),
            tuple(taken.values()),
            path,
            input_names=list(taken),
            output_names=outputs,
            external_data=False,
            verbose=False,
        )
