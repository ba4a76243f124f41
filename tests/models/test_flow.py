"""Flow matching: what counts in the loss, what the integration keeps, and that the two together learn an action."""

import msgspec
import pytest
import torch
from torch import Tensor

from syvla_models.expert import Context, Expert, Modulation
from syvla_models.flow import distance, draw_tau, flow_loss, integrate, row_weights, sample
from syvla_models.spec import ExpertConfig

CONFIG = ExpertConfig(width=24, depth=2, heads=2, mlp_ratio=2.0, intent_width=6, horizon=8, slots=32)
GROUPED = msgspec.structs.replace(CONFIG, rows_per_token=4)
LIVE = torch.arange(32) % 16 >= 9
BATCH, ROWS, SLOTS = 3, 8, 32


def made(seed: int = 0, config: ExpertConfig = CONFIG) -> Expert:
    torch.manual_seed(seed)
    expert = Expert(config)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.normal_(0.0, 0.2)
    return expert


class Given:
    """A batch of everything."""

    def __init__(self, batch: int = BATCH, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.actions = torch.randn(batch, ROWS, SLOTS, generator=g)
        self.noise = torch.randn(batch, ROWS, SLOTS, generator=g)
        self.tau = torch.rand(batch, generator=g)
        self.prefix = torch.tensor([0, 3, 5])[:batch]
        self.proprioception = torch.randn(batch, 32, generator=g)
        self.age_s = torch.rand(batch, generator=g)
        self.states = torch.randn(batch, 20, 6, generator=g)

    def loss(self, expert: Expert) -> tuple[Tensor, Tensor]:
        cache = expert.condition(self.states)
        return flow_loss(
            expert,
            self.actions,
            LIVE,
            self.noise,
            self.tau,
            self.prefix,
            self.proprioception,
            self.age_s,
            cache,
        )

    def sampled(self, expert: Expert, *, prefix: bool = True, steps: int = 10) -> Tensor:
        rows, count = (self.actions, self.prefix) if prefix else (None, None)
        cache = expert.condition(self.states)
        return sample(expert, cache, self.proprioception, self.age_s, self.noise, rows, count, steps, LIVE)


class Known(Expert):
    """An expert with a velocity that the test knows: of x, of tau for each row, and of the call's number."""

    def __init__(self, target: Tensor) -> None:
        super().__init__(CONFIG)
        self.target = target
        self.seen: list[Tensor] = []

    def modulation(self, tau: Tensor) -> Modulation:
        return Modulation(tau[..., None], tau[..., None])

    def denoise(self, x: Tensor, modulation: Modulation, context: Context) -> Tensor:
        """Straight to the target from wherever x is; dead slots say nonsense."""
        self.seen.append(x)
        velocity = (self.target - x) / (1.0 - modulation.out).clamp(min=1e-6)
        return torch.where(LIVE, velocity, torch.nan)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("config", [CONFIG, GROUPED])
def test_the_loss_is_the_mean_over_what_counts(config: ExpertConfig) -> None:
    """Against the definition, sample by sample, with a time for every row; tokens may be partly of the prefix."""
    expert, given = made(config=config), Given()
    mean, per_sample = given.loss(expert)
    for b in range(BATCH):
        d = int(given.prefix[b])
        tau = torch.full((1, ROWS), float(given.tau[b]))
        tau[:, :d] = 1.0
        x = (1 - tau[..., None]) * given.noise[b] + tau[..., None] * given.actions[b]
        velocity = expert.velocity(
            x * LIVE,
            tau,
            given.proprioception[b : b + 1],
            given.age_s[b : b + 1],
            expert.condition(given.states[b : b + 1]),
        )
        error = (velocity[0] - (given.actions[b] - given.noise[b]))[d:, LIVE]
        torch.testing.assert_close(per_sample[b], error.square().mean())
    torch.testing.assert_close(mean, per_sample.mean())


def test_the_loss_ignores_dead_slots_whatever_is_in_them() -> None:
    expert, given = made(), Given()
    _, before = given.loss(expert)
    given.actions[..., ~LIVE] = torch.nan
    given.noise[..., ~LIVE] = torch.inf
    mean, after = given.loss(expert)
    assert torch.equal(before, after)
    mean.backward()
    assert all(p.grad.isfinite().all() for p in expert.parameters() if p.grad is not None)


def test_the_loss_ignores_the_noise_and_the_error_of_prefix_rows() -> None:
    """Prefix rows are seen clean: another noise under them changes nothing, another action there does."""
    expert, given = made(), Given()
    _, before = given.loss(expert)
    for b in range(BATCH):
        given.noise[b, : given.prefix[b]] = 1e3
    assert torch.equal(given.loss(expert)[1], before)
    given.actions[1, 0] += 1.0
    changed = given.loss(expert)[1] != before
    assert changed.tolist() == [False, True, False]


def test_a_prefix_row_has_no_error_of_its_own() -> None:
    target = Given().actions
    expert, given = Known(target), Given()
    wrong = torch.zeros_like(target)
    for b in range(BATCH):
        wrong[b, : given.prefix[b]] = 5.0
    expert.target = target + wrong  # wrong on the prefix only
    assert given.loss(expert)[1].max() < 1e-8
    expert.target = target + 5.0
    assert given.loss(expert)[1].min() > 1.0


def test_a_sample_that_is_all_prefix_costs_nothing() -> None:
    expert, given = made(), Given()
    given.prefix = torch.tensor([0, ROWS, 2])
    mean, per_sample = given.loss(expert)
    assert per_sample[1] == 0.0
    assert mean.isfinite()


def test_the_loss_under_autocast() -> None:
    expert, given = made(), Given()
    with torch.autocast("cpu", torch.bfloat16):
        mean, per_sample = given.loss(expert)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(per_sample, given.loss(expert)[1], rtol=0.1, atol=0.05)
    mean.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expert.parameters())


