"""Intention decoupling: the expert is trained without the query states that did not matter to its action.

The action loss is computed once, the L2 norm of its gradient with respect to every query state is taken, the states
whose norm is below the 5th percentile are set to zero, and the loss is computed again: only that second loss trains.
Only what ``action_loss`` does runs twice, so the VLM runs once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from syvla.errors import ConfigError

WINDOW = 8192  # norms; the 5th percentile of so many is within a quarter of a percent (one deviation)


class PercentileEstimate(nn.Module):
    """The percentile of the norms that were seen last.

    It is taken over *all* (sample, query) pairs of the recent steps of one stage, this step's included. Over one
    sample's 20 states it would zero the same number in every sample, also where all of them matter; over one batch of
    a few samples it would rest on a handful of numbers. A window rather than an average over the whole run, because
    the norms shrink as the loss does, by orders of magnitude, and an old threshold would then mask everything.

    The norms are a buffer, so that ``state_dict`` carries them over a resumed run. With several processes the first
    one's serve all, as buffers do under DDP, and each adds its own norms of the step. The samples of all are drawn
    alike; norms of all would have to be waited for within a step, in which a process may have no robot rows at all.
    """

    recent: Tensor  # (window,), the newest last; NaN where nothing was seen yet

    def __init__(self, percentile: float = 5.0, window: int = WINDOW) -> None:
        """ConfigError unless 0 <= percentile <= 100 and window >= 1."""
        super().__init__()
        if not 0.0 <= percentile <= 100.0:
            raise ConfigError(f"percentile must be 0..100, not {percentile}")
        if window < 1:
            raise ConfigError(f"window must be at least 1, not {window}")
        self.percentile = percentile
        self.register_buffer("recent", torch.full((window,), torch.nan))

    @torch.no_grad()
    def update(self, norms: Tensor) -> Tensor:
        """Take in ``norms`` of any shape; the threshold now, a float32 scalar (NaN before any number was seen)."""
        joined = torch.cat((self.recent, norms.detach().to(self.recent).flatten()))
        self.recent.copy_(joined[-len(self.recent) :])
        # torch.quantile refuses the bfloat16 that a model's ``to`` may have made of the buffer.
        return torch.nanquantile(self.recent.float(), self.percentile / 100.0)


def decoupled(
    action_loss: Callable[[Tensor], Tensor],
    query_states: Tensor,
    estimate: PercentileEstimate,
    probe: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The action loss without the query states that did not matter to it.

    Args:
        action_loss: The mean of the samples' losses from query states (B, 20, D). It is called twice and must be the
            same function both times: noise and flow times are drawn outside it.
        query_states: (B, 20, D), of any dtype. The planner's gradients flow through the second pass only.
        estimate: Updated with this step's norms.
        probe: The same mean over fewer chunks, of which the gradient is taken; ``action_loss`` itself by default. Many
            chunks of one intent agree about which of its states matter.

    Returns:
        The second loss; which states it went without (B, 20), bool; and the norms (B, 20), float32.

    A state is masked if its norm is *below* the threshold, so that nothing is where the threshold is 0, as it is while
    a fresh expert's gates are closed. A sample whose gradients are all zero, or not all finite, says nothing about
    which of its states matter, and keeps them all.
    """
    with torch.enable_grad():
        leaf = query_states.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((probe or action_loss)(leaf), leaf)
    # Times B: of each sample's own loss, so that batches with more or fewer samples have norms of one scale.
    norms = torch.linalg.vector_norm(gradient.float(), dim=-1) * len(query_states)
    threshold = estimate.update(norms)
    telling = norms.isfinite().all(dim=-1, keepdim=True) & (norms > 0.0).any(dim=-1, keepdim=True)
    masked = (norms < threshold) & telling
    return action_loss(query_states.masked_fill(masked[..., None], 0.0)), masked, norms
