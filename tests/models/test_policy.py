"""The learned planner and expert behind the runtime's protocols, on a tiny checkpoint with random weights."""

import functools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from syvla.apps.director import Director, Episode
from syvla.apps.evaluate import run_lockstep
from syvla.config import RigConfig
from syvla.control.kinematics import forward_tcp
from syvla.errors import ConfigError, MessageError
from syvla.message import Float64, UInt8
from syvla.messages import ActionChunk, CameraFrame, Intent, Observation, Task
from syvla.protocols import PartialThought
from syvla.rig import load_rig, lockstep_host, lockstep_run, policy_cameras, policy_model_id
from syvla_models import checkpoint, policy
from syvla_models.actions import action_space, state_slots
from syvla_models.expert import Expert, tiny_config
from syvla_models.policy import PARTIAL_EVERY, LearnedExpert, LearnedPlanner, changed, task_noise
from syvla_models.spec import SLOTS, ActionSpaceName, ActionSpec, CameraView, PlannerSpec, PolicySpec, Think
from syvla_models.tiny import build_tiny, tiny_spec

TEXTS = ["Put the red cube into the white tray. Next the left arm picks up the green can."] * 5
VIEW = CameraView(camera="cam_high", height=64, width=96)
PERIOD_NS = 33_333_333
MS = 1_000_000
POSE = np.array([0.1, 1.2, -1.0, 0.2, 0.3, -0.1, 0.03, -0.1, 1.3, -1.1, 0.1, 0.4, 0.2, 0.05])


def planner_spec(**changes: Any) -> PlannerSpec:
    return tiny_spec(**{"views": (VIEW,), "max_thought_tokens": 10, **changes})


def make(
    folder: Path, spec: PlannerSpec, name: str = "random", space: ActionSpaceName = "joint", seed: int = 0
) -> PolicySpec:
    """A checkpoint whose thought and chunk depend on what it is given: no weight is zero."""
    planner = build_tiny(TEXTS, spec, vocabulary=320)
    torch.manual_seed(0)
    expert = Expert(tiny_config(spec.hidden_size))
    with torch.no_grad():
        for module, scale in ((planner, 4.0), (expert, 1.0)):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
        for layer in (expert.time_out, expert.action_out):
            layer.weight.normal_(0.0, 0.02)
    action = ActionSpec(space=space, offset=((0.0,) * SLOTS,), scale=((0.05,) * SLOTS,), euler_steps=3)
    draft = PolicySpec(name="random", planner=spec, expert=expert.config, action=action)
    return checkpoint.save(folder, planner, expert, draft)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "random"
    make(path, planner_spec())
    return path