def test_times_are_drawn_towards_the_noise_and_from_the_generator() -> None:
    tau = draw_tau(200_000, torch.Generator().manual_seed(0))
    assert tau.min() >= 0.0
    assert tau.max() <= 0.999
    # u of Beta(1.5, 1): mean 0.6, median 0.5^(2/3)
    assert tau.mean().item() == pytest.approx(0.999 * 0.4, abs=2e-3)
    assert tau.median().item() == pytest.approx(0.999 * (1.0 - 0.5 ** (2 / 3)), abs=3e-3)
    assert torch.equal(tau, draw_tau(200_000, torch.Generator().manual_seed(0)))


def test_a_share_of_the_times_is_where_denoising_begins() -> None:
    tau = draw_tau(100_000, torch.Generator().manual_seed(0), at_start=0.5)
    assert (tau == 0.0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert tau[tau > 0.0].mean().item() == pytest.approx(0.999 * 0.4, abs=5e-3), "the others as ever"
    assert not draw_tau(1000, torch.Generator().manual_seed(0), at_start=1.0).any()


def test_rows_that_are_never_executed_count_less() -> None:
    """The last rows of a chunk are off by most, and are replaced before their time comes: they drowned the first."""
    prefix = torch.tensor([0, 3, 7])
    assert row_weights(prefix, ROWS, 2, 0.25).tolist() == [
        [1.0, 1.0, *[0.25] * 6],
        [0.0, 0.0, 0.0, 1.0, 1.0, *[0.25] * 3],
        [*[0.0] * 7, 1.0],
    ]
    assert row_weights(prefix, ROWS, 0, 0.25).sum(1).tolist() == [8.0, 5.0, 1.0], "all alike"

    given = Given()
    given.prefix[:] = torch.tensor([0, 3, 5])
    expert = Known(given.actions.clone())
    expert.target[:, -1] += 5.0  # wrong in the last row, which for no sample here is among the first two
    cache = expert.condition(given.states)
    every = (LIVE, given.noise, given.tau, given.prefix, given.proprioception, given.age_s, cache)
    leverage = torch.ones(BATCH, 1, 2, 3, 16)

    def loss(executed_rows: int, later: float) -> Tensor:
        return flow_loss(expert, given.actions, *every, leverage, 1.0, executed_rows, later)[1]

    assert loss(2, 0.0).max() < 1e-8
    assert (loss(2, 0.1) < 0.5 * loss(0, 1.0)).all()
    expert.target[:, 4] += 5.0  # of the hands too: the fifth row is where their error is taken
    assert (loss(2, 0.0) > 1.0).tolist() == [False, True, False], "only the second executes it"


def test_of_two_places_the_distance_is_least_at_the_likelier_one() -> None:
    """Squares are least between two candies, where there is nothing: the hand closed there, 2 cm beside either."""
    places, share = torch.tensor([[0.0, 0.0], [0.08, 0.0]]), torch.tensor([0.6, 0.4])
    guesses = torch.stack((torch.linspace(0.0, 0.08, 801), torch.zeros(801)), dim=1)
    off = guesses[:, None] - places
    losses = (distance(off, 0.005) * share).sum(1), (off.square().sum(-1) * share).sum(1)
    best_m = [float(guesses[loss.argmin(), 0]) for loss in losses]
    assert best_m[0] < 0.006 < best_m[1] == pytest.approx(0.032)


def test_the_distance_is_smooth_where_nothing_is_off() -> None:
    off = torch.zeros(2, 3, requires_grad=True)
    loss = distance(off, 0.1)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert off.grad is not None
    assert not off.grad.any()
    assert float(distance(torch.tensor([3.0, 4.0, 0.0]), 0.1)) == pytest.approx(4.9, abs=2e-3), "5, less a little"


# ---------------------------------------------------------------- the integration


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_linear_velocity_is_integrated_exactly(steps: int) -> None:
    given = Given()
    constant = integrate(lambda x, step: given.actions - given.noise, given.noise, steps)
    torch.testing.assert_close(constant, given.actions, rtol=0.0, atol=1e-5)
    target = given.actions.clone()
    found = given.sampled(Known(target), steps=steps, prefix=False)
    torch.testing.assert_close(found[..., LIVE], target[..., LIVE], rtol=0.0, atol=1e-5)


def test_dead_slots_are_zero_at_every_step() -> None:
    """Not even a NaN that the expert says of them gets anywhere."""
    expert, given = Known(Given().actions), Given()
    out = given.sampled(expert)
    assert out[..., LIVE].isfinite().all()
    assert all((x[..., ~LIVE] == 0.0).all() for x in [*expert.seen, out])


def test_prefix_rows_are_clean_at_every_step_and_come_out_unchanged() -> None:
    expert, given = Known(torch.zeros(BATCH, ROWS, SLOTS)), Given()
    given.actions[1, 3:] = torch.nan  # only the prefix is read
    out = given.sampled(expert)
    assert len(expert.seen) == 10
    for b in range(BATCH):
        d = int(given.prefix[b])
        for x in [*expert.seen, out]:
            assert torch.equal(x[b, :d, LIVE], given.actions[b, :d, LIVE])
        torch.testing.assert_close(out[b, d:, LIVE], torch.zeros(ROWS - d, int(LIVE.sum())), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, GROUPED])
