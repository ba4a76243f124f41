"""The action expert: what is cached is what would be calculated, fresh weights do nothing, the sizes are right."""

import math
import statistics
import time

import msgspec
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from syvla.errors import ConfigError
from syvla_models.expert import Aim, Expert, Layer, Standard, base_config, tiny_config
from syvla_models.flow import sample
from syvla_models.spec import ExpertConfig

SMALL = ExpertConfig(width=24, depth=3, heads=4, mlp_ratio=2.0, intent_width=10, horizon=7, slots=32)
GROUPED = msgspec.structs.replace(SMALL, horizon=6, rows_per_token=3)
AIMED = msgspec.structs.replace(SMALL, aimed=True)


def made(config: ExpertConfig = SMALL, seed: int = 0) -> Expert:
    """An expert whose gates are open: every weight is random."""
    torch.manual_seed(seed)
    expert = Expert(config)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.normal_(0.0, 0.2)
        if expert.aim is not None:
            expert.aim.turn.normal_()
            expert.aim.shift.normal_()
    return expert.eval()


def inputs(config: ExpertConfig = SMALL, batch: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(batch, config.horizon, config.slots, generator=generator).to(dtype),
        "tau": torch.rand(batch, config.horizon, generator=generator),
        "proprioception": torch.randn(batch, 32, generator=generator).to(dtype),
        "age_s": torch.rand(batch, generator=generator).to(dtype),
        "query_states": torch.randn(batch, 20, config.intent_width, generator=generator).to(dtype),
    }