def thinking(folder: Path, think: Think, parent: Path) -> Path:
    """A copy of ``folder`` with another way to think, and thoughts that stand for 2 s."""
    copy = parent / think
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    spec = checkpoint.load_spec(folder)
    changed_spec = msgspec.structs.replace(spec.planner, think=think, think_every_s=2.0)
    (copy / "syvla.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, planner=changed_spec)))
    return copy


@functools.cache
def picture(seed: int) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def seen(observation_ns: int = 0, rgb: UInt8 | None = None, camera: str = "cam_high") -> Observation:
    rgb = picture(0) if rgb is None else rgb
    frame = CameraFrame(camera=camera, frame_id=0, exposure_ns=observation_ns, rgb=rgb)
    return Observation(observation_ns=observation_ns, proprioception=POSE, frames=(frame,), source_age_s={})


def task(task_id: int = 1, instruction: str = "Put the red cube into the white tray.") -> Task:
    return Task(task_id=task_id, instruction=instruction, issued_ns=0)


def think(planner: LearnedPlanner, observation: Observation, asked: Task | None = None, intent_id: int = 0) -> Intent:
    *_, last = planner.think(observation, asked or task(), intent_id, None)
    assert isinstance(last, Intent)
    return last


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


# ---------------------------------------------------------------- planner


def test_a_thought_grows_and_ends_in_an_intent_of_this_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = LearnedPlanner(folder)
    inner = planner._planner
    endless = inner.forbidden.index_fill(0, torch.tensor(inner.end_id), value=True)
    monkeypatch.setitem(inner._buffers, "forbidden", endless)  # random weights may end their thought at any token
    products = list(planner.think(seen(5), task(4), 17, None))
    partial, last = products[:-1], products[-1]
    assert isinstance(last, Intent)
    assert (last.intent_id, last.task_id, last.observation_ns) == (17, 4, 5)
    assert last.model_id == planner.model_id == checkpoint.load_spec(folder).model_id
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
    spec = checkpoint.load_spec(copy)
    telling = msgspec.structs.replace(spec, planner=msgspec.structs.replace(spec.planner, hands_told=True))
    (copy / "syvla.json").write_bytes(msgspec.json.encode(telling))
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


# ---------------------------------------------------------------- expert


@pytest.fixture
def rig() -> RigConfig:
    return load_rig("twin")


@pytest.fixture
def intent(folder: Path) -> Intent:
    return an_intent(folder)


def an_intent(folder: Path, seed: int = 0, **changes: Any) -> Intent:
    states = np.random.default_rng(seed).standard_normal((20, 192)).astype(np.float16)
    fields: dict[str, Any] = {
        "intent_id": 3,
        "task_id": 1,
        "observation_ns": 0,
        "chain_of_thought": "",
        "feature_query_states": states,
        "model_id": checkpoint.load_spec(folder).model_id,
    }
    return Intent(**{**fields, **changes})


def act(
    expert: LearnedExpert,
    intent: Intent,
    observation_ns: int = 400 * MS,
    pose: Float64 = POSE,
    committed: ActionChunk | None = None,
    delay: int = 0,
) -> ActionChunk:
    return expert.act(intent, observation_ns, pose, committed, 9, delay)


def rows_of(chunk: ActionChunk) -> Float64:
    left, right = chunk.position_rad[:, :6], chunk.position_rad[:, 6:]
    widths = chunk.gripper_width_m
    return np.concatenate((left, widths[:, :1], right, widths[:, 1:]), axis=1).astype(np.float64)


def test_a_chunk_says_where_it_came_from_and_is_the_same_every_time(
    folder: Path, rig: RigConfig, intent: Intent
) -> None:
    chunk = act(LearnedExpert(folder, rig), intent, delay=2)
    assert (chunk.chunk_id, chunk.task_id, chunk.intent_id, chunk.intent_observation_ns) == (9, 1, 3, 0)
    assert (chunk.observation_ns, chunk.period_ns, chunk.inference_delay_steps) == (400 * MS, PERIOD_NS, 2)
    assert chunk.position_rad.shape == (50, 12)
    assert chunk.anchor_pose is None, "joints are relative to no hand"
    again = act(LearnedExpert(folder, rig), intent, delay=2)
    assert np.array_equal(chunk.position_rad, again.position_rad)
    assert np.array_equal(chunk.gripper_width_m, again.gripper_width_m)


def test_a_chunk_is_what_the_action_space_makes_of_the_sampled_rows(
    folder: Path, rig: RigConfig, intent: Intent, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.linspace(POSE, POSE + 0.01, 50)
    space = action_space(checkpoint.load_spec(folder).action, rig.safety)
    x = torch.from_numpy(space.encode(rows, POSE))[None]
    monkeypatch.setattr(policy, "sample", lambda *_: x)
    assert np.allclose(rows_of(act(LearnedExpert(folder, rig), intent)), rows, atol=1e-6)


def test_another_models_intent_is_refused_with_both_names(folder: Path, rig: RigConfig, intent: Intent) -> None:
    expert = LearnedExpert(folder, rig)
    with pytest.raises(MessageError, match=r"of model 'other@123', this expert is of 'random@[0-9a-f]{12}'"):
        act(expert, msgspec.structs.replace(intent, model_id="other@123"))
    narrow = msgspec.structs.replace(intent, feature_query_states=np.zeros((20, 8), np.float16))
    with pytest.raises(MessageError, match="must be 192 wide, not 8"):
        act(expert, narrow)
    assert act(expert, intent), "the next one is acted on"


def test_what_depends_on_the_intent_is_computed_once_for_each(
    folder: Path, rig: RigConfig, intent: Intent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted planner counts from 0 again: an intent of the same id and other states is another one."""
    expert = LearnedExpert(folder, rig)
    seen_states: list[torch.Tensor] = []
    condition = expert._expert.condition

    def counted(states: torch.Tensor) -> Any:
        seen_states.append(states)
        return condition(states)

    monkeypatch.setattr(expert._expert, "condition", counted)
    first = [act(expert, intent, at_ms * MS) for at_ms in (400, 450)]
    assert len(seen_states) == 1
    assert np.array_equal(seen_states[0][0].numpy(), intent.feature_query_states.astype(np.float32))
    other = act(expert, an_intent(folder, seed=1))
    assert len(seen_states) == 2
    assert not np.allclose(other.position_rad, first[0].position_rad, atol=1e-4)


def test_the_expert_is_told_the_intents_age_and_the_normalised_pose(
    tmp_path: Path, rig: RigConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, planner_spec())
    spec = checkpoint.load_spec(tmp_path)
    offset, scale = np.arange(SLOTS, dtype=np.float64), np.linspace(0.5, 2.0, SLOTS)
    action = msgspec.structs.replace(
        spec.action, state_offset=tuple(offset.tolist()), state_scale=tuple(scale.tolist())
    )
    (tmp_path / "syvla.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, action=action)))
    told: list[tuple[Any, ...]] = []

    def noted(*arguments: Any) -> torch.Tensor:
        told.append(arguments)
        return torch.zeros(1, 50, SLOTS)

    monkeypatch.setattr(policy, "sample", noted)
    act(LearnedExpert(tmp_path, rig), an_intent(tmp_path, observation_ns=150 * MS), 400 * MS)
    _, _, pose, age_s, noise, rows, prefix, steps, _ = told[0]
    assert age_s.tolist() == [0.25]
    assert pose[0].numpy() == pytest.approx((state_slots(POSE) - offset) / scale, rel=1e-5, abs=1e-6)
    assert (prefix.tolist(), steps) == ([1], 3), "without a chunk the arms are committed to stand for a row"
    standing = action_space(spec.action, rig.safety).encode(np.repeat(POSE[None], 50, axis=0), POSE)
    assert rows[0].numpy() == pytest.approx(standing, abs=1e-6)
    assert np.array_equal(noise[0].numpy(), task_noise(1, 50, SLOTS))


def test_noise_is_one_tasks_own_and_standard_normal() -> None:
    noise = task_noise(1, 50, 32)
    assert noise.dtype == np.float32
    assert np.array_equal(noise, task_noise(1, 50, 32))
    assert not np.allclose(noise, task_noise(2, 50, 32))
    assert (abs(noise.mean()) < 0.1, 0.9 < noise.std() < 1.1) == (True, True)
    assert task_noise(-1, 2, 3).shape == (2, 3)


def chunk_of(rows: Float64, observation_ns: int) -> ActionChunk:
    return ActionChunk(
        chunk_id=1,
        task_id=1,
        intent_id=1,
        intent_observation_ns=0,
        observation_ns=observation_ns,
        period_ns=PERIOD_NS,
        position_rad=rows[:, [*range(6), *range(7, 13)]].astype(np.float32),
        gripper_width_m=rows[:, [6, 13]].astype(np.float32),
        inference_delay_steps=0,
    )


def test_a_chunk_begins_with_what_is_committed(folder: Path, rig: RigConfig, intent: Intent) -> None:
    moving = POSE + np.linspace(0.0, 0.1, 50)[:, None] * 0.2
    start_ns = 400 * MS - 3 * PERIOD_NS  # row 3 is due at the observation
    chunk = act(LearnedExpert(folder, rig), intent, committed=chunk_of(moving, start_ns), delay=4)
    rows = rows_of(chunk)
    assert np.allclose(rows[:4], moving[3:7], atol=1e-5)
    assert not np.allclose(rows[4:8], moving[7:11], atol=1e-3), "after that the expert decides"
    free = rows_of(act(LearnedExpert(folder, rig), intent))
    assert not np.allclose(rows[4:], free[4:], atol=1e-5), "and it knows what came before"


def test_what_was_decided_is_executed_to_the_end_of_its_horizon(
    folder: Path, rig: RigConfig, intent: Intent, tmp_path: Path
) -> None:
    """However often the expert acts: a policy that decided anew every 50 ms let its arms drift off the table."""
    copy = shutil.copytree(folder, tmp_path / "patient")
    spec = checkpoint.load_spec(folder)
    action = msgspec.structs.replace(spec.action, execution_horizon_s=0.4)
    (copy / "syvla.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, action=action)))
    moving = POSE + np.linspace(0.0, 0.1, 50)[:, None] * 0.2
    expert = LearnedExpert(copy, rig)
    for observation_ms, delay, kept in ((400, 0, 12), (500, 0, 9), (700, 2, 3), (770, 0, 12)):
        committed = chunk_of(moving, observation_ms * MS)
        rows = rows_of(act(expert, intent, observation_ms * MS, moving[0], committed, delay))
        assert np.allclose(rows[:kept], moving[:kept], atol=1e-5), observation_ms
        assert not np.allclose(rows[kept : kept + 2], moving[kept : kept + 2], atol=1e-3), observation_ms
    with pytest.raises(ValueError, match="execution_horizon_s must be"):
        ActionSpec(space="joint", offset=action.offset, scale=action.scale, execution_horizon_s=0.6)


def test_less_noise_lets_two_tasks_differ_less(folder: Path, rig: RigConfig, intent: Intent, tmp_path: Path) -> None:
    """The noise of a whole task once put all of its grasps on one side."""
    spec = checkpoint.load_spec(folder)
    apart = {}
    for scale in (1.0, 0.5, 0.0):
        copy = shutil.copytree(folder, tmp_path / str(scale))
        action = msgspec.structs.replace(spec.action, noise_scale=scale)
        (copy / "syvla.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, action=action)))
        expert = LearnedExpert(copy, rig)
        one, other = (
            rows_of(act(expert, msgspec.structs.replace(intent, task_id=task_id), 400 * MS, POSE, None, 0))
            for task_id in (1, 2)
        )
        apart[scale] = float(np.abs(one - other).mean())
    assert apart[1.0] > apart[0.5] > apart[0.0] == 0.0
    with pytest.raises(ValueError, match="noise_scale must be"):
        msgspec.convert({**msgspec.to_builtins(spec.action), "noise_scale": 1.5}, ActionSpec)


def test_an_end_effector_chunk_says_what_it_is_relative_to_and_executing_it_later_moves_nothing(
    tmp_path: Path, rig: RigConfig
) -> None:
    make(tmp_path, planner_spec(), space="end_effector")
    expert = LearnedExpert(tmp_path, rig)
    chunk = act(expert, an_intent(tmp_path))
    assert chunk.anchor_pose is not None
    assert chunk.position_rad.std() > 0.01, "it moves"
    for side in range(2):
        measured = POSE[7 * side : 7 * side + 6]
        position, rotation = forward_tcp(measured)
        assert np.allclose(chunk.anchor_pose[side, :3], position)
        assert np.allclose(matrix(chunk.anchor_pose[side, 3:]), rotation, atol=1e-9)
    # However the arms have moved since, the rows read back through the anchor are what the expert wanted of the hands.
    spec = checkpoint.load_spec(tmp_path).action
    wanted = np.concatenate((chunk.position_rad[:, :6], chunk.gripper_width_m[:, :1]), axis=1)
    hand, turn = forward_tcp(wanted[:, :6])
    back = matrix(chunk.anchor_pose[0, 3:]).T
    relative = action_space(spec, rig.safety).raw(rows_of(chunk), POSE)
    assert np.allclose((hand - chunk.anchor_pose[0, :3]) @ back.T, relative[:, :3], atol=1e-6)
    assert np.allclose((back @ turn)[:, :, 0], relative[:, 3:6], atol=1e-6)


def matrix(quaternion: Float64) -> Float64:
    """The rotation of a quaternion (w, x, y, z), by q v q*."""
    w, x, y, z = quaternion
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn: Float64 = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
    return turn


# ---------------------------------------------------------------- in the loop


def test_it_runs_in_lockstep_with_only_the_cameras_it_looks_at_and_twice_the_same(folder: Path) -> None:
    run = lockstep_run("twin", 0.3, 0.03, str(folder))
    assert policy_cameras(run) == ("cam_high",)
    assert policy_model_id(run) == checkpoint.load_spec(folder).model_id
    found = []
    for _ in range(2):
        host = lockstep_host(run, [Director([Episode("snack_loading", "id", 0, "n")])])
        host.run_until(3_000 * MS)
        chunk, made = host.message("chunk"), host.message("intent")
        assert isinstance(chunk, ActionChunk)
        assert isinstance(made, Intent)
        assert made.model_id == policy_model_id(run)
        assert "camera/cam_left_wrist" not in host.latest
        assert host.latest["intent"].header.sequence >= 3, "intents come at 2 Hz and more"
        found.append((chunk.position_rad, made.feature_query_states, made.chain_of_thought))
        host.stop()
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_random_weights_solve_nothing_and_nothing_breaks(folder: Path) -> None:
    outcome, _ = run_lockstep(
        lockstep_run("twin", 0.3, 0.03, str(folder)), Episode("snack_loading", "id", 0, "n", limit_s=3.0)
    )
    assert outcome.ran
    assert not outcome.success