def test_prefix_rows_are_given_their_own_time(config: ExpertConfig) -> None:
    """Sampling sees what training showed: the first step's velocity is that of per-row times."""
    expert, given = made(config=config).eval(), Given()
    tau = (torch.arange(ROWS) < given.prefix[:, None]).float()
    x = torch.where(tau[..., None] == 1.0, given.actions, given.noise) * LIVE
    velocity = expert.velocity(x, tau, given.proprioception, given.age_s, expert.condition(given.states))
    one_step = torch.where(tau[..., None] == 1.0, x, x + velocity * LIVE)
    torch.testing.assert_close(given.sampled(expert, steps=1), one_step)


def test_the_prefix_is_heeded_by_the_rows_after_it() -> None:
    expert, given = made().eval(), Given()
    before = given.sampled(expert)
    given.actions[1, 0] += 1.0
    after = given.sampled(expert)
    assert (after - before)[1, 3:].abs().max() > 1e-3
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_the_same_noise_gives_the_same_chunk_bit_for_bit() -> None:
    expert = made().eval()
    first, again = Given().sampled(expert), Given().sampled(expert)
    assert torch.equal(first, again)
    other = Given()
    other.noise += 0.1
    assert not torch.equal(other.sampled(expert), first)


def test_a_prefix_of_no_rows_is_no_prefix() -> None:
    expert, given = made().eval(), Given()
    given.prefix = torch.zeros(BATCH, dtype=torch.int64)
    torch.testing.assert_close(given.sampled(expert), given.sampled(expert, prefix=False))


def test_half_a_prefix_is_refused() -> None:
    expert, given = made(), Given()
    cache = expert.condition(given.states)
    with pytest.raises(ValueError, match="prefix_rows"):
        sample(expert, cache, given.proprioception, given.age_s, given.noise, given.actions, None, 10, LIVE)


# ---------------------------------------------------------------- together


def test_two_intents_learn_their_two_actions() -> None:
    """The loss and the sampler agree about the direction of time, the sign of the velocity and the intent's place."""
    torch.manual_seed(0)
    expert = Expert(CONFIG)
    states, actions = torch.randn(2, 20, 6), 0.5 * torch.randn(2, ROWS, SLOTS)
    pick = torch.arange(64) % 2
    zeros = torch.zeros(64, 32), torch.zeros(64)
    optimiser = torch.optim.Adam(expert.parameters(), 6e-3)
    for _ in range(150):
        noise, prefix = torch.randn(64, ROWS, SLOTS), torch.randint(0, 4, (64,))
        cache = expert.condition(states[pick])
        loss, _ = flow_loss(expert, actions[pick], LIVE, noise, draw_tau(64), prefix, *zeros, cache)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noise = torch.randn(2, ROWS, SLOTS)
    found = sample(expert, expert.condition(states), zeros[0][:2], zeros[1][:2], noise, None, None, 10, LIVE)
    off = (found - actions)[..., LIVE].square().mean().sqrt()
    swapped = (found - actions.flip(0))[..., LIVE].square().mean().sqrt()
    assert off < 0.15 < 0.4 < swapped


def test_what_moves_the_hands_counts_more_but_not_in_the_prefix() -> None:
    """Centimetres of reach hardly show in joints: the hand came down 3 cm short of a place that was known to one."""
    expert, given = made(), Given()
    plain = given.loss(expert)[1]
    leverage = torch.zeros(BATCH, 1, 2, 3, 16)
    leverage[:, :, 0, 0, 9] = 0.05  # at the fifth row the left arm's first joint moves its hand by one unit
    cache = expert.condition(given.states)
    senses = (given.proprioception, given.age_s)

    def loss(weight: float) -> Tensor:
        every = (expert, given.actions, LIVE, given.noise, given.tau, given.prefix, *senses, cache)
        return flow_loss(*every, leverage, weight)[1]

    torch.testing.assert_close(loss(0.0), plain)
    more = loss(1.0) - plain
    assert more[0] > 0.0
    assert more[1] > 0.0
    assert more[2] == 0.0, "all of its first five rows are given clean"
    torch.testing.assert_close(loss(2.0) - plain, 2.0 * more)
