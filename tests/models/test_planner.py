"""The planner: its cache, its drafts and its training pass against transformers' own forward and generate."""

import copy
import functools
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from syvla.errors import ConfigError, MessageError
from syvla.message import UInt8
from syvla_models import decoder, language
from syvla_models import planner as planner_module
from syvla_models.images import patches
from syvla_models.planner import SyvlaPlanner
from syvla_models.planner_bench import full_pass_states, generated
from syvla_models.prompt import QUERY_ID, SPECIAL_TOKENS, collate, special_id, training_sequence
from syvla_models.spec import CameraView, PlannerSpec
from syvla_models.tiny import build_tiny, tiny_spec

TEXTS = [
    "Put the red cube and the green can into the white tray.",
    "The red cube is in the white tray. Next the left arm picks up the green can.",
    "The sum makes 5. The box holds 2 of 5 candies. Next the right arm packs the candy 27 cm ahead and 8 cm left.",
] * 5
WIDE = CameraView(camera="cam_high", height=64, width=96)
SMALL = CameraView(camera="cam_left_wrist", height=32, width=64)
TALL = CameraView(camera="cam_right_wrist", height=96, width=32)
INSTRUCTION = "Put the red cube into the white tray."
Final = tuple[str, torch.Tensor]


@functools.cache
def fresh() -> SyvlaPlanner:
    """With tokens of 2 x 2 patches, as Qwen2.5-VL has them."""
    return build_tiny(TEXTS, tiny_spec(views=(WIDE,)), vocabulary=320, merge=2)


def lively(views: tuple[CameraView, ...] = (WIDE,), **changes: object) -> SyvlaPlanner:
    """A planner whose random weights are large enough that what it says depends on what it sees and said.

    It never ends a thought by itself; a test that wants an end moves ``end_id``.
    """
    vlm, tokenizer = copy.deepcopy(fresh().vlm), fresh().tokenizer
    torch.manual_seed(0)
    planner = SyvlaPlanner(vlm, tokenizer, tiny_spec(views=views, **{"max_thought_tokens": 24, **changes}))
    with torch.no_grad():
        for parameter in planner.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    planner.forbidden[planner.end_id] = True
    return planner.eval()


def pictures(planner: SyvlaPlanner, seed: int = 0) -> list[UInt8]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (v.height, v.width, 3), dtype=np.uint8) for v in planner.spec.views]


def last(products: Iterator[Any]) -> Final:
    *_, final = products
    assert isinstance(final, tuple)
    return final


def thought_of(planner: SyvlaPlanner, **options: Any) -> list[int]:
    last(planner.think(pictures(planner), INSTRUCTION, reuse=False, **options))
    return list(planner.last[1])


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Each number to a ten-thousandth; of the smallest, float32's sums leave only so much."""
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("views", [(WIDE,), (WIDE, SMALL), (SMALL, TALL, WIDE)])
@pytest.mark.parametrize("instruction", ["", "Load it.", INSTRUCTION * 8])
@pytest.mark.parametrize("budget", [1, 2, 24])
def test_states_from_the_cache_are_those_of_one_full_pass(
    views: tuple[CameraView, ...], instruction: str, budget: int
) -> None:
    planner = lively(views, max_thought_tokens=budget)
    images = pictures(planner)
    text, states = last(planner.think(images, instruction))
    thought = list(planner.last[1])
    assert len(thought) == budget
    assert states.shape == (20, planner.spec.hidden_size)
    assert close(states, full_pass_states(planner, images, instruction, thought))
    assert text == planner.decode(thought)


@pytest.mark.parametrize("views", [(WIDE,), (SMALL, TALL, WIDE)])
def test_the_thought_is_that_of_transformers_generate(views: tuple[CameraView, ...]) -> None:
    planner = lively(views)
    for seed in range(3):
        images = pictures(planner, seed)
        expected = generated(planner, images, INSTRUCTION)
        last(planner.think(images, INSTRUCTION, reuse=False))
        assert planner.last[1] == expected
        assert len(set(expected)) > 5, "the weights say too little for this test to mean much"


