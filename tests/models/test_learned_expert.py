"""The learned expert behind the runtime's protocol, with random weights."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.models.policies import MS, PERIOD_NS, POSE, an_intent, chunk_of, make, planner_spec

from syvla.config import RigConfig
from syvla.control.kinematics import forward_tcp
from syvla.errors import MessageError
from syvla.message import Float32, Float64
from syvla.messages import ActionChunk, Intent
from syvla_models.actions import action_space, state_slots
from syvla_models.backends.protocol import ChunkInputs, Conditioned
from syvla_models.learned_expert import LearnedExpert, task_noise
from syvla_models.spec import SLOTS, ActionSpec, load_spec, save_spec


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


class Noting:
    """A backend that answers ``rows`` and notes what it was asked."""

    name = "noting"

    def __init__(self, rows: Float32) -> None:
        self.rows = rows
        self.states: list[Float32] = []
        self.asked: list[ChunkInputs] = []

    def condition(self, query_states: Float32) -> Conditioned:
        self.states.append(query_states)
        return (query_states,)

    def chunk(self, conditioned: Conditioned, inputs: ChunkInputs) -> Float32:
        assert conditioned[0] is self.states[-1]
        self.asked.append(inputs)
        return self.rows


def test_a_chunk_is_what_the_action_space_makes_of_the_backends_rows(
    folder: Path, rig: RigConfig, intent: Intent
) -> None:
    rows = np.linspace(POSE, POSE + 0.01, 50)
    space = action_space(load_spec(folder).action, rig.safety)
    expert = LearnedExpert(folder, rig, backend=Noting(space.encode(rows, POSE)))
    assert np.allclose(rows_of(act(expert, intent)), rows, atol=1e-6)


def test_another_models_intent_is_refused_with_both_names(folder: Path, rig: RigConfig, intent: Intent) -> None:
    expert = LearnedExpert(folder, rig)
    with pytest.raises(MessageError, match=r"of model 'other@123', this expert is of 'random@[0-9a-f]{12}'"):
        act(expert, msgspec.structs.replace(intent, model_id="other@123"))
    narrow = msgspec.structs.replace(intent, feature_query_states=np.zeros((20, 8), np.float16))
    with pytest.raises(MessageError, match="must be 192 wide, not 8"):
        act(expert, narrow)
    assert act(expert, intent), "the next one is acted on"


def test_what_depends_on_the_intent_is_computed_once_for_each(folder: Path, rig: RigConfig, intent: Intent) -> None:
    """A restarted planner counts from 0 again: an intent of the same id and other states is another one."""
    backend = Noting(np.zeros((50, SLOTS), np.float32))
    expert = LearnedExpert(folder, rig, backend=backend)
    for at_ms in (400, 450):
        act(expert, intent, at_ms * MS)
    assert len(backend.states) == 1
    assert np.array_equal(backend.states[0], intent.feature_query_states.astype(np.float32))
    act(expert, an_intent(folder, seed=1))
    assert len(backend.states) == 2
    eager = LearnedExpert(folder, rig, backend="eager")
    one, other = (act(eager, an_intent(folder, seed=seed)).position_rad for seed in (0, 1))
    assert not np.allclose(one, other, atol=1e-4)


def test_the_expert_is_told_the_intents_age_and_the_normalised_pose(tmp_path: Path, rig: RigConfig) -> None:
    make(tmp_path, planner_spec())
    spec = load_spec(tmp_path)
    offset, scale = np.arange(SLOTS, dtype=np.float64), np.linspace(0.5, 2.0, SLOTS)
    action = msgspec.structs.replace(
        spec.action, state_offset=tuple(offset.tolist()), state_scale=tuple(scale.tolist())
    )
    save_spec(tmp_path, msgspec.structs.replace(spec, action=action))
    backend = Noting(np.zeros((50, SLOTS), np.float32))
    act(LearnedExpert(tmp_path, rig, backend=backend), an_intent(tmp_path, observation_ns=150 * MS), 400 * MS)
    (asked,) = backend.asked
    assert asked.age_s == 0.25
    assert asked.state == pytest.approx((state_slots(POSE) - offset) / scale, rel=1e-5, abs=1e-6)
    assert action_space(action, rig.safety).measured(asked.state) == pytest.approx(POSE, abs=1e-5)
    assert asked.prefix == 1, "without a chunk the arms are committed to stand for a row"
    standing = action_space(spec.action, rig.safety).encode(np.repeat(POSE[None], 50, axis=0), POSE)
    assert asked.prefix_rows == pytest.approx(standing, abs=1e-6)
    assert np.array_equal(asked.noise, task_noise(1, 50, SLOTS))


def test_noise_is_one_tasks_own_and_standard_normal() -> None:
    noise = task_noise(1, 50, 32)
    assert noise.dtype == np.float32
    assert np.array_equal(noise, task_noise(1, 50, 32))
    assert not np.allclose(noise, task_noise(2, 50, 32))
    assert (abs(noise.mean()) < 0.1, 0.9 < noise.std() < 1.1) == (True, True)
    assert task_noise(-1, 2, 3).shape == (2, 3)


def test_a_chunk_begins_with_what_is_committed(folder: Path, rig: RigConfig, intent: Intent) -> None:
    moving = POSE + np.linspace(0.0, 0.1, 50)[:, None] * 0.2
    start_ns = 400 * MS - 3 * PERIOD_NS  # row 3 is due at the observation
    chunk = act(LearnedExpert(folder, rig), intent, committed=chunk_of(moving, start_ns), delay=4)
    rows = rows_of(chunk)
    assert np.allclose(rows[:4], moving[3:7], atol=1e-5)
    assert not np.allclose(rows[4:8], moving[7:11], atol=1e-3), "after that the expert decides"
    free = rows_of(act(LearnedExpert(folder, rig), intent))
    assert not np.allclose(rows[4:], free[4:], atol=1e-5), "and it knows what came before"


MOVING = POSE + np.linspace(0.0, 0.1, 50)[:, None] * 0.2


@pytest.fixture
def patient(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint with an execution horizon of 0.4 s."""
    copy = shutil.copytree(folder, tmp_path / "patient")
    spec = load_spec(folder)
    action = msgspec.structs.replace(spec.action, execution_horizon_s=0.4)
    save_spec(copy, msgspec.structs.replace(spec, action=action))
    return copy


