"""The action space: what a chunk means, and the joints that it comes out as."""

import math
import statistics
import time

import msgspec
import numpy as np
import pytest

from syvla.config import SafetyLimits
from syvla.control.kinematics import HOME_RAD, JointLimits, forward_tcp, inverse_tcp
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla_models.actions import (
    GRIPPER,
    JOINTS,
    POSITION,
    ROTATION,
    ActionSpace,
    action_space,
    anchor_poses,
    fit_state,
    state_slots,
)
from syvla_models.spec import SLOTS, ActionSpaceName, ActionSpec

SAFETY = SafetyLimits()
LOWER, UPPER = np.array(SAFETY.position_min_rad), np.array(SAFETY.position_max_rad)
BOTH: list[ActionSpaceName] = ["joint", "end_effector"]
HOME = np.array([*HOME_RAD, 0.03] * 2)
ROWS = 50
# Where the arm has one solution near another: away from the straight wrist, the straight elbow and the limits.
CLEAR_LOWER = np.array([-1.2, 0.6, -1.9, -1.2, 0.35, -1.5])
CLEAR_UPPER = np.array([1.2, 1.8, -0.6, 1.2, 1.1, 1.5])


def spec(space: ActionSpaceName, seed: int | None = 0) -> ActionSpec:
    """With a random normalisation, or none for seed None."""
    if seed is None:
        return ActionSpec(space=space, offset=((0.0,) * SLOTS,), scale=((1.0,) * SLOTS,))
    rng = np.random.default_rng(seed)
    offset, scale = rng.normal(0.0, 0.2, (ROWS, SLOTS)), rng.uniform(0.05, 0.5, (ROWS, SLOTS))
    return ActionSpec(space=space, offset=tuple(map(tuple, offset.tolist())), scale=tuple(map(tuple, scale.tolist())))


def made(space: ActionSpaceName, seed: int | None = 0) -> ActionSpace:
    return action_space(spec(space, seed))


def trajectory(seed: int, low: Float64 = CLEAR_LOWER, high: Float64 = CLEAR_UPPER) -> Float64:
    """Both arms, smoothly, in the box from ``low`` to ``high``: (50, 14)."""
    rng = np.random.default_rng(seed)
    t_s = np.arange(ROWS)[:, None] / 30
    rows = np.empty((ROWS, 14))
    for first in (0, 7):
        wave = np.sin(2 * np.pi * rng.uniform(0.1, 0.5, 6) * t_s + rng.uniform(0, 2 * np.pi, 6))
        middle = rng.uniform(0.3, 0.7, 6)
        rows[:, first : first + 6] = low + (high - low) * (middle + 0.3 * wave)
        rows[:, first + 6] = rng.uniform(0.0, 0.07, ROWS)
    return rows


def measured(rows: Float64, seed: int = 0) -> Float64:
    """An anchor: near the first row, as a measured pose is."""
    anchor: Float64 = rows[0] + np.random.default_rng(seed).normal(0.0, 0.02, 14)
    return anchor


def poses(rows: Float64) -> tuple[Float64, Float64]:
    """The grasp points of both arms (..., 2, 3) and (..., 2, 3, 3)."""
    return forward_tcp(rows.reshape(*rows.shape[:-1], 2, 7)[..., :6])


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize(("space", "tolerance_rad"), [("joint", 1e-4), ("end_effector", 1e-3)])
def test_encoding_and_decoding_gives_the_set_points_back(space: ActionSpaceName, tolerance_rad: float) -> None:
    for seed in range(60):
        rows = trajectory(seed)
        anchor = measured(rows, seed)
        x = made(space, seed).encode(rows, anchor)
        assert x.dtype == np.float32
        assert x.shape == (ROWS, SLOTS)
        found = made(space, seed).decode(x, anchor)
        assert np.abs(found - rows).max() < tolerance_rad


def test_poses_come_back_where_the_joints_are_not_unique() -> None:
    """All over the joint ranges, straight wrists among them, up to the straight elbow: the hand is where it was."""
    space, low = made("end_effector"), LOWER.copy()
    low[2] = -2.8
    for seed in range(60):
        rows = trajectory(seed, low, UPPER)
        found = space.decode(space.encode(rows, rows[0]), rows[0])
        for wanted, got in zip(poses(rows), poses(found), strict=True):
            assert np.abs(wanted - got).max() < 2e-5


