"""Collation: what is learned, what is padding, which rows act, and that nothing is mixed up between rows."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from syvla.errors import ConfigError
from syvla.message import Float32, Float64, UInt8
from syvla_models import prompt
from syvla_models.images import patches
from syvla_models.spec import CameraView, PlannerSpec
from syvla_models.tiny import train_tokenizer
from syvla_models.train.augment import SHIFT_PX, augment
from syvla_models.train.batch import Batches, Collator
from syvla_models.train.grounding import of_point
from syvla_models.train.mixture import Mixture
from syvla_models.train.samples import Actions, Sample, Seen

VIEW = CameraView(camera="cam_high", height=32, width=64)
QUERIES, K, H = 5, 3, 50


class Words:
    """The words of a planner, without its weights."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, hands_told: bool = False) -> None:
        self.tokenizer = tokenizer
        self.end_id = prompt.special_id(tokenizer, "<|im_end|>")
        self.pad_id = prompt.special_id(tokenizer, "<|endoftext|>")
        self.spec = PlannerSpec(views=(VIEW,), hidden_size=8, instruction_first=True, hands_told=hands_told)

    def prompt(self, instruction: str, *, images: bool = True) -> list[int]:
        return prompt.prompt_ids(self.tokenizer, self.spec, instruction, [2] if images else [])

    def encode(self, text: str) -> list[int]:
        return prompt.encode(self.tokenizer, text)


