"""The learned planner behind the runtime's protocol, with random weights."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.models.policies import MS, POSE, VIEW, make, picture, planner_spec, seen, task, think

from syvla.errors import ConfigError, MessageError
from syvla.messages import Intent, Observation
from syvla.protocols import PartialThought
from syvla_models.learned_planner import PARTIAL_EVERY, LearnedPlanner, changed, where
from syvla_models.spec import Think, load_spec, save_spec


def thinking(folder: Path, think: Think, parent: Path) -> Path:
    """A copy of ``folder`` with another way to think, and thoughts that stand for 2 s."""
    copy = parent / think
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    spec = load_spec(folder)
    changed_spec = msgspec.structs.replace(spec.planner, think=think, think_every_s=2.0)
    save_spec(copy, msgspec.structs.replace(spec, planner=changed_spec))
    return copy


def same_states(one: Intent, other: Intent) -> bool:
    return np.allclose(one.feature_query_states, other.feature_query_states, atol=0.01)


class Counted:
    """Counts what the shared planner is asked for."""

    def __init__(self, planner: LearnedPlanner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thoughts = self.refreshed = 0
        inner = planner._planner
        think, refresh = inner.think, inner.refresh

        def counted_think(*arguments: Any, **options: Any) -> Any:
            self.thoughts += 1
            return think(*arguments, **options)

        def counted_refresh(*arguments: Any) -> Any:
            self.refreshed += 1
            return refresh(*arguments)

        monkeypatch.setattr(inner, "think", counted_think)
        monkeypatch.setattr(inner, "refresh", counted_refresh)


def test_a_thought_grows_and_ends_in_an_intent_of_this_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = LearnedPlanner(folder)
    inner = planner._planner
    endless = inner.forbidden.index_fill(0, torch.tensor(inner.end_id), value=True)
    monkeypatch.setitem(inner._buffers, "forbidden", endless)  # random weights may end their thought at any token
    products = list(planner.think(seen(5), task(4), 17, None))
    partial, last = products[:-1], products[-1]
    assert isinstance(last, Intent)
    assert (last.intent_id, last.task_id, last.observation_ns) == (17, 4, 5)
    assert last.model_id == planner.model_id == load_spec(folder).model_id
    assert last.feature_query_states.shape == (20, 192)
    texts = [p.text for p in partial if isinstance(p, PartialThought)]
    assert len(texts) == len(partial) == 10 // PARTIAL_EVERY
    assert all(last.chain_of_thought.startswith(text) and text for text in texts)
    assert not planner.reads_truth


def test_what_it_wants_depends_on_the_image_and_the_words(folder: Path) -> None:
    planner = LearnedPlanner(folder)
    base = think(planner, seen())
    assert same_states(base, think(planner, seen()))
    assert not same_states(base, think(planner, seen(rgb=picture(1))))
    assert not same_states(base, think(planner, seen(), task(1, "Pick up the green can.")))
    blank = think(planner, seen(), task(1, ""))
    assert not same_states(base, blank)


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        ("float32", None, torch.float32),
        ("bfloat16", None, torch.bfloat16),
        ("float32", "bfloat16", torch.bfloat16),
        ("bfloat16", "float16", torch.float16),
    ],
)
def test_it_thinks_on_a_gpu_where_there_is_one_in_the_type_of_its_weights_or_as_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, asked: Any, expected: torch.dtype
) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": own}))
    spec = load_spec(folder)
    save_spec(tmp_path, msgspec.structs.replace(spec, planner=msgspec.structs.replace(spec.planner, gpu_dtype=asked)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert where(tmp_path) == (expected, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert where(tmp_path) == (torch.float32, "cpu")


def test_a_camera_that_is_not_there_is_named(folder: Path) -> None:
    planner = LearnedPlanner(folder)
    with pytest.raises(ConfigError, match="looks at camera 'cam_high', the observation has cam_left_wrist"):
        think(planner, seen(camera="cam_left_wrist"))
    blind = Observation(observation_ns=0, proprioception=POSE, frames=(), source_age_s={})
    with pytest.raises(ConfigError, match="the observation has none"):
        think(planner, blind)


def test_an_unknown_camera_in_the_spec_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    make(tmp_path, planner_spec(views=(msgspec.structs.replace(VIEW, camera="cam_low"),)))
    with pytest.raises(ConfigError, match="camera 'cam_low'; there are cam_high, cam_left_wrist, cam_right_wrist"):
        LearnedPlanner(tmp_path)


@pytest.mark.parametrize("wrong", [float("nan"), 1e6])
def test_states_that_float16_cannot_say_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    planner = LearnedPlanner(folder)
    states = torch.zeros(20, 192)
    states[3, 7] = wrong
    monkeypatch.setattr(planner._planner, "think", lambda *_, **__: iter([("so", states)]))
    with pytest.raises(MessageError, match="the query states of intent 6 are not finite in float16"):
        think(planner, seen(), intent_id=6)
    monkeypatch.setattr(planner._planner, "think", lambda *_, **__: iter([("so", states[:, :100])]))
    with pytest.raises(MessageError, match=r"must have shape \(20, 192\)"):
        think(planner, seen())


def test_always_thinks_anew_and_equals_a_planner_that_has_thought_nothing_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = LearnedPlanner(folder)
    count = Counted(planner, monkeypatch)
    for number in (0, 1, 1, 0):
        intent = think(planner, seen(rgb=picture(number)))
        alone = think(LearnedPlanner(folder), seen(rgb=picture(number)))
        assert intent.chain_of_thought == alone.chain_of_thought
        assert same_states(intent, alone)
    assert (count.thoughts, count.refreshed) == (8, 0)


def test_the_first_thought_of_a_run_does_not_start_from_another_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[bool] = []
    first = LearnedPlanner(folder)
    inner = first._planner.think

    def noted(*arguments: Any, reuse: bool) -> Any:
        offered.append(reuse)
        return inner(*arguments, reuse=reuse)

    monkeypatch.setattr(first._planner, "think", noted)
    think(first, seen())
    think(first, seen())
    second = LearnedPlanner(folder)
    assert second._planner is first._planner, "the weights are shared"
    think(second, seen())
    assert offered == [False, True, False]


def test_every_s_keeps_the_thought_for_its_time_and_refreshes_the_states(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = LearnedPlanner(thinking(folder, "every_s", tmp_path))
    count = Counted(planner, monkeypatch)
    first = think(planner, seen(0))
    kept = think(planner, seen(1999 * MS, picture(1)))
    assert (count.thoughts, count.refreshed) == (1, 1)
    assert kept.chain_of_thought == first.chain_of_thought
    assert not same_states(kept, first), "the states follow the image"
    assert kept.observation_ns == 1999 * MS
    think(planner, seen(2000 * MS, picture(1)))
    assert (count.thoughts, count.refreshed) == (2, 1)
    think(planner, seen(2001 * MS, picture(1)), task(2))
    assert (count.thoughts, count.refreshed) == (3, 1), "another task is thought about anew"
    think(planner, seen(0, picture(1)), task(2))
    assert count.thoughts == 4, "time that runs backwards, too"


def test_on_change_keeps_the_thought_while_the_view_stays_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = LearnedPlanner(thinking(folder, "on_change", tmp_path))
    count = Counted(planner, monkeypatch)
    think(planner, seen(0))
    think(planner, seen(10_000 * MS))
    assert (count.thoughts, count.refreshed) == (1, 1)
    think(planner, seen(10_001 * MS, picture(1)))
    assert (count.thoughts, count.refreshed) == (2, 1)
    think(planner, seen(10_002 * MS, picture(1)), task(1, "Pick up the green can."))
    assert (count.thoughts, count.refreshed) == (3, 1)


def test_hands_that_close_are_told_and_thought_about_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = thinking(folder, "on_change", tmp_path)
    spec = load_spec(copy)
    telling = msgspec.structs.replace(spec, planner=msgspec.structs.replace(spec.planner, hands_told=True))
    save_spec(copy, telling)
    planner = LearnedPlanner(copy)
    count = Counted(planner, monkeypatch)
    open_hands, held = np.array(POSE), np.array(POSE)
    open_hands[[6, 13]] = 0.07
    held[[6, 13]] = 0.07, 0.031
    first = think(planner, msgspec.structs.replace(seen(0), proprioception=open_hands))
    think(planner, msgspec.structs.replace(seen(1), proprioception=open_hands))
    assert (count.thoughts, count.refreshed) == (1, 1)
    other = think(planner, msgspec.structs.replace(seen(2), proprioception=held))
    assert (count.thoughts, count.refreshed) == (2, 1)
    assert not same_states(first, other)
    alone = LearnedPlanner(thinking(folder, "always", tmp_path))
    told = "Put the red cube into the white tray. Hands: left open, right open."
    assert same_states(first, think(alone, seen(0), task(1, told)))


def test_slow_change_adds_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is compared with the one that was thought about, not with the one before."""
    planner = LearnedPlanner(thinking(folder, "on_change", tmp_path))
    count = Counted(planner, monkeypatch)
    for step, level in enumerate((100, 108, 116)):
        think(planner, seen(step, np.full((240, 320, 3), level, np.uint8)))
    assert (count.thoughts, count.refreshed) == (2, 1)


def test_an_object_counts_as_a_change_and_noise_does_not() -> None:
    before = np.full((70, 100, 3), 120, np.uint8)
    noise = np.random.default_rng(0).integers(-9, 10, before.shape)
    assert not changed(before, (before + noise).astype(np.uint8))
    after = before.copy()
    after[30:42, 50:62] = (200, 30, 30)
    assert changed(before, after)
    assert changed(after, before)


def test_a_thought_can_be_closed_and_the_next_one_is_whole(folder: Path) -> None:
    planner = LearnedPlanner(folder)
    running = planner.think(seen(rgb=picture(3)), task(1), 0, None)
    assert isinstance(next(running), PartialThought)
    running.close()  # type: ignore[attr-defined]
    intent = think(planner, seen(), task(2))
    alone = think(LearnedPlanner(folder), seen(), task(2))
    assert intent.chain_of_thought == alone.chain_of_thought
    assert same_states(intent, alone)
