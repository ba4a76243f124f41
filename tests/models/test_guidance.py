"""Guided real-time chunking: the mask, the vector-Jacobian product, and what the guidance comes to."""

import numpy as np
import pytest
import torch
from tests.models.test_flow import LIVE, ROWS, SLOTS, Given, made

from syvla_models.expert import Context, Expert, Modulation
from syvla_models.flow import sample
from syvla_models.guidance import guided, pulled, soft_mask


def test_the_mask_is_one_for_what_will_have_been_executed_and_falls_to_zero_at_the_end_of_the_other_chunk() -> None:
    weights = soft_mask(50, kept=4, overlap=30)
    assert weights[:4] == pytest.approx(1.0)
    assert (weights[30:] == 0.0).all()
    assert (np.diff(weights[3:31]) < 0.0).all()
    c = (4 - 1 - 17) / (30 - 4 + 1) + 1.0
    assert weights[17] == pytest.approx(c * (np.exp(c) - 1.0) / (np.e - 1.0))
    assert (soft_mask(50, kept=9, overlap=3) == [1.0] * 3 + [0.0] * 47).all(), "nothing is known past its end"
    assert (soft_mask(50, kept=0, overlap=0) == 0.0).all()


def setting(expert: Expert, seed: int = 0) -> tuple[Given, Context, torch.Tensor]:
    given = Given(1, seed)
    with torch.no_grad():
        context = expert.context(expert.condition(given.states), given.proprioception, given.age_s)
    weights = torch.from_numpy(soft_mask(ROWS, 2, 6))[None]
    return given, context, weights


@pytest.mark.parametrize("tau", [0.0, 0.4])
def test_the_error_comes_back_through_the_network(tau: float) -> None:
    """A gradient enabled too late once left the Jacobian of x1 = x + (1 - tau) v(x) at the identity, silently."""
    expert = made()
    given, context, weights = setting(expert)
    x = torch.where(LIVE, given.noise, 0.0)
    times = expert.modulation(torch.tensor([[tau]]))

    def clean(flat: torch.Tensor) -> torch.Tensor:
        noisy = flat.view(1, ROWS, SLOTS)
        return (noisy + (1.0 - tau) * torch.where(LIVE, expert.denoise(noisy, times, context), 0.0)).flatten()

    jacobian = torch.autograd.functional.jacobian(clean, x.flatten())
    error = torch.where(LIVE, weights[..., None] * (given.actions - clean(x.flatten()).view(x.shape)), 0.0)
    expected = torch.where(LIVE, (jacobian.T @ error.flatten()).view(x.shape), 0.0)
    velocity, back = pulled(expert, x, tau, context, given.actions, weights, LIVE)
    assert torch.allclose(back, expected, atol=1e-5)
    assert float(((back - error).norm() / error.norm()).detach()) > 0.05, (
        "were it the identity, this test would prove nothing"
    )
    assert torch.allclose(velocity, torch.where(LIVE, expert.denoise(x, times, context), 0.0), atol=1e-6)
    assert not back.requires_grad
    assert not velocity.requires_grad


def test_without_weight_it_is_plain_sampling() -> None:
    expert = made()
    given, context, weights = setting(expert)
    cache = expert.condition(given.states)
    free = sample(expert, cache, given.proprioception, given.age_s, given.noise, None, None, 5, LIVE)
    found = guided(expert, context, given.noise, given.actions, 0.0 * weights, 5, LIVE)
    assert torch.allclose(found, free, atol=1e-6)


def test_a_guided_chunk_is_nearer_to_the_one_before_where_it_counts() -> None:
    expert = made()
    given, context, weights = setting(expert)
    free = guided(expert, context, given.noise, given.actions, 0.0 * weights, 10, LIVE)
    found = guided(expert, context, given.noise, given.actions, weights, 10, LIVE)

    def off(x: torch.Tensor, rows: slice) -> float:
        return float((x - given.actions)[0, rows][:, LIVE].norm())

    assert off(found, slice(0, 2)) < 0.3 * off(free, slice(0, 2))
    assert off(found, slice(2, 5)) < off(free, slice(2, 5))
    assert not found[..., ~LIVE].any()


class Straight(Expert):
    """Knows where it goes: the velocity is that of a straight line to ``goal``, its Jacobian known."""

    def modulation(self, tau: torch.Tensor) -> Modulation:
        return Modulation(tau, tau)

    def denoise(self, x: torch.Tensor, modulation: Modulation, context: Context) -> torch.Tensor:
        return (torch.ones_like(x) - x) / (1.0 - modulation.layers[..., None])


def test_where_the_network_has_settled_nothing_can_be_pulled() -> None:
    """x1 is the goal whatever x is: its Jacobian is zero, so that an identity would show."""
    expert = Straight(made().config)
    given, context, weights = setting(made())
    _, back = pulled(expert, given.noise, 0.3, context, given.actions, weights, LIVE)
    assert float(back.abs().max()) < 1e-6
    found = guided(expert, context, given.noise, given.actions, weights, 7, LIVE)
    assert torch.allclose(found[..., LIVE], torch.ones(()), atol=1e-5)


class Loud(Expert):
    """Answers to its noise many times over: x1 = x + (1 - tau) 20 x."""

    def modulation(self, tau: torch.Tensor) -> Modulation:
        return Modulation(tau, tau)

    def denoise(self, x: torch.Tensor, modulation: Modulation, context: Context) -> torch.Tensor:
        return 20.0 * x


def test_a_network_that_answers_many_times_over_is_not_thrown_far_off() -> None:
    """Guided chunks of the shipped expert were up to a radian beside the arms, and the gate refused them."""
    expert = Loud(made().config)
    given, context, _ = setting(made())
    found = guided(expert, context, 0.01 * given.noise, given.actions, torch.ones(1, ROWS), 1, LIVE)
    assert torch.allclose(found[..., LIVE], given.actions[..., LIVE], atol=1e-5), "taken back once, not 21 times"
