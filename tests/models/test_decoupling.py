"""Intention decoupling: which query states are left out, by which threshold, and what trains."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from syvla.errors import ConfigError
from syvla_models.decoupling import PercentileEstimate, decoupled
from syvla_models.expert import Expert
from syvla_models.flow import draw_tau, flow_loss
from syvla_models.spec import ExpertConfig
from syvla_models.train.overhead import overhead

BATCH, QUERIES, WIDTH = 4, 20, 6
CONFIG = ExpertConfig(width=16, depth=1, heads=2, mlp_ratio=2.0, intent_width=WIDTH, horizon=5, slots=32)


class Weighed(nn.Module):
    """A mean of samples' losses whose gradient at state (b, i) is known: weight[b, i] / B along the first axis."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.seen: list[Tensor] = []

    def forward(self, states: Tensor) -> Tensor:
        self.seen.append(states.detach().clone())
        return (self.weight * states[..., 0].float()).sum(dim=1).mean()


def states(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, QUERIES, WIDTH, generator=generator).to(dtype).requires_grad_()


def weights(seed: int = 0) -> Tensor:
    return torch.rand(BATCH, QUERIES, generator=torch.Generator().manual_seed(seed)) + 0.1


def expert_loss(seed: int = 0) -> tuple[Expert, Callable[[Tensor], Tensor]]:
    """A real expert and its flow loss, with noise and times drawn once."""
    torch.manual_seed(seed)
    expert = Expert(CONFIG)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.normal_(0.0, 0.3)
    actions, noise = torch.randn(2, 2 * BATCH, 5, 32)
    tau, prefix = draw_tau(2 * BATCH), torch.randint(0, 3, (2 * BATCH,))
    proprioception, age_s = torch.randn(2 * BATCH, 32), torch.rand(2 * BATCH)
    live = torch.arange(32) % 16 >= 9

    def loss(query_states: Tensor) -> Tensor:
        cache = expert.condition(query_states).repeat(2)
        return flow_loss(expert, actions, live, noise, tau, prefix, proprioception, age_s, cache)[0]

    return expert, loss


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("percentile", [0.0, 5.0, 30.0, 100.0])
def test_it_is_the_brute_force_rule(percentile: float) -> None:
    """Every step: all norms of the window in one list, its percentile, every state below it set to zero."""
    window = 3 * BATCH * QUERIES - 7  # the oldest step is forgotten in part
    estimate, seen = PercentileEstimate(percentile, window), np.zeros(0)
    share = []
    for step in range(6):
        weight, query_states = weights(step), states(seed=step)
        loss = Weighed(weight)
        value, masked, norms = decoupled(loss, query_states, estimate)
        seen = np.concatenate((seen, weight.abs().numpy().ravel().astype(np.float64)))[-window:]
        expected = weight.numpy() < np.percentile(seen, percentile)
        torch.testing.assert_close(norms, weight)
        assert np.array_equal(masked.numpy(), expected)
        kept = torch.where(torch.from_numpy(expected)[..., None], 0.0, query_states.detach())
        assert torch.equal(loss.seen[0], query_states.detach())
        assert torch.equal(loss.seen[1], kept)
        torch.testing.assert_close(value, loss(kept))
        share.append(expected.mean())
    assert np.mean(share) == pytest.approx(percentile / 100.0, abs=0.04)


def test_norms_are_of_the_gradient_by_autograd() -> None:
    _, loss = expert_loss()
    query_states = states()
    (gradient,) = torch.autograd.grad(loss(query_states), query_states)
    _, masked, norms = decoupled(loss, query_states, PercentileEstimate(25.0))
    torch.testing.assert_close(norms, BATCH * gradient.norm(dim=-1))
    assert 0.2 <= masked.float().mean() <= 0.26


def test_norms_do_not_depend_on_how_many_samples_share_the_mean() -> None:
    weight = weights()
    _, _, all_norms = decoupled(Weighed(weight), states(), PercentileEstimate())
    _, _, first = decoupled(Weighed(weight[:1]), states()[:1], PercentileEstimate())
    torch.testing.assert_close(first, all_norms[:1])


def test_a_probe_finds_the_states_that_the_loss_goes_without() -> None:
    weight, other = weights(), weights(1)
    value, masked, norms = decoupled(Weighed(weight), states(), PercentileEstimate(25.0), probe=Weighed(other))
    by_probe, by_other, other_norms = decoupled(Weighed(other), states(), PercentileEstimate(25.0))
    torch.testing.assert_close(norms, other_norms)
    assert torch.equal(masked, by_other)
    assert value != by_probe
    torch.testing.assert_close(value, Weighed(weight)(states().masked_fill(masked[..., None], 0.0)))


# ---------------------------------------------------------------- what trains


def test_only_the_second_loss_trains() -> None:
    """Gradients of the query states and of the expert's weights are those of the masked loss alone."""
    expert, loss = expert_loss()
    query_states = states()
    value, masked, _ = decoupled(loss, query_states, PercentileEstimate(25.0))
    assert all(p.grad is None for p in expert.parameters())
    assert query_states.grad is None
    value.backward()
    found = {name: p.grad.clone() for name, p in expert.named_parameters() if p.grad is not None}
    expert.zero_grad()
    other = states()
    loss(torch.where(masked[..., None], 0.0, other)).backward()
    assert query_states.grad is not None
    torch.testing.assert_close(query_states.grad, other.grad)
    assert masked.any()
    assert (query_states.grad[masked] == 0.0).all()
    assert (query_states.grad[~masked] != 0.0).any(dim=-1).all()
    for name, p in expert.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, msg=name)