def plainly(expert: Expert, given: dict[str, Tensor]) -> Tensor:
    """The velocity by the formulas: nothing cached, fused or shared, every layer makes its own keys and values."""
    config, x = expert.config, given["x"]
    angles = 2.0 * math.pi * given["tau"][..., None].float() / torch.logspace(math.log10(4e-3), math.log10(4.0), 64)
    time_features = torch.cat((angles.sin(), angles.cos()), -1).to(x.dtype)
    modulation = expert.time_out(expert.time(time_features))
    grouped = config.rows_per_token
    modulation = sum(modulation[:, row::grouped] for row in range(grouped)) / grouped
    senses = [given["proprioception"], given["age_s"][:, None]]
    if expert.aim is not None:
        numbers = expert.aim.read(given["query_states"]).mean(1)
        senses.append(numbers)
        off = []
        for arm in (0, 1):
            acts, place = numbers[:, 4 * arm : 4 * arm + 1], numbers[:, 4 * arm + 1 : 4 * arm + 4]
            hand = given["proprioception"][:, 16 * arm : 16 * arm + 3]
            off.append(acts.clamp(0.0, 1.0) * (place @ expert.aim.turn[arm].T + expert.aim.shift[arm] - hand))
        senses += [*off, *(torch.tanh(o / 0.3) for o in off)]
    state = expert.state(torch.cat(senses, -1))
    tokens = expert.context_norm(torch.cat((expert.adapter(given["query_states"]), state[:, None]), 1))
    weight, bias = expert.context_key_value.weight, expert.context_key_value.bias
    width = config.width

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = []
        for head in range(config.heads):
            part = slice(head * width // config.heads, (head + 1) * width // config.heads)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width // config.heads)
            heads.append(scores.softmax(-1) @ v[..., part])
        return torch.cat(heads, -1)

    def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        deviation = (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * (1 + scale) + shift

    x = torch.cat([x[:, row::grouped] for row in range(grouped)], -1)
    x = expert.action_in(x) + expert.position
    for index, layer in enumerate(expert.layers):
        assert isinstance(layer, Layer)
        parts = (modulation[..., : 9 * width] + layer.table).split(width, -1)
        q, k, v = layer.qkv(modulated(x, parts[0], parts[1])).split(width, -1)
        x = x + parts[2] * layer.self_out(attention(q, k, v))
        key_rows = slice(index * width, (index + 1) * width)
        value_rows = slice((config.depth + index) * width, (config.depth + index + 1) * width)
        k, v = (F.linear(tokens, weight[rows], bias[rows]) for rows in (key_rows, value_rows))
        x = x + parts[5] * layer.cross_out(attention(layer.query(modulated(x, parts[3], parts[4])), k, v))
        x = x + parts[8] * layer.down(F.gelu(layer.up(modulated(x, parts[6], parts[7]))))
    out = expert.action_out(modulated(x, *modulation[..., 9 * width :].split(width, -1)))
    rows = [row for token in out.unbind(1) for row in token.split(config.slots, -1)]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("config", [SMALL, GROUPED, AIMED])
def test_the_cached_calculation_is_the_plain_one(config: ExpertConfig) -> None:
    expert = made(config).double()
    given = inputs(config, dtype=torch.float64)
    expected = plainly(expert, given)
    cache = expert.condition(given.pop("query_states"))
    found = expert.velocity(cache=cache, **given)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", [SMALL, AIMED])
def test_a_cache_serves_any_number_of_chunks_of_its_intents(config: ExpertConfig) -> None:
    expert, given = made(config), inputs(batch=6)
    states = given.pop("query_states")[:2]
    repeated = expert.velocity(cache=expert.condition(states).repeat(3), **given)
    recomputed = expert.velocity(cache=expert.condition(states[[0, 0, 0, 1, 1, 1]]), **given)
    torch.testing.assert_close(repeated, recomputed)
    swapped = expert.velocity(cache=expert.condition(states.flip(0)).repeat(3), **given)
    assert (swapped - repeated).abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("changed", ["query_states", "proprioception", "age_s", "tau", "x"])
def test_every_input_counts_and_only_for_its_own_sample(changed: str) -> None:
    expert, given = made(), inputs()
    before = expert.velocity(cache=expert.condition(given["query_states"]), **_rest(given))
    given[changed] = given[changed].clone()
    given[changed][1] += 0.5
    after = expert.velocity(cache=expert.condition(given["query_states"]), **_rest(given))
    difference = (after - before).abs().amax(dim=(1, 2))
    assert difference[1] > 1e-3
    assert difference[[0, 2]].max() < 1e-6


def test_rows_have_a_place_and_a_time_of_their_own() -> None:
    expert, given = made(), inputs()
    given["x"] = torch.ones_like(given["x"])
    given["tau"] = torch.full_like(given["tau"], 0.5)
    cache = expert.condition(given["query_states"])
    same = expert.velocity(cache=cache, **_rest(given))
    assert (same[:, 1:] - same[:, :-1]).abs().amax(dim=-1).min() > 1e-3, "two rows are told apart by their place alone"
    given["tau"][:, 2] = 1.0
    other = expert.velocity(cache=cache, **_rest(given))
    assert (other - same)[:, 2].abs().max() > 1e-3
    broadcast = expert.denoise(
        given["x"],
        expert.modulation(torch.full((1, 1), 0.5)),
        expert.context(cache, given["proprioception"], given["age_s"]),
    )
    torch.testing.assert_close(broadcast, same)


def test_a_masked_query_state_is_a_constant_that_the_others_outlive() -> None:
    expert, given = made(), inputs()
    states = given["query_states"]
    masked = states.clone()
    masked[:, [3, 8]] = 0.0
    cache = expert.condition(masked)
    torch.testing.assert_close(cache.key[..., 3, :], cache.key[..., 8, :])
    torch.testing.assert_close(cache.key[:, 0, :, 3], cache.key[:, 2, :, 3])
    kept = [i for i in range(20) if i not in (3, 8)]
    torch.testing.assert_close(cache.value[..., kept, :], expert.condition(states).value[..., kept, :])
    assert expert.velocity(cache=expert.condition(torch.zeros_like(states)), **_rest(given)).isfinite().all()


def test_an_aim_is_the_same_whichever_states_are_masked_and_in_bfloat16_too() -> None:
    """One masked state of twenty would move a place that is averaged over all by a twentieth: by centimetres."""
    torch.manual_seed(0)
    aim = made(AIMED).aim
    assert aim is not None
    states = torch.randn(3, 1, 10).expand(3, 20, 10).clone()  # each says the same
    expected = aim.numbers(states)
    states[0, 4], states[1, 7:] = 0.0, 0.0
    torch.testing.assert_close(aim.numbers(states), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(aim.numbers(states), expected)
    assert aim.numbers(states.bfloat16()).dtype == torch.float32
    assert aim.numbers(torch.zeros_like(states)).isfinite().all()


def test_an_aim_tells_a_hand_that_acts_how_far_it_is_from_its_place() -> None:
    aim, hands = Aim(10), torch.zeros(1, 32)
    numbers = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 5.0, 6.0, 7.0]])  # only the left one acts
    hands[0, :3], hands[0, 16:19] = torch.tensor((2.0, 3.1, 4.0)), torch.tensor((9.0, 9.0, 9.0))
    found = aim(numbers, hands)
    torch.testing.assert_close(found[:, :8], numbers)
    torch.testing.assert_close(found[0, 8:14], torch.tensor((0.0, -0.1, 0.0, 0.0, 0.0, 0.0)))
    assert found[0, 15] < -0.3, "the last centimetre is not a small number"