def test_a_thought_ends_where_the_model_ends_it() -> None:
    planner = lively()
    whole = thought_of(planner)
    planner.end_id = whole[9]  # the model now says <|im_end|> there
    cut = whole[: whole.index(planner.end_id)]
    images = pictures(planner)
    for reuse in (False, True, True):
        _, states = last(planner.think(images, INSTRUCTION, reuse=reuse))
        assert planner.last[1] == cut
        assert close(states, full_pass_states(planner, images, INSTRUCTION, cut))


def test_images_and_instruction_both_matter() -> None:
    planner = lively()
    _, states = last(planner.think(pictures(planner, 0), INSTRUCTION))
    _, other_image = last(planner.think(pictures(planner, 1), INSTRUCTION))
    _, other_words = last(planner.think(pictures(planner, 0), "Push the box."))
    assert not close(states, other_image)
    assert not close(states, other_words)


# ---------------------------------------------------------------- drafts


def _replaced(thought: list[int], *places: int) -> list[int]:
    return [(300 if token != 300 else 301) if i in places else token for i, token in enumerate(thought)]


DRAFTS: dict[str, Callable[[list[int]], list[int]]] = {
    "agrees": list,
    "another first token": lambda t: _replaced(t, 0),
    "another token in the middle": lambda t: _replaced(t, 12),
    "another last token": lambda t: _replaced(t, len(t) - 1),
    "three other tokens": lambda t: _replaced(t, 3, 11, 20),
    "tokens put in": lambda t: [*t[:8], 300, 301, 302, *t[8:]],
    "tokens left out": lambda t: [*t[:6], *t[11:]],
    "nothing in common": lambda t: [300] * len(t),
    "too short": lambda t: t[:5],
    "too long": lambda t: [*t, 300, 301, 302],
    "empty": lambda t: [],
}