def test_states_that_need_no_gradient_are_decoupled_too() -> None:
    """A frozen VLM: the expert still learns without them."""
    expert, loss = expert_loss()
    value, masked, _ = decoupled(loss, states().detach(), PercentileEstimate(25.0))
    value.backward()
    assert masked.any()
    assert all(p.grad is not None for p in expert.parameters())


def test_it_can_be_measured_without_training() -> None:
    _, loss = expert_loss()
    with torch.no_grad():
        value, masked, norms = decoupled(loss, states(), PercentileEstimate(25.0))
    assert not value.requires_grad
    assert masked.any()
    assert norms.min() > 0.0


# ---------------------------------------------------------------- gradients that say nothing


def test_all_zero_gradients_mask_nothing() -> None:
    estimate = PercentileEstimate()
    for _ in range(3):
        _, masked, norms = decoupled(Weighed(torch.zeros(BATCH, QUERIES)), states(), estimate)
        assert (norms == 0.0).all()
        assert not masked.any()


def test_a_fresh_expert_masks_nothing() -> None:
    torch.manual_seed(0)
    expert, estimate = Expert(CONFIG), PercentileEstimate()
    cache_of, rest = expert.condition, (torch.zeros(BATCH, 32), torch.zeros(BATCH))
    actions, noise = torch.randn(2, BATCH, 5, 32)

    def loss(query_states: Tensor) -> Tensor:
        live, tau = torch.ones(32, dtype=torch.bool), torch.full((BATCH,), 0.5)
        prefix = torch.zeros(BATCH, dtype=torch.int64)
        return flow_loss(expert, actions, live, noise, tau, prefix, *rest, cache_of(query_states))[0]

    assert not decoupled(loss, states(), estimate)[1].any()


def test_zero_gradients_after_others_mask_nothing() -> None:
    """One sample without any gradient beside ordinary ones, and then a whole batch of them: nobody is emptied."""
    estimate, weight = PercentileEstimate(), weights()
    decoupled(Weighed(weight), states(), estimate)
    weight[1] = 0.0
    weight[2, 0] = 0.0
    _, masked, _ = decoupled(Weighed(weight), states(), PercentileEstimate())
    assert not masked[1].any()
    _, masked, _ = decoupled(Weighed(torch.zeros_like(weight)), states(), estimate)
    assert not masked.any()


def test_a_state_without_gradient_among_others_is_masked() -> None:
    weight = weights()
    weight[2, 0] = 0.0
    _, masked, _ = decoupled(Weighed(weight), states(), PercentileEstimate())
    assert masked[2, 0]


def test_a_gradient_that_is_not_finite_masks_nothing_and_is_forgotten() -> None:
    estimate, weight = PercentileEstimate(), weights()
    weight[1, 3] = torch.nan
    _, masked, _ = decoupled(Weighed(weight), states(), estimate)
    assert not masked[1].any()
    _, masked, _ = decoupled(Weighed(weights(1)), states(), estimate)
    assert 0 < masked.sum() < 0.15 * masked.numel()


def test_bfloat16() -> None:
    """A VLM in bfloat16 hands over bfloat16 states; a model moved to bfloat16 has a bfloat16 estimate."""
    estimate, query_states = PercentileEstimate().to(torch.bfloat16), states(torch.bfloat16)
    value, masked, norms = decoupled(Weighed(weights()), query_states, estimate)
    value.backward()
    assert norms.dtype == torch.float32
    assert 0 < masked.sum() < 0.15 * masked.numel()
    assert query_states.grad is not None
    assert query_states.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------- the estimate


def test_the_estimate_follows_norms_that_shrink() -> None:
    """Over a run the norms fall by orders of magnitude; what is masked stays about the percentile."""
    estimate, share = PercentileEstimate(5.0, window=20 * BATCH * QUERIES), []
    for step in range(200):
        scale = 10.0 ** (-3.0 * step / 200)
        _, masked, _ = decoupled(Weighed(scale * weights(step)), states(), estimate)
        share.append(masked.float().mean().item())
    assert np.mean(share) < 0.12


def test_the_estimate_goes_on_after_a_resume() -> None:
    first = PercentileEstimate()
    first.update(weights(0))
    second = PercentileEstimate()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.update(weights(1)), second.update(weights(1)))


def test_a_batch_larger_than_the_window_is_its_newest_part() -> None:
    estimate = PercentileEstimate(50.0, window=3)
    assert estimate.update(torch.tensor([100.0, 1.0, 2.0, 3.0])).item() == 2.0
    assert estimate.update(torch.tensor([10.0])).item() == 3.0


@pytest.mark.parametrize(
    ("arguments", "named"), [((-1.0, 10), "percentile"), ((101.0, 10), "percentile"), ((5.0, 0), "window")]
)
def test_an_estimate_that_cannot_be_is_refused(arguments: tuple[float, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PercentileEstimate(*arguments)


def test_the_overhead_is_measured_of_a_policy_whose_expert_is_just_under_a_fifth() -> None:
    """How much it is, is measured on a quiet machine: it was told of an expert with 9 %, as "a sixth"."""
    assert 0.17 < overhead(batch=1, chunks=2, steps=1).expert_share < 0.2