def test_an_aim_in_the_hand_tells_how_far_the_place_is_along_the_hands_own_axes() -> None:
    """It is what an end-effector action comes to there: the same numbers wherever the hand is and however it turned."""
    aim, hands = Aim(10, in_hand=True), torch.zeros(2, 32)
    offset, scale = torch.randn(2, 9), 0.5 + torch.rand(2, 9)
    aim.pose.copy_(torch.stack((offset, scale)))
    numbers = torch.zeros(2, 8)
    numbers[:, (0, 4)] = 1.0
    for row, turn in enumerate(torch.linalg.qr(torch.randn(2, 3, 3)).Q):
        turn[:, 2] = torch.linalg.cross(turn[:, 0], turn[:, 1])  # right-handed
        for arm in (0, 1):
            hand_m, ahead_m = torch.randn(3), torch.tensor((0.01, -0.02, 0.15))
            measured = torch.cat((hand_m, turn[:, 0], turn[:, 1]))
            hands[row, 16 * arm : 16 * arm + 9] = (measured - offset[arm]) / scale[arm]
            numbers[row, 4 * arm + 1 : 4 * arm + 4] = (hand_m + turn @ ahead_m - offset[arm, :3]) / scale[arm, :3]
    found = aim(numbers, hands)[:, 8:14]
    torch.testing.assert_close(found, torch.tensor((0.1, -0.2, 1.5)).repeat(2, 2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(aim(numbers, hands)[:, 14:], torch.tanh(found / 0.3))


def test_query_states_are_told_apart_by_what_changes_in_them() -> None:
    """Nearly all of a final hidden state is the same whatever was seen; an expert took ten times as long to see it."""
    standard = Standard(20, 6)
    torch.manual_seed(0)
    constant, spread = torch.randn(20, 6), 0.02 * (1.0 + torch.rand(6))

    def drawn(count: int) -> torch.Tensor:
        return constant + spread * torch.randn(count, 20, 6)

    before = drawn(4)
    torch.testing.assert_close(standard(before), before)  # nothing is known yet
    for _ in range(200):
        standard.observe(drawn(16))
    found = standard(drawn(500))
    assert found.mean(0).abs().max() < 0.4
    assert 0.7 < found.std(0).min() < found.std(0).max() < 1.4
    masked = drawn(1)
    masked[:, 3] = 0.0
    assert not standard(masked)[:, 3].any(), "a masked state does not become an extreme one"


def test_a_fresh_adapter_can_begin_with_what_a_head_reads() -> None:
    """An expert aimed 3.5 cm short, always towards the middle, while a linear head read the place to the centimetre.

    The place was a small part of what changed in the states. Here it is less than a thousandth of their variance.
    """
    torch.manual_seed(0)
    width, place = 64, torch.randn(500, 1, 2)
    weight, expert = torch.randn(2, width), Expert(tiny_config(width))
    other = torch.randn(500, 20, 5) @ torch.randn(5, width)
    states = other + 0.01 * place @ torch.linalg.pinv(weight).T * 5.0 + torch.randn(20, width)
    weight = weight - (weight @ torch.linalg.pinv(other.flatten(0, 1)) @ other.flatten(0, 1))  # blind to the rest
    expert.standard.observe(states)
    fresh = _readable(expert, states, place)
    expert.read_at_first(weight, states, torch.Generator().manual_seed(1))
    assert fresh < 0.3
    assert _readable(expert, states, place) > 0.95


def _readable(expert: Expert, states: Tensor, place: Tensor) -> float:
    """How much of the variance of ``place`` (B, 1, 2) the eight directions in which the adapter varies most explain."""
    with torch.no_grad():
        said = expert.adapter(expert.standard(states))[:, 0]
    said = said - said.mean(0)
    most = torch.linalg.svd(said, full_matrices=False).U[:, :8]
    wanted = place[:, 0] - place[:, 0].mean(0)
    left = wanted - most @ (most.T @ wanted)
    return float(1.0 - left.square().sum() / wanted.square().sum())


def test_a_fresh_expert_predicts_zero_and_learns_all_the_same() -> None:
    torch.manual_seed(0)
    expert, given = Expert(SMALL), inputs()

    def velocity() -> Tensor:
        return expert.velocity(cache=expert.condition(given["query_states"]), **_rest(given))

    assert torch.equal(velocity(), torch.zeros_like(given["x"]))
    optimiser = torch.optim.Adam(expert.parameters(), 1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        (velocity() - 1.0).square().mean().backward()
        optimiser.step()
    still = [name for name, p in expert.named_parameters() if p.grad is None or not p.grad.abs().max() > 0.0]
    assert not still, "closed gates open within three steps, and then every weight has a gradient"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    """The time's features stay float32: in bfloat16 the fast sines are noise, and were when they were a buffer."""
    expert = made()
    exact = expert.velocity(cache=expert.condition(inputs()["query_states"]), **_rest(inputs()))
    expert, given = expert.to(dtype), inputs(dtype=dtype)
    found = expert.velocity(cache=expert.condition(given["query_states"]), **_rest(given))
    assert found.dtype == dtype
    assert (found.float() - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_sizes() -> None:
    with torch.device("meta"):
        tiny, base = Expert(tiny_config(192)), Expert(base_config(2048))
    assert 1e6 < _parameters(tiny) < 2e6
    assert 270e6 < _parameters(base) < 330e6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"heads": 5}, "heads"),
        ({"intent_width": 0}, "intent_width"),
        ({"depth": 0}, "depth"),
        ({"mlp_ratio": 0.0}, "mlp"),
        ({"rows_per_token": 0}, "rows_per_token"),
        ({"rows_per_token": 3}, "rows_per_token"),
        ({"aimed_in_hand": True}, "aimed"),
    ],
)
def test_a_size_that_cannot_be_is_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Expert(msgspec.structs.replace(SMALL, **changes))


def test_the_tiny_expert_is_fast_enough_on_one_thread() -> None:
    """40 ms on an idle core; the bound here is what a core gives that it shares with other work."""
    config = tiny_config(192)
    expert, given = made(config), inputs(config, batch=1)
    live = torch.ones(32, dtype=torch.bool)
    taken = []
    with torch.inference_mode():
        cache = expert.condition(given["query_states"])
        for _ in range(12):
            start = time.thread_time()
            sample(expert, cache, given["proprioception"], given["age_s"], given["x"], None, None, 10, live)
            taken.append(time.thread_time() - start)
    assert statistics.median(taken) < 0.08


def _rest(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in given.items() if name != "query_states"}


def _parameters(expert: Expert) -> int:
    return sum(p.numel() for p in expert.parameters())