@pytest.mark.parametrize("space", BOTH)
def test_many_chunks_are_encoded_at_once(space: ActionSpaceName) -> None:
    rows = np.stack([trajectory(seed) for seed in range(6)]).reshape(2, 3, ROWS, 14)
    anchors = rows[:, :, 0] + 0.01
    together = made(space).encode(rows, anchors)
    for index in np.ndindex(2, 3):
        assert np.allclose(together[index], made(space).encode(rows[index], anchors[index]), atol=1e-6)


@pytest.mark.parametrize("space", BOTH)
def test_what_is_not_live_is_zero_and_not_read(space: ActionSpaceName) -> None:
    rows, action = trajectory(0), made(space)
    x = action.encode(rows, rows[0])
    assert action.live.sum() == {"joint": 14, "end_effector": 20}[space]
    assert (x[:, ~action.live] == 0.0).all()
    assert (x[:, action.live] != 0.0).any(axis=0).all()
    garbage = x.copy()
    garbage[:, ~action.live] = np.nan
    assert np.array_equal(action.decode(garbage, rows[0]), action.decode(x, rows[0]))


def test_slots_are_what_the_table_says() -> None:
    """Left arm first: offsets from the measured joints, T0^-1 T, and the absolute width of the gripper."""
    rows = trajectory(3)
    anchor = measured(rows)
    joint, pose = (made(name, None).raw(rows, anchor).reshape(ROWS, 2, 16) for name in BOTH)
    arms = rows.reshape(ROWS, 2, 7)
    assert np.allclose(joint[..., JOINTS], arms[..., :6] - anchor.reshape(2, 7)[:, :6])
    assert np.allclose(joint[..., GRIPPER], arms[..., 6:])
    assert np.allclose(pose[..., GRIPPER], arms[..., 6:])
    position, rotation = poses(rows)
    position0, rotation0 = poses(anchor)
    back = np.swapaxes(rotation0, -1, -2)
    for arm in range(2):
        for k in range(0, ROWS, 7):
            assert np.allclose(back[arm] @ (position[k, arm] - position0[arm]), pose[k, arm, POSITION])
            turn = back[arm] @ rotation[k, arm]
            assert np.allclose(pose[k, arm, ROTATION], [*turn[:, 0], *turn[:, 1]])


@pytest.mark.parametrize("space", BOTH)
def test_fitting_gives_every_live_slot_of_every_row_deviation_one(space: ActionSpaceName) -> None:
    raw = made(space, None)
    starts = np.stack([trajectory(s)[0] for s in range(40)])
    rows = np.stack([trajectory(s) for s in range(40)])
    rows[:, 0] += np.random.default_rng(0).normal(0.0, 0.05, rows[:, 0].shape)
    offset, scale = raw.fit(raw.raw(rows, starts))
    fitted = action_space(msgspec.structs.replace(spec(space), offset=offset, scale=scale))
    x = fitted.encode(rows, starts)[..., fitted.live]
    moved = np.array(scale)[:, fitted.live] > 0.03  # above the least scales
    assert moved.mean() > 0.5
    assert np.abs(x.mean(axis=0)[moved]).max() < 1e-3
    assert np.abs(x.std(axis=0)[moved] - 1.0).max() < 1e-3
    assert (np.array(offset)[:, ~fitted.live] == 0.0).all()
    assert (np.array(scale)[:, ~fitted.live] == 1.0).all()


def test_the_first_row_is_as_exact_as_it_is_near() -> None:
    """One scale for all rows made the first as inexact as the last, and the gate refused every chunk's first step."""
    raw = made("joint", None)
    rng = np.random.default_rng(0)
    away = np.linspace(0.01, 1.0, ROWS)[:, None] * rng.normal(size=(200, 1, 14))
    offset, scale = raw.fit(raw.raw(HOME + away, np.tile(HOME, (200, 1))))
    fitted = action_space(msgspec.structs.replace(spec("joint"), offset=offset, scale=scale))
    right = fitted.encode(HOME + away[0], HOME)
    off = np.abs(fitted.decode(right + 0.3, HOME) - fitted.decode(right, HOME))  # a network is as wrong in all rows
    assert off[0].max() < 0.005
    assert off[-1].max() > 0.1


