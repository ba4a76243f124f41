"""The optimiser of the VLM's and the expert's weights, each at its own rate, and a moving average of them.

Matrices inside the networks learn by Muon, everything else by AdamW:
vectors, embeddings, and the layers at the ends. With small batches Muon learns to see the twin in fewer minutes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from syvla_models.train.config import OptimiserConfig
from syvla_models.train.muon import Muon

VLM_PREFIX = "planner."  # names in the training model that learn at the VLM's rate; all others at the expert's


_ENDS = ("embed", "lm_head", "queries", "grounding", "aim", "action_in", "action_out")  # matrices that AdamW keeps


class Optimiser:
    """Several of torch's optimisers as one; ``param_groups`` have their ``part`` and ``peak`` rate."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self._members = tuple(members)
        self.param_groups = [group for member in members for group in member.param_groups]

    def state_of(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """The moments of ``parameter`` by name: empty before its first step. It may be changed in place."""
        owner = next(m for m in self._members if any(parameter is p for g in m.param_groups for p in g["params"]))
        state: dict[str, torch.Tensor] = owner.state[parameter]
        return state

    def step(self) -> None:
        """One step of each."""
        for member in self._members:
            member.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for member in self._members:
            member.zero_grad(set_to_none=True)


def build(parameters: Mapping[str, nn.Parameter], config: OptimiserConfig) -> Optimiser:
    """One group for each rate, with and without weight decay; vectors and the feature queries are not decayed."""
    inner = {
        name: p
        for name, p in parameters.items()
        if config.muon and p.ndim == 2 and not any(end in name for end in _ENDS)
    }
    members: list[torch.optim.Optimizer] = []
    if len(inner) < len(parameters):
        rest = {name: p for name, p in parameters.items() if name not in inner}
        members.append(torch.optim.AdamW(_groups(rest, config), lr=0.0, betas=config.betas, fused=True))
    if inner:
        members.append(Muon(_groups(inner, config)))
    return Optimiser(members)


def _groups(parameters: Mapping[str, nn.Parameter], config: OptimiserConfig) -> list[dict[str, Any]]:
    """The rate is set before every step."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decayed = parameter.ndim >= 2 and not name.endswith("queries")
        groups.setdefault(("vlm" if name.startswith(VLM_PREFIX) else "expert", decayed), []).append(parameter)
    peaks = {"vlm": config.vlm_rate, "expert": config.expert_rate}
    return [
        {
            "params": members,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "part": part,
            "peak": peaks[part],
        }
        for (part, decayed), members in groups.items()
    ]


def set_rates(optimiser: Optimiser, config: OptimiserConfig, step: int, fraction: float) -> dict[str, float]:
    """Set and return each part's learning rate for ``step`` at ``fraction`` (0..1) of the budget."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    factor = warmup * (config.final_rate + (1.0 - config.final_rate) * cosine)
    rates: dict[str, float] = {}
    for group in optimiser.param_groups:
        group["lr"] = rates[group["part"]] = group["peak"] * factor
    return rates


def clip(optimiser: Optimiser, limit: float) -> dict[str, torch.Tensor]:
    """Scale down the gradients of each part whose global norm is above ``limit``; the norms before that."""
    parts: dict[str, list[nn.Parameter]] = {}
    for group in optimiser.param_groups:
        parts.setdefault(group["part"], []).extend(group["params"])
    return {part: nn.utils.clip_grad_norm_(members, limit) for part, members in parts.items()}


def moments(optimiser: Optimiser, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors: those that exist already."""
    return {
        f"{name}.{kind}": value
        for name, parameter in parameters.items()
        for kind, value in optimiser.state_of(parameter).items()
    }


def restore_moments(
    optimiser: Optimiser, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what :func:`moments` gave."""
    for name, parameter in parameters.items():
        found = {
            kind: tensors[f"{name}.{kind}"].clone()
            for kind in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
            if f"{name}.{kind}" in tensors
        }
        for kind, value in found.items():  # AdamW keeps the count in its own type, beside the parameter when fused
            optimiser.state_of(parameter)[kind] = value.to(parameter.device) if kind == "step" else value.to(parameter)


class Average:
    """An exponential moving average of ``parameters``; young averages forget faster, so the start weighs little.

    With ``decay`` 0 it is no average: ``applied`` leaves the weights as they are.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters: list[torch.Tensor] = list(parameters.values())
        self._decay = decay
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()} if decay > 0.0 else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after ``step`` steps (1 after the first)."""
        if self.tensors:
            decay = min(self._decay, (1.0 + step) / (10.0 + step))
            torch._foreach_lerp_(list(self.tensors.values()), self._parameters, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        if not self.tensors:
            yield
            return
        own = [p.detach().clone() for p in self._parameters]
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, list(self.tensors.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, own)
