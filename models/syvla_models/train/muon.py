"""Muon (Jordan et al., 2024: momentum made orthogonal), whose work is divided among the processes of a step.

With a small network and small batches, making the matrices orthogonal is a third of a step. Every process has the same
gradients, so each does its share of the matrices and the updates are added up.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import distributed, nn

from syvla_models.train.precision import has_bfloat16

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic iteration
_STEPS = 5
_EPSILON = 1e-7


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the nearest (semi-)orthogonal matrix: its singular values mostly within 0.7 and 1.2, float32.

    Newton-Schulz with Jordan's coefficients, in bfloat16 where the device computes in it.
    """
    x = matrix.bfloat16() if has_bfloat16(matrix.device) else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_EPSILON)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """For matrices only. Updates are scaled as large as AdamW's (Liu et al., Muon is Scalable, 2025)."""

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient; all processes must call it."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        todo = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        directions = [self._direction(parameter, group["momentum"]) for parameter, group in todo]
        for (parameter, group), update in zip(todo, _divided(directions), strict=True):
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
            parameter.sub_(group["lr"] * 0.2 * max(parameter.shape) ** 0.5 * update)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's momentum."""
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: torch.Tensor = state["momentum_buffer"]
        assert parameter.grad is not None  # noqa: S101 - step() looks
        buffer.lerp_(parameter.grad, 1.0 - momentum)
        return parameter.grad.lerp(buffer, momentum)


def _divided(directions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The orthogonal matrix for each of ``directions``, which are the same on every process."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [orthogonal(direction) for direction in directions]
    mine = shares([tuple(d.shape) for d in directions], distributed.get_world_size())[distributed.get_rank()]
    flat = torch.zeros(sum(d.numel() for d in directions), device=directions[0].device)
    updates = [part.view_as(d) for part, d in zip(flat.split([d.numel() for d in directions]), directions, strict=True)]
    for index in mine:
        updates[index].copy_(orthogonal(directions[index]))
    distributed.all_reduce(flat)
    return updates


def shares(shapes: Sequence[tuple[int, ...]], processes: int) -> list[list[int]]:
    """Which matrices each process takes: the costliest first, each to whoever has least to do."""
    costs = {index: min(shape) ** 2 * (2 * max(shape) + min(shape)) for index, shape in enumerate(shapes)}
    loads, found = [0] * processes, [list[int]() for _ in range(processes)]
    for index in sorted(costs, key=lambda index: (-costs[index], index)):
        least = loads.index(min(loads))
        loads[least] += costs[index]
        found[least].append(index)
    return found
