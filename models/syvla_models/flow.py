"""Flow matching over action chunks: the training loss, the time it is taken at, and Euler integration.

The path is straight: x_tau = (1 - tau) * noise + tau * actions, so its velocity is actions - noise (Lipman et al., Flow
Matching for Generative Modeling, 2023; Liu et al., Flow Straight and Fast, 2023). tau runs from 0, noise, to 1.

Each row has its own tau. Rows of a committed prefix are given clean, at tau = 1, and are out of the loss: the expert
learns to go on from actions that will have been executed by the time the chunk arrives. At inference the prefix is
simply given, at no cost.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from syvla_models.expert import Context, Expert, IntentCache, Modulation
from syvla_models.spec import ExpertConfig

HAND_STRIDE = 5  # at every so manieth row the error of the grasp points is taken
HAND_UNIT_M = 0.05
NEAR_M = 0.005  # of every :func:`distance` in metres: well within what a grasp forgives
_TAU_MAX = 0.999


class Denoiser(Protocol):
    """What of an expert the sampling loop needs."""

    config: ExpertConfig

    def modulation(self, tau: Tensor) -> Modulation:
        """See :meth:`~syvla_models.expert.Expert.modulation`."""
        ...

    def denoise(self, x: Tensor, modulation: Modulation, context: Context) -> Tensor:
        """See :meth:`~syvla_models.expert.Expert.denoise`."""
        ...


def draw_tau(count: int, generator: torch.Generator | None = None, at_start: float = 0.0) -> Tensor:
    """Flow times (count,) to train at: tau = 0.999 (1 - u), u from Beta(1.5, 1).

    That is pi0's choice (Black et al., 2024, appendix B): more often near the noise. There the velocity says which of
    all chunks fits the intent, the part that is hard; near tau = 1 the answer can nearly be read off the input.

    ``at_start`` is the share of times that are 0 instead. Denoised from little or no noise, a chunk is decided by the
    first step: after it, the input says where it leads.
    """
    # The distribution function of Beta(1.5, 1) is u^1.5.
    drawn = _TAU_MAX * (1.0 - torch.rand(count, generator=generator).pow(2.0 / 3.0))
    if at_start == 0.0:
        return drawn
    return torch.where(torch.rand(count, generator=generator) < at_start, 0.0, drawn)


def row_weights(prefix: Tensor, horizon: int, executed_rows: int, later: float) -> Tensor:
    """What each row counts (B, H): 1 for the ``executed_rows`` after the ``prefix`` (B,), then ``later``, before it 0.

    With ``executed_rows`` 0 all rows after the prefix count 1. The last rows of a chunk are the least certain and the
    farthest from where the hand is: their errors are many times those of the rows that will be executed, and drown
    them.
    """
    row = torch.arange(horizon, device=prefix.device) - prefix[:, None]
    past = row >= (executed_rows or horizon)
    return torch.where(row < 0, 0.0, torch.where(past, later, 1.0))


def distance(off: Tensor, near: float) -> Tensor:
    """About how long each vector (..., N) is, sqrt(off^2 + near^2) - near, as a loss (...).

    (Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging, 1994.) Squares
    are about the largest errors: the last centimetre, which a grasp is about, hardly shows in them. And of two places
    that it might be, their least is in the middle, where there is nothing to grasp; that of distances is at the
    likelier one. Below ``near`` it is a square nevertheless, since a distance has no slope at 0.
    """
    return (off.square().sum(-1) + near**2).sqrt() - near


def flow_loss(
    expert: Expert,
    actions: Tensor,
    live: Tensor,
    noise: Tensor,
    tau: Tensor,
    prefix: Tensor,
    proprioception: Tensor,
    age_s: Tensor,
    cache: IntentCache,
    leverage: Tensor | None = None,
    hand: float = 0.0,
    executed_rows: int = 0,
    later: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the velocity over the live slots of the rows after the prefix, see :func:`row_weights`.

    To this, ``hand`` times the :func:`distance` of the grasp points, 1 for 5 cm, in the clean chunk to which the
    velocity leads. Centimetres of reach hardly show in joints that swing by half a radian, and were learned last of
    all. Where the intent leaves nothing open, both are least at the same velocity.

    Args:
        expert: The model.
        actions: Normalised chunks (B, H, slots).
        live: Which slots mean anything (slots,), bool. The others are 0 at the input whatever ``actions`` has there.
        noise: Normal, (B, H, slots); any deviation, as long as it is always the same.
        tau: Flow time of each sample (B,).
        prefix: How many first rows of each sample are given clean (B,).
        proprioception: The measured state, normalised (B, 32).
        age_s: Of the intents (B,).
        cache: Of the intents.
        leverage: How far a change of each slot moves the grasp points, at every fifth row (B, H // 5, 2, 3, 16) [m].
        hand: Weight of the error of the grasp points; they need a ``leverage``.
        executed_rows: How many rows after the prefix count in full; 0: all.
        later: What the rows after those count.

    Returns:
        The mean over the samples, and each sample's own loss (B,); 0 for a sample that is all prefix.
    """
    clean = _clean(prefix, actions.shape[1])
    target = torch.where(live, actions - noise, 0.0)
    x = torch.where(clean[..., None], actions, noise + tau[:, None, None] * (actions - noise))
    x = torch.where(live, x, 0.0)
    # Two times for each sample, its own and 1, instead of one for each token.
    times = expert.modulation(torch.stack((tau, torch.ones_like(tau)), dim=1))
    noisy, at_end = Modulation(*(m[:, :1] for m in times)), Modulation(*(m[:, 1:] for m in times))
    modulation = _mixed(noisy, at_end, clean, expert.config.rows_per_token)
    velocity = expert.denoise(x, modulation, expert.context(cache, proprioception, age_s))
    weights = row_weights(prefix, actions.shape[1], executed_rows, later)
    error = torch.where(live & ~clean[..., None], velocity.float() - target.float(), 0.0)
    per_row = error.square().sum(dim=2) / live.sum()
    per_sample = (weights * per_row).sum(dim=1) / _sum(weights)
    if leverage is not None and hand > 0.0:
        by_arm = error[:, HAND_STRIDE - 1 :: HAND_STRIDE].unflatten(-1, (2, -1))
        by_arm = by_arm * (1.0 - tau)[:, None, None, None]  # of the clean chunk that the velocity leads to
        moved = (leverage.float() @ by_arm[..., None])[..., 0] / HAND_UNIT_M  # (B, H // 5, 2, 3)
        weights = weights[:, HAND_STRIDE - 1 :: HAND_STRIDE]
        off = distance(moved, NEAR_M / HAND_UNIT_M).mean(2)
        per_sample = per_sample + hand * (weights * off).sum(1) / _sum(weights)
    return per_sample.mean(), per_sample