class Offsets:
    """An action space: set-points less the measured ones, in the first slots."""

    def encode(self, rows: Float64, anchor: Float64) -> Float32:
        x = np.zeros((*rows.shape[:-1], 32), np.float32)
        x[..., :14] = rows - anchor[..., None, :]
        return x

    def state(self, proprioception: Float64) -> Float32:
        return np.concatenate((proprioception, np.zeros((*proprioception.shape[:-1], 18))), -1).astype(np.float32)

    def leverage(self, rows: Float64, stride: int) -> Float32:
        return np.zeros((*rows.shape[:-2], rows.shape[-2] // stride, 2, 3, 16), np.float32)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(train_tokenizer(["Put the can into the tray. The left arm picks up the can. What is red? The can."]))


def collator(words: Words, encoder: Offsets | None = None) -> Collator:
    return Collator(words, encoder or Offsets(), feature_queries=QUERIES, patch=16, merge=2)


def image(value: int) -> UInt8:
    return np.full((VIEW.height, VIEW.width, 3), value, np.uint8)


def robot(value: int, thought: str | None = "The left arm picks up the can.") -> Sample:
    rng = np.random.default_rng(value)
    actions = Actions(rng.random((K, 14)), rng.random(K), rng.random((K, H, 14)), rng.integers(9, size=K))
    return Sample("demos", (image(value),), "Put the can into the tray.", thought, actions=actions)


def question(value: int, point: bool = False) -> Sample:
    sample = Sample("vqa", (image(value),), question="What is red?", answer="The can.")
    return (
        sample._replace(grounding=of_point(0.3, 0.1).values, grounding_known=of_point(0.3, 0.1).known)
        if point
        else sample
    )


def test_a_row_is_prompt_thought_end_queries_and_only_thought_and_end_are_learned(words: Words) -> None:
    batch = collator(words).collate([robot(1), question(2), question(3, point=True), robot(4, None), robot(5, "")])
    end, pad = words.end_id, words.pad_id
    asked = [words.prompt("Put the can into the tray.")] + [words.prompt("What is red?")] * 2
    asked += [asked[0]] * 2
    said = [words.encode(text) for text in ("The left arm picks up the can.", "The can.", "The can.", "", "")]
    queries = [QUERIES, 0, QUERIES, QUERIES, QUERIES]
    for row, (first, text, count) in enumerate(zip(asked, said, queries, strict=True)):
        whole = [*first, *text, end, *[prompt.QUERY_ID] * count]
        length = len(whole)
        assert batch.ids[row].tolist() == whole + [pad] * (batch.ids.shape[1] - length)
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.ids.shape[1] - length)
        assert batch.query_start[row] == (len(first) + len(text) + 1 if count else -1)
        learned = [*text, end] if row != 3 else []
        ignored = [prompt.IGNORE] * len(first)
        labels = ignored + (learned or [prompt.IGNORE] * (len(text) + 1))
        assert batch.labels[row].tolist() == labels + [prompt.IGNORE] * (batch.ids.shape[1] - len(labels))
    assert batch.sources == ("demos", "vqa", "vqa", "demos", "demos")


def test_images_follow_the_order_of_the_rows(words: Words) -> None:
    samples = [robot(10), question(20), robot(30)]
    batch = collator(words).collate(samples)
    each = [patches(sample.images, 16, 2) for sample in samples]
    torch.testing.assert_close(batch.pixel_values, torch.cat([values for values, _ in each]))
    assert batch.image_grid_thw.tolist() == [[1, 2, 4]] * 3


def test_robot_rows_carry_their_own_actions(words: Words) -> None:
    samples = [question(1), robot(2), question(3), robot(4)]
    batch = collator(words).collate(samples)
    assert batch.robot is not None
    assert batch.robot.rows.tolist() == [1, 3]
    for row, sample in enumerate((samples[1], samples[3])):
        actions = sample.actions
        assert actions is not None
        expected = actions.rows - actions.proprioception[:, None]
        np.testing.assert_allclose(batch.robot.actions[row, ..., :14], expected, atol=1e-6)
        np.testing.assert_allclose(batch.robot.state[row, :, :14], actions.proprioception, atol=1e-6)
        np.testing.assert_allclose(batch.robot.age_s[row], actions.age_s, atol=1e-6)
        assert batch.robot.prefix[row].tolist() == actions.prefix.tolist()
    assert batch.robot.actions.shape == (2, K, H, 32)
    assert {t.dtype for t in (batch.robot.actions, batch.robot.state, batch.robot.age_s)} == {torch.float32}


def test_a_batch_without_robot_rows_and_a_stage_without_actions(words: Words) -> None:
    assert collator(words).collate([question(1)]).robot is None
    seeing = Collator(words, None, feature_queries=QUERIES, patch=16, merge=2)
    assert seeing.collate([robot(1)]).robot is None


def test_how_far_the_hands_are_open_is_told_where_the_planner_is_told_and_where_it_is_known(words: Words) -> None:
    widths_m = (0.0352, 0.0699)
    samples = [robot(1)._replace(widths_m=widths_m), question(2)._replace(widths_m=widths_m), question(3)]
    silent, telling = collator(words), collator(Words(words.tokenizer, hands_told=True))
    for sample, text in zip(samples, (samples[0].instruction, samples[1].question, samples[2].question), strict=True):
        assert text
        known = sample.widths_m is not None
        for made, told in ((silent, text), (telling, f"{text} Hands: left narrow, right open." if known else text)):
            begins = words.prompt(told)
            assert made.sequence(sample).ids[: len(begins)] == begins


def test_words_look_at_the_same_things_behind_a_longer_prompt(words: Words) -> None:
    box = Seen("box", 0, 0.1, 0.1, 0.2, 0.0, said_at=(len("on"),))
    sample = question(2, point=True)._replace(seen=(box,), answer="on the left")
    telling = Words(words.tokenizer, hands_told=True)
    plain = Collator(telling, None, feature_queries=QUERIES, patch=16, merge=2, names=("box",))
    behind = plain.collate([sample._replace(widths_m=(0.0, 0.05))])
    before = plain.collate([sample])
    assert behind.gaze is not None
    assert before.gaze is not None
    for one, other in zip(behind.gaze.position.tolist(), before.gaze.position.tolist(), strict=True):
        assert behind.ids[0, one] == before.ids[0, other]
        assert one > other


def test_grounding_is_kept_by_row(words: Words) -> None:
    batch = collator(words).collate([question(1), question(2, point=True)])
    assert batch.grounding_known.tolist() == [[False] * 8, [False, True, True] + [False] * 5]
    np.testing.assert_allclose(batch.grounding[1, 1:3], [0.3, 0.1], rtol=1e-6)


def test_a_thing_is_at_the_image_token_that_shows_its_middle(words: Words) -> None:
    """A view of 32x64 pixels in blocks of 32 has two tokens; those of the batch are counted through all rows."""
    made = Collator(words, None, feature_queries=QUERIES, patch=16, merge=2, names=("box", "can"))
    seen = (Seen("can", 0, 0.9, 0.1, 0.3, -0.1), Seen("box", 0, 0.49, 0.99, 0.2, 0.0))
    batch = made.collate([question(1), question(2)._replace(seen=seen)])
    assert batch.things is not None
    assert batch.things.token.tolist() == [3, 2]
    assert batch.things.name.tolist() == [1, 0]
    np.testing.assert_allclose(batch.things.point_m, [[0.3, -0.1], [0.2, 0.0]], rtol=1e-6)
    assert batch.things.labelled.tolist() == [False, False, True, True]
    image_token = prompt.special_id(words.tokenizer, "<|image_pad|>")
    assert int((batch.ids == image_token).sum()) == len(batch.things.labelled)
    assert made.collate([question(1)]).things is None


def test_words_look_at_the_thing_they_name_and_feature_queries_at_the_last_word(words: Words) -> None:
    """Every query of a row that is about a thing's place; at the thing itself where no word names it."""
    made = Collator(words, None, feature_queries=QUERIES, patch=16, merge=2, names=("box", "can"))
    box = Seen("box", 0, 0.1, 0.1, 0.2, 0.0, said_at=(len("on"), len("on the")))
    can = Seen("can", 0, 0.9, 0.1, 0.3, 0.1, sought=True, said_at=(len("on the left"),))
    sample = question(2, point=True)._replace(seen=(box, can), answer="on the left")
    batch = made.collate([question(1), sample])
    gaze = batch.gaze
    assert gaze is not None
    assert set(gaze.row.tolist()) == {1}
    for place, text in zip(gaze.position[gaze.image].tolist(), ("on", "on the", "on the left"), strict=True):
        assert words.tokenizer.decode(batch.ids[1, : place + 1]).endswith(text)
    assert gaze.target[gaze.image].tolist() == [2, 2, 3], "after the two tokens of the first row"
    start = int(batch.query_start[1])
    assert gaze.position[~gaze.image].tolist() == list(range(start, start + QUERIES))
    assert set(gaze.target[~gaze.image].tolist()) == {int(gaze.position[gaze.image][-1])}, "the word that names the can"
    assert float(gaze.weight[~gaze.image].sum()) == pytest.approx(1.0)
    silent = made.collate([sample._replace(question=None, answer=None, chain_of_thought=None, instruction="where?")])
    assert silent.gaze is not None
    assert silent.gaze.image.tolist() == [True] * QUERIES, "nothing is said"
    assert silent.gaze.target.tolist() == [1] * QUERIES
    assert made.collate([question(1)]).gaze is None


def test_moving_a_batch_keeps_everything(words: Words) -> None:
    batch = collator(words).collate([robot(1), question(2)]).to("cpu")
    assert batch.robot is not None
    assert batch.sources == ("demos", "vqa")
    there = collator(words).collate([robot(1)]).to("meta")
    assert there.robot is not None
    assert {t.device.type for t in (there.ids, there.pixel_values, there.grounding_known, *there.robot)} == {"meta"}


def test_a_question_needs_an_answer(words: Words) -> None:
    with pytest.raises(ConfigError, match="What is red"):
        collator(words).collate([question(1)._replace(answer=None)])


class Robots:
    """A source of robot samples, every one different."""

    name = "demos"

    def draw(self, rng: np.random.Generator, validation: bool) -> Sample:
        return robot(int(rng.integers(200)))

    def texts(self) -> Iterator[str]:
        return iter(())


def batches(words: Words, rows: int = 4, first_slot: int = 0, augmented: bool = False) -> Batches:
    return Batches(Mixture([Robots()], [1.0], 7), collator(words), rows, first_slot=first_slot, augmented=augmented)


def test_a_step_is_the_same_from_any_run_and_any_share_of_processes(words: Words) -> None:
    whole = batches(words, 8)(5)
    parts = [batches(words, 4, first)(5) for first in (0, 4)]
    torch.testing.assert_close(whole.pixel_values, torch.cat([part.pixel_values for part in parts]))
    assert whole.robot is not None
    expected = torch.cat([part.robot.actions for part in parts if part.robot is not None])
    torch.testing.assert_close(whole.robot.actions, expected)
    assert not torch.equal(whole.pixel_values, batches(words, 8)(6).pixel_values)


def test_validation_goes_on_where_it_was(words: Words) -> None:
    made = batches(words)
    whole = made.validation("demos", 0, 6)
    parts = [made.validation("demos", 0, 2), made.validation("demos", 2, 4)]
    torch.testing.assert_close(whole.pixel_values, torch.cat([part.pixel_values for part in parts]))


def test_augmentation_is_off_unless_asked_for_and_repeatable(words: Words) -> None:
    plain, changed = batches(words)(3), batches(words, augmented=True)(3)
    assert not torch.equal(plain.pixel_values, changed.pixel_values)
    torch.testing.assert_close(changed.pixel_values, batches(words, augmented=True)(3).pixel_values)
    torch.testing.assert_close(plain.ids, changed.ids)
    made = batches(words, augmented=True).validation("demos", 0, 4)
    torch.testing.assert_close(made.pixel_values, batches(words).validation("demos", 0, 4).pixel_values)


def test_augmentation_moves_by_two_pixels_at_most_and_keeps_what_is_bright_bright() -> None:
    dot = np.full((32, 32, 3), 60, np.uint8)
    dot[15, 20] = 200
    moves = set()
    for seed in range(60):
        changed = augment(dot, np.random.default_rng(seed))
        assert changed.dtype == np.uint8
        assert changed.shape == dot.shape
        y, x = np.unravel_index(int(changed[..., 0].argmax()), (32, 32))
        moves.add((int(y) - 15, int(x) - 20))
        assert abs(int(changed[0, 0, 0]) - 60) <= 40
        assert (changed[..., 0] > changed[0, 0, 0]).sum() == 1
    assert max(abs(m) for move in moves for m in move) == SHIFT_PX
    assert len(moves) > 15


def test_a_batch_is_made_much_faster_than_a_step_takes(words: Words) -> None:
    make = batches(words, 32)
    make(0)
    started_s = time.process_time()
    for step in range(1, 4):
        make(step)
    assert (time.process_time() - started_s) / 3 < 0.15
