"""Guided real-time chunking: a chunk is pulled towards the one being executed, by inpainting while it is denoised.

Black, Galliker and Levine, Real-Time Execution of Action Chunking Flow Policies, 2025, algorithm 1, with the
pseudoinverse guidance of Pokle et al., Training-free Linear Image Inverses via Flows, 2024. Each step estimates the
clean chunk, sees how far it is from the rows that go on being executed, and takes that error back through the network
to the noisy chunk: one vector-Jacobian product.
"""

import numpy as np
import torch
from torch import Tensor

from syvla.message import Float32
from syvla_models.expert import Context, Expert

LEAST_STEPS = 5  # the paper's; a checkpoint may need fewer without guidance
BETA = 5.0  # the most that guidance counts; at most the number of steps, so that it never overshoots


def soft_mask(horizon: int, kept: int, overlap: int) -> Float32:
    """How much each row (H,) is held to the chunk being executed, of which ``overlap`` rows are left.

    1 for the ``kept`` rows that stay, then exponentially less down to 0 where the other chunk ends. In eq. 5 of the
    paper those stay that will have been executed when this chunk arrives; here what was decided for longer does, too.
    """
    frozen = min(kept, overlap)
    row = np.arange(horizon)
    c = np.clip((frozen - 1 - row) / (overlap - frozen + 1) + 1.0, 0.0, 1.0)
    weights = c * np.expm1(c) / np.expm1(1.0)
    return np.where(row < overlap, weights, 0.0).astype(np.float32)


def pulled(
    expert: Expert, x: Tensor, tau: float, context: Context, off: Tensor, weights: Tensor, live: Tensor
) -> tuple[Tensor, Tensor]:
    """The velocity at the noisy chunk ``x`` (B, H, slots), and (d x1 / d x)^T of the weighted error of x1.

    x1 = x + (1 - tau) v(x) is the clean chunk that the velocity leads to; ``off`` (B, H, slots) is what it is to be.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        times = expert.modulation(torch.tensor([[tau]], device=x.device))
        velocity = torch.where(live, expert.denoise(x, times, context), 0.0)
        clean = x + (1.0 - tau) * velocity
        error = torch.where(live, weights[..., None] * (off - clean), 0.0).detach()
        (back,) = torch.autograd.grad(clean, x, error)
    return velocity.detach(), torch.where(live, back, 0.0)


def guided(
    expert: Expert,
    context: Context,
    noise: Tensor,
    target: Tensor,
    weights: Tensor,
    steps: int,
    live: Tensor,
    beta: float = BETA,
) -> Tensor:
    """Chunks (B, H, slots) from ``noise`` by ``steps`` Euler steps, guided towards ``target`` (B, H, slots).

    The pull is never longer than the error that it is to take back: where a network answers to its noise more than one
    to one it was up to eighteen times as long, and led out of all that the network knows. The paper bounds its factor.

    ``weights`` (B, H) are those of :func:`soft_mask`. The rest is as for :func:`~syvla_models.flow.denoised`.
    """
    x = torch.where(live, noise, 0.0)
    most = min(beta, float(steps))
    for step in range(steps):
        tau = step / steps
        velocity, back = pulled(expert, x, tau, context, target, weights, live)
        error = torch.where(live, weights[..., None] * (target - x - (1.0 - tau) * velocity), 0.0)
        back = back * (_length(error) / _length(back).clamp(min=1e-12)).clamp(max=1.0)
        spread = (tau**2 + (1.0 - tau) ** 2) / (1.0 - tau) ** 2
        strength = most if step == 0 else min(most, (1.0 - tau) / tau * spread)
        x = x + (velocity + strength * back) / steps
    return x


def _length(x: Tensor) -> Tensor:
    """Of each chunk (B, 1, 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return length