@pytest.mark.parametrize("statically", [False, True], ids=["", "statically"])
@pytest.mark.parametrize("ends", [False, True], ids=["cut by the budget", "ended by the model"])
@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_changes_nothing_but_the_time(name: str, ends: bool, statically: bool) -> None:
    planner = lively()
    planner.steps_statically = statically
    images = pictures(planner)
    thought = thought_of(planner)
    if ends:
        planner.end_id = next(t for i, t in enumerate(thought) if i >= 12 and t not in thought[:i])
        thought = thought[: thought.index(planner.end_id)]
    planner.last = ("anything", DRAFTS[name](thought))
    text, states = last(planner.think(images, INSTRUCTION))
    assert planner.last == (INSTRUCTION, thought)
    assert text == planner.decode(thought)
    assert close(states, full_pass_states(planner, images, INSTRUCTION, thought))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every pass through the language model."""
    counted: list[int] = []

    def counting(model: Any, cache: Any, embeddings: torch.Tensor, rotations: Any) -> torch.Tensor:
        counted.append(embeddings.shape[1])
        return language.extend(model, cache, embeddings, rotations)

    monkeypatch.setattr(planner_module, "extend", counting)
    return counted


def test_a_draft_that_agrees_takes_one_pass(passes: list[int]) -> None:
    planner = lively()
    thought = thought_of(planner)
    before = planner.prompt(INSTRUCTION).index(planner.vlm.config.image_token_id)
    assert passes[0] == before, "what comes before the first image is read once for an instruction"
    assert len(passes) == 1 + len(thought) + 2
    passes.clear()
    last(planner.think(pictures(planner), INSTRUCTION))
    assert passes == [len(planner.prompt(INSTRUCTION)) - before + len(thought) + 1 + 20]


def test_other_weights_read_the_prompt_anew(passes: list[int]) -> None:
    planner = lively()
    first = thought_of(planner)
    with torch.no_grad():
        planner.vlm.model.language_model.layers[0].mlp.down_proj.weight.mul_(-1.0)
    second = thought_of(planner)
    assert second != first
    _, states = last(planner.think(pictures(planner), INSTRUCTION))
    assert close(states, full_pass_states(planner, pictures(planner), INSTRUCTION, second))


def test_a_draft_with_one_other_token_takes_two_passes(passes: list[int]) -> None:
    """A coordinate that changed must not cost the decoding of everything behind it."""
    planner = lively()
    thought = thought_of(planner)
    planner.last = (INSTRUCTION, _replaced(thought, 12))
    passes.clear()
    last(planner.think(pictures(planner), INSTRUCTION))
    assert len(passes) == 2


def test_a_useless_draft_costs_little(passes: list[int]) -> None:
    planner = lively()
    thought = thought_of(planner)
    planner.last = (INSTRUCTION, [300] * len(thought))
    passes.clear()
    last(planner.think(pictures(planner), INSTRUCTION))
    assert sum(count > 1 for count in passes) <= 2 + 2
    assert len(passes) <= len(thought) + 2


def test_refresh_keeps_the_thought_and_looks_again(passes: list[int]) -> None:
    planner = lively()
    thought = thought_of(planner)
    passes.clear()
    later = pictures(planner, 5)
    refreshed = planner.refresh(later, INSTRUCTION)
    assert refreshed is not None
    assert refreshed[0] == planner.decode(thought)
    assert close(refreshed[1], full_pass_states(planner, later, INSTRUCTION, thought))
    assert len(passes) == 1
    assert planner.refresh(later, "Push the box.") is None


# ---------------------------------------------------------------- other requests, pre-emption, streaming


def test_another_request_in_between_does_not_matter() -> None:
    """``rope_deltas`` is state of transformers' module, so a request in between would shift the positions of this."""
    planner = lively((WIDE, SMALL))
    images = pictures(planner)
    expected = last(planner.think(images, INSTRUCTION, reuse=False))
    thinking = planner.think(images, INSTRUCTION, reuse=False)
    between = planner.think(pictures(planner, 3), INSTRUCTION * 5, reuse=False)
    for _ in range(5):
        next(thinking)
        next(between)
    generated(planner, pictures(planner, 4), "Push.")
    assert planner.vlm.model.rope_deltas is not None
    final = last(thinking)
    assert final[0] == expected[0]
    assert torch.equal(final[1], expected[1])