def test_an_arm_that_never_moves_is_not_blown_up() -> None:
    still = np.tile(HOME, (20, ROWS, 1)) + np.random.default_rng(0).normal(0.0, 1e-6, (20, ROWS, 14))
    for name in BOTH:
        raw = made(name, None)
        _, scale = raw.fit(raw.raw(still, np.tile(HOME, (20, 1))))
        assert np.min(scale) >= 0.002


# ---------------------------------------------------------------- the anchor


def test_decoding_does_not_depend_on_when_it_is_executed() -> None:
    """The rows are relative to the observation: wherever the arms have gone since, the set-points are the same."""
    for space in BOTH:
        rows, action = trajectory(1), made(space)
        x = action.encode(rows, rows[0])
        at_once = action.decode(x, anchor=rows[0])
        for later in (9, 30):
            found = action.decode(x, anchor=rows[0], reference=rows[later])
            assert np.allclose(found, at_once, atol=1e-6)
        moved = action.decode(x, anchor=rows[9])
        assert np.abs(moved - at_once).max() > 0.01, "another observation is another chunk"


def test_end_effector_rows_move_with_the_pose_of_the_observation() -> None:
    """The same numbers from another anchor are the same motion of the hand, seen from the hand."""
    rows, action = trajectory(2), made("end_effector", None)
    shifted = rows[0].copy()
    shifted[[0, 7]] += 0.3  # both arms turned about their bases
    found = action.decode(action.encode(rows, rows[0]), anchor=shifted)
    assert np.allclose(found[:, [0, 7]], rows[:, [0, 7]] + 0.3, atol=1e-4)
    rest = [i for i in range(14) if i not in (0, 7)]
    assert np.allclose(found[:, rest], rows[:, rest], atol=1e-4)


def test_the_state_is_the_joints_and_where_the_hands_are() -> None:
    """Absolute, in the slots of the actions, and normalised to deviation 1 by what was measured."""
    measured_rows = np.concatenate([trajectory(seed) for seed in range(40)])
    raw = state_slots(measured_rows).reshape(-1, 2, 16)
    arms, (position, rotation) = measured_rows.reshape(-1, 2, 7), poses(measured_rows)
    assert np.allclose(raw[..., JOINTS], arms[..., :6])
    assert np.allclose(raw[..., GRIPPER], arms[..., 6:])
    assert np.allclose(raw[..., POSITION], position)
    assert np.allclose(raw[..., ROTATION], np.concatenate((rotation[..., 0], rotation[..., 1]), axis=-1))
    offset, scale = fit_state(measured_rows)
    for name in BOTH:
        fitted = action_space(msgspec.structs.replace(spec(name), state_offset=offset, state_scale=scale))
        state = fitted.state(measured_rows)
        assert state.dtype == np.float32
        assert np.abs(state.mean(axis=0)).max() < 1e-5
        assert np.abs(state.std(axis=0) - 1.0).max() < 1e-5
        assert np.array_equal(fitted.state(measured_rows[3]), state[3])
    assert min(fit_state(np.tile(HOME, (5, 1)))[1]) >= 0.002, "arms that never move are not blown up"