@torch.no_grad()
def sample(
    expert: Expert,
    cache: IntentCache,
    proprioception: Tensor,
    age_s: Tensor,
    noise: Tensor,
    prefix_rows: Tensor | None,
    prefix: Tensor | None,
    steps: int,
    live: Tensor,
) -> Tensor:
    """Chunks (B, H, slots) from noise, by ``steps`` equal Euler steps. The same noise gives the same chunk.

    Args:
        expert: The model.
        cache: Of the intents.
        proprioception: The measured state, normalised (B, 32).
        age_s: Of the intents (B,).
        noise: Standard normal (B, H, slots), drawn by the caller so that a replay is exact.
        prefix_rows: Normalised actions (B, H, slots) of which the first ``prefix`` rows are committed; they come out
            as they are. None for no prefix.
        prefix: How many rows of each sample are committed (B,).
        steps: How many times the expert is evaluated.
        live: Which slots mean anything (slots,), bool; the others come out as 0.
    """
    context = expert.context(cache, proprioception, age_s)
    return denoised(expert, context, noise, prefix_rows, prefix, steps, live)


def denoised(
    expert: Denoiser,
    context: Context,
    noise: Tensor,
    prefix_rows: Tensor | None,
    prefix: Tensor | None,
    steps: int,
    live: Tensor,
) -> Tensor:
    """As :func:`sample`, from a context that is there already."""
    if (prefix is None) != (prefix_rows is None):
        raise ValueError("prefix and prefix_rows are given together or not at all")
    # (steps + 1, 1, ...): all times of the integration at once, and the time of clean rows.
    times = expert.modulation(torch.linspace(0.0, 1.0, steps + 1, device=noise.device)[:, None])
    clean = None
    if prefix_rows is not None and prefix is not None:
        clean = _clean(prefix, noise.shape[1])
        prefix_rows = torch.where(live, prefix_rows, 0.0)

    def velocity(x: Tensor, step: int) -> Tensor:
        now = Modulation(*(m[step : step + 1] for m in times))
        if clean is not None:
            at_end = Modulation(*(m[steps:] for m in times))
            now = _mixed(now, at_end, clean, expert.config.rows_per_token)
        return torch.where(live, expert.denoise(x, now, context), 0.0)

    return integrate(velocity, torch.where(live, noise, 0.0), steps, prefix_rows, clean)


def integrate(
    velocity: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    steps: int,
    prefix_rows: Tensor | None = None,
    clean: Tensor | None = None,
) -> Tensor:
    """Euler's method from ``noise`` (B, H, slots) at tau = 0 to tau = 1; ``velocity`` is given x and the step's number.

    Where ``clean`` (B, H) is true, the rows are those of ``prefix_rows`` before, during and after.
    """
    x = noise
    for step in range(steps):
        x = _with_prefix(x, prefix_rows, clean)
        x = x + velocity(x, step) / steps
    return _with_prefix(x, prefix_rows, clean)


def _with_prefix(x: Tensor, prefix_rows: Tensor | None, clean: Tensor | None) -> Tensor:
    return x if prefix_rows is None or clean is None else torch.where(clean[..., None], prefix_rows, x)


def _clean(prefix: Tensor, horizon: int) -> Tensor:
    """Which rows are given clean: (B, H) bool, the first ``prefix`` (B,) of each sample."""
    return torch.arange(horizon, device=prefix.device) < prefix[:, None]


def _sum(weights: Tensor) -> Tensor:
    """The sums (B,) of weights (B, N); 1 where all are 0, so that a mean over nothing is 0."""
    total = weights.sum(dim=1)
    return torch.where(total > 0.0, total, 1.0)


def _mixed(noisy: Modulation, clean_rows: Modulation, clean: Tensor, rows_per_token: int) -> Modulation:
    """Each token's modulation (B, T, ...): of its noisy and its clean rows (both B or 1, 1, ...), by their shares."""
    share = clean.unflatten(1, (-1, rows_per_token)).float().mean(-1, keepdim=True)
    return Modulation(*(torch.lerp(n, c, share.to(n)) for n, c in zip(noisy, clean_rows, strict=True)))