def test_steps_at_fixed_addresses_say_the_same_for_one_sequence_after_another(
    passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU captures as a graph, run as it is: shapes and addresses do not follow the length of the sequence."""
    planner = lively()
    asked = [(pictures(planner, seed), INSTRUCTION * times) for seed, times in ((0, 1), (1, 9), (2, 1), (3, 4))]
    plain = [last(planner.think(*each, reuse=False)) for each in asked]
    addresses: set[tuple[int, ...]] = set()
    step = decoder.Decoder.step

    def stepping(own: decoder.Decoder, embedding: torch.Tensor) -> int:
        given = (own._given, own._place, own.cache.keys, own.cache.values, own._cos)
        addresses.add(tuple(each.data_ptr() for each in given))
        return step(own, embedding)

    monkeypatch.setattr(decoder.Decoder, "step", stepping)
    planner.steps_statically = True
    passes.clear()
    for expected, each in zip(plain, asked, strict=True):
        thought, states = last(planner.think(*each, reuse=False))
        assert thought == expected[0]
        assert close(states, expected[1])
    assert len(addresses) == 2, "the second instruction needed more room, and none of the others"
    assert not [count for count in passes if count == 1], "no token went another way"


def test_of_two_thoughts_at_a_time_one_has_the_fixed_addresses() -> None:
    planner = lively()
    planner.steps_statically = True
    asked = [(pictures(planner, seed), INSTRUCTION) for seed in (0, 1)]
    expected = [last(planner.think(*each, reuse=False)) for each in asked]
    under_way = [planner.think(*each, reuse=False) for each in asked]
    for _ in range(5):
        for thinking in under_way:
            next(thinking)
    for found, (thought, states) in zip(map(last, under_way), expected, strict=True):
        assert found[0] == thought
        assert close(found[1], states)


def test_nothing_is_left_on_the_model() -> None:
    planner = lively()
    last(planner.think(pictures(planner), INSTRUCTION))
    assert planner.vlm.model.rope_deltas is None


def test_a_thought_that_is_closed_costs_no_more_and_the_last_whole_one_is_kept(passes: list[int]) -> None:
    planner = lively()
    thought_of(planner)
    before = planner.last
    passes.clear()
    thinking = planner.think(pictures(planner, 9), INSTRUCTION, reuse=False)
    out = [next(thinking) for _ in range(5)]
    assert isinstance(thinking, Generator)
    thinking.close()
    assert all(isinstance(product, str) for product in out)
    assert len(passes) == 5
    assert planner.last == before


def test_the_text_grows_and_ends_as_the_final_one() -> None:
    planner = lively()
    *products, final = planner.think(pictures(planner), INSTRUCTION, reuse=False)
    texts = [str(product) for product in products]
    assert len(texts) == planner.spec.max_thought_tokens
    assert texts[-1] == final[0]
    for earlier, later in itertools.pairwise(texts):
        assert later.startswith(earlier)


def test_no_special_token_is_ever_thought() -> None:
    planner = fresh()
    special = [special_id(planner.tokenizer, token) for token in SPECIAL_TOKENS]
    allowed = (~planner.forbidden).nonzero()[:, 0].tolist()
    assert [token for token in special if token in allowed] == [planner.end_id]


def test_states_can_be_used_in_training() -> None:
    """A tensor made in inference mode cannot be saved for a backward pass."""
    planner = lively()
    _, states = last(planner.think(pictures(planner), INSTRUCTION))
    weight = torch.ones(planner.spec.hidden_size, requires_grad=True)
    torch.autograd.backward((states * weight).sum())
    assert weight.grad is not None


# ---------------------------------------------------------------- training


def training_batch(planner: SyvlaPlanner, thoughts: list[str]) -> tuple[Any, torch.Tensor, torch.Tensor]:
    sequences = [
        training_sequence(planner.prompt(INSTRUCTION), planner.encode(text), planner.end_id, 20) for text in thoughts
    ]
    images = [image for seed in range(len(thoughts)) for image in pictures(planner, seed)]
    return collate(sequences, planner.pad_id), *patches(images, 16, 2)


def test_the_training_pass_sees_what_the_runtime_sees() -> None:
    planner = lively((WIDE, SMALL))
    thoughts = ["The sum makes 5.", "", "The red cube is in the white tray."]
    batch, pixel_values, grids = training_batch(planner, thoughts)
    with torch.no_grad():
        _, states, *_ = planner(batch.ids, batch.attention_mask, pixel_values, grids, batch.labels, batch.query_start)
    for row, text in enumerate(thoughts):
        expected = full_pass_states(planner, pictures(planner, row), INSTRUCTION, planner.encode(text))
        assert close(states[row], expected)


def test_the_text_loss_is_that_of_transformers() -> None:
    planner = lively()
    batch, pixel_values, grids = training_batch(
        planner, ["The sum makes 5.", "Next the left arm packs the candy 27 cm ahead and 8 cm left."]
    )
    loss, states, *_ = planner(batch.ids, batch.attention_mask, pixel_values, grids, batch.labels)
    assert states is None
    ids = batch.ids.clamp(min=0)  # the feature queries come after every label, so what stands there does not matter
    expected = planner.vlm(
        input_ids=ids,
        attention_mask=batch.attention_mask,
        pixel_values=pixel_values,
        image_grid_thw=grids,
        mm_token_type_ids=(ids == planner.vlm.config.image_token_id).int(),
        labels=batch.labels,
    ).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_gradients_reach_the_queries_and_the_eyes() -> None:
    planner = lively()
    batch, pixel_values, grids = training_batch(planner, ["The sum makes 5.", "Next."])
    loss, states, *_ = planner(batch.ids, batch.attention_mask, pixel_values, grids, batch.labels, batch.query_start)
    torch.autograd.backward(loss + states.square().mean())
    for name in ("queries", "vlm.model.visual.patch_embed.proj.weight", "vlm.lm_head.weight"):
        gradient = planner.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name


def test_a_row_of_text_only_may_stand_beside_one_with_images_and_queries() -> None:
    planner = lively()
    robot = training_sequence(planner.prompt(INSTRUCTION), planner.encode("Next."), planner.end_id, 20)
    question = training_sequence(planner.encode("How many candies?"), planner.encode("5"), planner.end_id, 0)
    batch = collate([question, robot], planner.pad_id)
    pixel_values, grids = patches(pictures(planner), 16, 2)
    with torch.no_grad():
        loss, states, *_ = planner(
            batch.ids, batch.attention_mask, pixel_values, grids, batch.labels, batch.query_start
        )
        alone = collate([question], planner.pad_id)
        planner(alone.ids, alone.attention_mask, None, None, alone.labels)
    assert torch.isfinite(loss)
    assert batch.query_start.tolist()[0] == -1
    assert not states[0].any()
    expected = full_pass_states(planner, pictures(planner), INSTRUCTION, planner.encode("Next."))
    assert close(states[1], expected)


def test_without_labels_the_loss_is_zero_and_harmless() -> None:
    planner = lively()
    batch, pixel_values, grids = training_batch(planner, ["Next."])
    loss, *_ = planner(batch.ids, batch.attention_mask, pixel_values, grids, torch.full_like(batch.labels, -100))
    assert loss.item() == 0.0


def test_bfloat16_autocast_stays_near_float32() -> None:
    planner = fresh()  # weights as they are when training begins
    batch, pixel_values, grids = training_batch(planner, ["The sum makes 5.", "Next the left arm."])
    arguments = (batch.ids, batch.attention_mask, pixel_values, grids, batch.labels, batch.query_start)
    with torch.no_grad():
        loss, states, *_ = planner(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            rough_loss, rough_states, *_ = planner(*arguments)
    assert rough_loss.dtype == rough_states.dtype == torch.float32
    assert rough_loss.item() == pytest.approx(loss.item(), rel=0.01)
    assert (rough_states - states).norm() < 0.03 * states.norm()


def test_query_ids_are_in_no_vocabulary() -> None:
    assert QUERY_ID not in lively().tokenizer.get_vocab().values()


# ---------------------------------------------------------------- refusals


def test_images_of_another_size_or_number_are_refused() -> None:
    planner = lively((WIDE, SMALL))
    images = pictures(planner)
    with pytest.raises(MessageError, match="cam_high 64x96, cam_left_wrist 32x64"):
        last(planner.think(images[::-1], INSTRUCTION))
    with pytest.raises(MessageError, match="cam_left_wrist"):
        last(planner.think(images[:1], INSTRUCTION))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 256}, "planner.hidden_size is 256"),
        ({"views": ()}, "planner.views"),
        ({"views": (msgspec.structs.replace(WIDE, height=72),)}, "cam_high.height must be a multiple of 32, not 72"),
        ({"views": (msgspec.structs.replace(WIDE, width=80),)}, "cam_high.width must be a multiple of 32, not 80"),
    ],
)
def test_a_spec_that_does_not_fit_the_model_is_refused(changes: dict[str, Any], named: str) -> None:
    planner = lively()
    spec: PlannerSpec = msgspec.structs.replace(planner.spec, **changes)
    with pytest.raises(ConfigError, match=named):
        SyvlaPlanner(planner.vlm, planner.tokenizer, spec)