def test_anchor_poses_are_the_grasp_points() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        joints = rng.uniform(LOWER, UPPER, (2, 6))
        found = anchor_poses(np.concatenate((joints, [[0.01], [0.02]]), axis=1).reshape(14))
        assert found.shape == (2, 7)
        position, rotation = forward_tcp(joints)
        assert np.allclose(found[:, :3], position)
        for (w, x, y, z), matrix in zip(found[:, 3:], rotation, strict=True):
            assert w >= 0.0
            rebuilt = [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
            assert np.allclose(rebuilt, matrix, atol=1e-9)


# ---------------------------------------------------------------- continuity and limits


def row_by_row(raw: Float64, anchor: Float64) -> Float64:
    """The joints by the rule, one row and one arm at a time; for wrist centres within reach."""
    straight = -2.83  # of joint 3, see the kinematics' docstring
    middle = (LOWER + UPPER) / 2.0
    lower, upper = middle - math.pi, middle + math.pi
    lower[2], upper[2] = straight, straight + math.pi
    turn = JointLimits(tuple(lower), tuple(upper))
    position0, rotation0 = poses(anchor)
    q: Float64 = np.empty((len(raw), 2, 6))
    for arm in range(2):
        before = anchor.reshape(2, 7)[arm, :6]
        for k, row in enumerate(raw.reshape(-1, 2, 16)[:, arm]):
            x = row[3:6] / np.linalg.norm(row[3:6])
            y = row[6:9] - (x @ row[6:9]) * x
            y /= np.linalg.norm(y)
            rotation = rotation0[arm] @ np.stack((x, y, np.cross(x, y)), axis=1)
            solved, _ = inverse_tcp(position0[arm] + rotation0[arm] @ row[:3], rotation, before, turn)
            q[k, arm] = np.clip(solved, LOWER, UPPER)
            before = q[k, arm]
    return q


def test_each_row_is_the_solution_nearest_to_the_row_before() -> None:
    """Against solving one row after the other: all over the joint ranges, where branches meet, and with noise."""
    action, rng = made("end_effector", None), np.random.default_rng(0)
    low, high = LOWER.copy(), UPPER.copy()
    low[2], high[2] = -2.3, -0.3
    for seed in range(25):
        rows = trajectory(seed, low, high)
        raw = action.raw(rows, rows[0]) + rng.normal(0.0, 0.003, (ROWS, SLOTS)) * (seed % 2)
        found = action.decode(raw, rows[0]).reshape(ROWS, 2, 7)[..., :6]
        assert np.abs(found - row_by_row(raw, rows[0])).max() < 1e-6


def test_no_jump_to_another_branch_at_a_joint_limit() -> None:
    """The forearm turns beyond what joint 4 has: it stays where it can, instead of turning the wrist over.

    With the limits inside the search for the nearest solution, joints 4 and 6 jumped by 3 rad here.
    """
    rows = np.tile(np.array([0.0, 1.2, -1.0, 1.6, 0.8, 1.3, 0.03] * 2), (ROWS, 1))
    rows[:, [3, 10]] += np.concatenate((np.linspace(0.0, 0.5, 25), np.linspace(0.5, 0.0, 25)))[:, None]
    assert rows[:, 3].max() > UPPER[3]
    action = made("end_effector")
    found = action.decode(action.encode(rows, rows[0]), rows[0])
    assert np.abs(np.diff(found, axis=0)).max() < 0.05
    assert np.abs(found[[0, -1]] - rows[[0, -1]]).max() < 1e-3, "and they come back with it"
    position, rotation = poses(rows)
    other, reachable = inverse_tcp(position[24, 0], rotation[24, 0], rows[0, :6])
    assert reachable
    assert np.abs(other - rows[24, :6]).max() > 2.0, "there is another branch within limits"


@pytest.mark.parametrize("space", BOTH)
def test_limits_are_kept_whatever_comes(space: ActionSpaceName) -> None:
    action, rng = made(space), np.random.default_rng(0)
    for scale in (0.1, 1.0, 30.0, 1e6):
        rows = action.decode(scale * rng.normal(size=(ROWS, SLOTS)), HOME).reshape(ROWS, 2, 7)
        assert np.isfinite(rows).all()
        assert (rows[..., :6] >= LOWER).all()
        assert (rows[..., :6] <= UPPER).all()
        assert (rows[..., 6] >= SAFETY.gripper_min_m).all()
        assert (rows[..., 6] <= SAFETY.gripper_max_m).all()


@pytest.mark.parametrize("space", BOTH)
def test_a_rigs_own_limits_are_kept(space: ActionSpaceName) -> None:
    narrow = msgspec.structs.replace(SAFETY, position_max_rad=(0.1, 1.2, -0.5, 0.1, 1.1, 0.1), gripper_max_m=0.04)
    action = action_space(spec(space), narrow)
    rows = action.decode(np.random.default_rng(0).normal(size=(ROWS, SLOTS)), HOME).reshape(ROWS, 2, 7)
    assert (rows[..., :6] <= np.array(narrow.position_max_rad)).all()
    assert rows[..., 6].max() <= 0.04


def test_a_hand_out_of_reach_points_there_from_as_far_as_the_arm_goes() -> None:
    """The left hand goes 40 cm ahead and back: the arm straightens towards it, and bends again the same way."""
    action = made("end_effector", None)
    raw = np.tile(action.raw(HOME[None], HOME), (ROWS, 1))
    ahead = poses(HOME)[1][0].T @ np.array([1.0, 0.0, 0.0])  # the base's x, seen from the hand
    raw[:, :3] += 0.4 * np.sin(np.linspace(0.0, np.pi, ROWS))[:, None] * ahead
    found = action.decode(raw, HOME)
    assert np.abs(np.diff(found, axis=0)).max() < 0.5
    assert np.abs(found[-1] - HOME).max() < 1e-3
    assert np.abs(found[:, 7:] - HOME[7:]).max() < 1e-6, "the other arm is not concerned"
    ahead_m = poses(found)[0][:, 0, 0] - poses(HOME)[0][0, 0]
    assert 0.1 < ahead_m[25] < 0.39
    assert found[25, 2] == pytest.approx(-2.83, abs=0.01), "the elbow is straight"


def test_numbers_that_span_no_rotation_repeat_the_row_before() -> None:
    rows, action = trajectory(4), made("end_effector", None)
    x = action.raw(rows, rows[0])
    broken = x.copy()
    broken[0, 3:9] = 0.0  # the first row, left arm
    broken[20:25, 6:9] = broken[20:25, 3:6]  # two columns along one line
    found, whole = action.decode(broken, rows[0]), action.decode(x, rows[0])
    assert np.isfinite(found).all()
    assert np.allclose(found[0, :6], rows[0, :6], atol=1e-6)
    assert np.allclose(found[20:25, :6], whole[19, :6], atol=1e-6)
    assert np.allclose(found[:, 7:], whole[:, 7:], atol=1e-6)
    kept = [k for k in range(ROWS) if k not in (0, *range(20, 25))]
    assert np.allclose(found[kept], whole[kept], atol=1e-6)


@pytest.mark.parametrize("space", BOTH)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_passed_on_as_such(space: ActionSpaceName, value: float) -> None:
    """The safety gate must see it: a clamp would make a set-point of an infinity."""
    rows, action = trajectory(5), made(space)
    x = action.encode(rows, rows[0])
    broken = x.copy()
    for k, slot in ((0, 15), (7, int(np.flatnonzero(action.live)[0])), (ROWS - 1, 31)):
        broken[k, slot] = value
    found = action.decode(broken, rows[0])
    bad = [0, 7, ROWS - 1]
    assert np.isnan(found[bad]).all()
    kept = [k for k in range(ROWS) if k not in bad]
    assert np.allclose(found[kept], action.decode(x, rows[0])[kept], atol=1e-6)
    assert np.isnan(action.decode(np.full((ROWS, SLOTS), value), rows[0])).all()


@pytest.mark.parametrize("space", BOTH)
def test_a_chunk_of_one_row(space: ActionSpaceName) -> None:
    rows = trajectory(6)[:1]
    assert np.allclose(made(space).decode(made(space).encode(rows, rows[0]), rows[0]), rows, atol=1e-4)


def test_fifty_rows_of_both_arms_take_two_milliseconds() -> None:
    action = made("end_effector")
    taken = []
    for seed in range(60):
        rows = trajectory(seed)
        x = action.encode(rows, rows[0])
        start = time.thread_time()
        action.decode(x, rows[0])
        taken.append(time.thread_time() - start)
    assert statistics.median(taken) <= 0.002


def test_a_space_that_does_not_exist_is_refused() -> None:
    wrong = msgspec.structs.replace(spec("joint"), space="torque")
    with pytest.raises(ConfigError, match="joint, end_effector"):
        action_space(wrong)


@pytest.mark.parametrize("space", BOTH)
def test_leverage_says_how_far_the_hands_move(space: ActionSpaceName) -> None:
    """A small change of the normalised slots moves the decoded grasp points by what it says, in length."""
    found, rows = made(space), trajectory(5)
    leverage = found.leverage(rows, 5)
    assert leverage.shape == (ROWS // 5, 2, 3, SLOTS // 2)
    change = 1e-4 * np.random.default_rng(0).standard_normal((ROWS, SLOTS)) * found.live
    if space == "end_effector":  # its rotation turns the hand about the grasp point
        change[:, np.tile((np.arange(16) >= 3), 2)] = 0.0
    x = found.encode(rows, rows[0]).astype(np.float64)
    before, after = (state_slots(found.decode(x + step, rows[0], rows[0])) for step in (0.0 * change, change))
    moved = (after - before).reshape(ROWS, 2, 16)[4::5, :, POSITION]
    said = np.einsum("tais,tas->tai", leverage, change.reshape(ROWS, 2, 16)[4::5])
    np.testing.assert_allclose(np.linalg.norm(said, axis=-1), np.linalg.norm(moved, axis=-1), rtol=0.02, atol=2e-7)