def test_what_was_decided_is_executed_to_the_end_of_its_horizon(patient: Path, rig: RigConfig, intent: Intent) -> None:
    """However often the expert acts: a policy that decided anew every 50 ms let its arms drift off the table."""
    expert = LearnedExpert(patient, rig)
    for observation_ms, delay, kept in ((400, 0, 12), (500, 0, 9), (700, 2, 3), (770, 0, 12)):
        committed = chunk_of(MOVING, observation_ms * MS)
        rows = rows_of(act(expert, intent, observation_ms * MS, MOVING[0], committed, delay))
        assert np.allclose(rows[:kept], MOVING[:kept], atol=1e-5), observation_ms
        assert not np.allclose(rows[kept : kept + 2], MOVING[kept : kept + 2], atol=1e-3), observation_ms
    with pytest.raises(ValueError, match="execution_horizon_s must be"):
        ActionSpec(space="joint", offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,), execution_horizon_s=0.6)


@pytest.mark.parametrize("delay", [4, 20])
def test_guidance_keeps_what_was_decided_for_an_execution_horizon(
    patient: Path, rig: RigConfig, intent: Intent, monkeypatch: pytest.MonkeyPatch, delay: int
) -> None:
    """Every chunk was a new decision. More rows may be past when a chunk arrives than a prefix was trained with."""
    expert = LearnedExpert(patient, rig, 1, "eager", "guided")
    asked: list[tuple[int, int]] = []
    guided = expert.backend.guided  # type: ignore[attr-defined]

    def noting(conditioned: Conditioned, inputs: ChunkInputs, kept: int, overlap: int) -> Float32:
        asked.append((kept, overlap))
        return guided(conditioned, inputs, kept, overlap)  # type: ignore[no-any-return]

    monkeypatch.setattr(expert.backend, "guided", noting)
    act(expert, intent, 400 * MS, MOVING[0], chunk_of(MOVING, 400 * MS), delay)
    ((kept, overlap),) = asked
    arrival_ns = 400 * MS + (delay + 1) * PERIOD_NS
    assert kept == delay + 1 + -arrival_ns % (400 * MS) // PERIOD_NS > delay + 1
    assert overlap == 50


def test_what_was_decided_before_a_surprise_stands_no_longer_than_it_must(
    patient: Path, rig: RigConfig, intent: Intent
) -> None:
    """A thing that was moved in the middle of a reach used to be answered at the end of the execution horizon."""
    decided = msgspec.structs.replace(chunk_of(MOVING, 400 * MS), intent_observation_ns=intent.observation_ns)

    def kept(change: float, task_id: int = 1, committed: ActionChunk = decided) -> int:
        """Rows that stay when the next intent's states differ by so much, of their norm."""
        expert = LearnedExpert(patient, rig)
        act(expert, intent, 400 * MS, MOVING[0], None, 0)
        states = (intent.feature_query_states * np.float16(1.0 + change)).astype(np.float16)
        newer = msgspec.structs.replace(
            intent, task_id=task_id, observation_ns=intent.observation_ns + 50 * MS, feature_query_states=states
        )
        rows = rows_of(act(expert, newer, 400 * MS, MOVING[0], committed, 2))
        return int(np.isclose(rows, MOVING, atol=1e-5).all(axis=1).argmin())

    assert kept(0.02) == 12, "to the end of the horizon"
    for change in (0.08, -0.08):
        assert kept(change) == 3, "what is due before it arrives, and no more"
    assert kept(0.08, task_id=2) == 12, "another task is no surprise"
    spec = load_spec(patient)
    save_spec(
        patient, msgspec.structs.replace(spec, action=msgspec.structs.replace(spec.action, surprise_threshold=0.1))
    )
    assert kept(0.08) == 12, "the checkpoint says what is one"
    save_spec(patient, spec)
    known = msgspec.structs.replace(decided, intent_observation_ns=intent.observation_ns + 50 * MS)
    assert kept(0.08, committed=known) == 12, "it was decided knowing of it"


def test_less_noise_lets_two_tasks_differ_less(folder: Path, rig: RigConfig, intent: Intent, tmp_path: Path) -> None:
    """The noise of a whole task once put all of its grasps on one side."""
    spec = load_spec(folder)
    apart = {}
    for scale in (1.0, 0.5, 0.0):
        copy = shutil.copytree(folder, tmp_path / str(scale))
        action = msgspec.structs.replace(spec.action, noise_scale=scale)
        save_spec(copy, msgspec.structs.replace(spec, action=action))
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
    spec = load_spec(tmp_path).action
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
