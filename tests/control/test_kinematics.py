"""The arm's kinematics against the vendor's own, and against themselves."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from piper_sdk.kinematics import C_PiperForwardKinematics

from syvla.config import ArmConfig
from syvla.control.kinematics import (
    CAPSULES,
    HOME_RAD,
    LIMITS,
    Base,
    JointLimits,
    arm_distance_m,
    forward,
    forward_tcp,
    hand_rotation,
    inverse,
    inverse_tcp,
    link_points,
)
from syvla.message import Float64

LEFT, RIGHT = Base(y_m=0.3), Base(y_m=-0.3)
LOWER, UPPER = np.array(LIMITS.lower_rad), np.array(LIMITS.upper_rad)


def _random_joints(count: int, seed: int = 0) -> Float64:
    return np.random.default_rng(seed).uniform(LOWER, UPPER, (count, 6))


joints = st.tuples(*(st.floats(low, high) for low, high in zip(*LIMITS, strict=True)))


def test_forward_agrees_with_the_vendors_own() -> None:
    vendor = C_PiperForwardKinematics(0x01)  # the variant whose joints 2 and 3 are offset by 2 degrees
    q = _random_joints(500)
    position, rotation = forward(q)
    expected = np.array([vendor.CalFK(row)[5] for row in q.tolist()])
    np.testing.assert_allclose(position, expected[:, :3] / 1000.0, atol=1e-9, rtol=0)
    roll, pitch, yaw = np.radians(expected[:, 3:]).T
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    euler = np.stack(  # Rz(yaw) Ry(pitch) Rx(roll)
        (
            np.stack((cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr), -1),
            np.stack((sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr), -1),
            np.stack((-sp, cp * sr, cp * cr), -1),
        ),
        axis=1,
    )
    np.testing.assert_allclose(rotation, euler, atol=1e-7)


def test_zero_pose_is_the_vendors() -> None:
    position, rotation = forward(np.zeros(6))
    np.testing.assert_allclose(position, [0.056128, 0.0, 0.213266], atol=1e-6)
    assert math.degrees(math.atan2(rotation[0, 2], rotation[2, 2])) == pytest.approx(85.0)


def test_one_row_is_computed_as_many_are() -> None:
    q = _random_joints(20)
    for one, many in zip((forward_tcp(row) for row in q), zip(*forward_tcp(q), strict=True), strict=True):
        np.testing.assert_allclose(one[0], many[0], atol=1e-15)
        np.testing.assert_allclose(one[1], many[1], atol=1e-15)


@settings(max_examples=300, deadline=None)
@given(joints)
@example((0.0, 1.0, 0.0, 1.745, 1.2e-7, 0.0))  # nearly straight: q4, at its limit, came out 6e-9 rad beyond
def test_inverse_finds_the_pose_within_limits(q: tuple[float, ...]) -> None:
    position, rotation = forward(q)
    found, reachable = inverse(position, rotation, HOME_RAD)
    assert reachable
    assert (found >= LOWER).all()
    assert (found <= UPPER).all()
    again_position, again_rotation = forward(found)
    np.testing.assert_allclose(again_position, position, atol=1e-6)
    np.testing.assert_allclose(again_rotation, rotation, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(joints)
def test_inverse_returns_the_reference_itself_when_it_is_a_solution(q: tuple[float, ...]) -> None:
    """Away from the straight wrist, where q4 and q6 trade against each other, and the stretched elbow."""
    position, rotation = forward(q)
    found, reachable = inverse(position, rotation, q)
    assert reachable
    if abs(q[4]) > 1e-3 and abs(q[2] + 1.3) < 1.0:
        np.testing.assert_allclose(found, q, atol=1e-5)


def test_a_straight_wrist_keeps_the_references_fourth_joint() -> None:
    q = (0.2, 1.4, -1.0, 0.7, 0.0, -0.4)
    found, reachable = inverse(*forward(q), (0.0, 1.4, -1.0, 0.3, 0.0, 0.0))
    assert reachable
    assert found[3] == pytest.approx(0.3)
    assert found[3] + found[5] == pytest.approx(0.3, abs=1e-6)


def test_a_straight_wrist_shares_a_turn_too_large_for_the_sixth_joint() -> None:
    """With q4 kept at the reference, q6 would have to be 2.5 rad, beyond its limit."""
    pose = forward((0.0, 1.4, -1.0, 1.5, 0.0, 1.0))
    found, reachable = inverse(*pose, HOME_RAD)
    assert reachable
    np.testing.assert_allclose(forward(found)[1], pose[1], atol=1e-6)


def test_inverse_keeps_to_the_limits_it_is_given() -> None:
    q = _random_joints(400, seed=1)
    narrow = JointLimits((-1.0, 0.5, -2.0, -1.0, -1.0, -1.0), (1.0, 2.5, -0.5, 1.0, 1.0, 1.0))
    found, reachable = inverse(*forward(q), HOME_RAD, narrow)
    assert 0 < reachable.sum() < len(q)
    assert (found[reachable] >= narrow.lower_rad).all()
    assert (found[reachable] <= narrow.upper_rad).all()
    inside = ((q >= narrow.lower_rad) & (q <= narrow.upper_rad)).all(axis=1)
    assert reachable[inside].all()


def test_what_cannot_be_reached_is_flagged_and_stays_at_the_reference() -> None:
    rotation = hand_rotation(math.pi / 2)
    positions = np.array([[0.3, 0.0, 0.02], [2.0, 0.0, 0.0], [0.3, 0.0, 0.6], [math.nan, 0.0, 0.0]])
    found, reachable = inverse_tcp(positions, rotation, HOME_RAD)
    assert reachable.tolist() == [True, False, False, False]
    np.testing.assert_array_equal(found[1:], np.broadcast_to(HOME_RAD, (3, 6)))


def test_hand_rotation_points_down_and_opens_along_the_yaw() -> None:
    yaw = np.linspace(-3.0, 3.0, 13)
    r = hand_rotation(yaw)
    np.testing.assert_allclose(r[:, :, 2], np.broadcast_to([0.0, 0.0, -1.0], (13, 3)), atol=1e-15)
    np.testing.assert_allclose(r[:, :, 1], np.stack((np.cos(yaw), np.sin(yaw), 0 * yaw), -1), atol=1e-15)
    np.testing.assert_allclose(np.linalg.det(r), 1.0)
    tilted = hand_rotation(0.3, tilt_rad=0.4, azimuth_rad=-1.0)
    np.testing.assert_allclose(
        tilted[:, 2], [math.sin(0.4) * math.cos(-1.0), math.sin(0.4) * math.sin(-1.0), -math.cos(0.4)]
    )


def test_home_looks_at_the_table_in_front_of_its_base() -> None:
    position, rotation = forward_tcp(HOME_RAD)
    np.testing.assert_allclose(position, [0.25, 0.0, 0.2], atol=0.005)
    assert rotation[2, 2] < -0.85
    assert rotation[0, 2] > 0
    assert arm_distance_m(HOME_RAD, HOME_RAD, LEFT, RIGHT) > 0.4


def test_base_goes_to_the_world_and_back() -> None:
    base = Base.of(ArmConfig(base_position_m=(0.1, -0.3, 0.02), base_yaw_rad=0.7))
    position, rotation = forward(_random_joints(5))
    world = base.to_world(position, rotation)
    np.testing.assert_allclose(world[0][:, 2], position[:, 2] + 0.02)
    back = base.from_world(*world)
    np.testing.assert_allclose(back[0], position, atol=1e-15)
    np.testing.assert_allclose(back[1], rotation, atol=1e-15)


# ---------------------------------------------------------------- the distance between the arms


def _sampled_distance_m(q_left: Float64, q_right: Float64) -> float:
    """The same by brute force over points of the capsules' axes."""
    fractions = np.linspace(0.0, 1.0, 41)[:, None]
    best = math.inf
    points = [link_points(q) + np.array(base[:3]) for q, base in ((q_left, LEFT), (q_right, RIGHT))]
    for one in CAPSULES:
        a = points[0][one.start] + fractions * (points[0][one.end] - points[0][one.start])
        for other in CAPSULES:
            b = points[1][other.start] + fractions * (points[1][other.end] - points[1][other.start])
            gap = np.linalg.norm(a[:, None] - b[None], axis=-1).min() - one.radius_m - other.radius_m
            best = min(best, float(gap))
    return best


def test_arm_distance_agrees_with_brute_force() -> None:
    left, right = _random_joints(60, seed=2), _random_joints(60, seed=3)
    for q_left, q_right in zip(left, right, strict=True):
        exact, sampled = arm_distance_m(q_left, q_right, LEFT, RIGHT), _sampled_distance_m(q_left, q_right)
        assert exact <= sampled + 1e-9
        assert exact >= sampled - 0.012  # half the spacing of the samples, twice


def test_arm_distance_is_symmetric_and_negative_where_the_arms_overlap() -> None:
    mirror = np.array([-1, 1, 1, -1, 1, -1])
    q = _random_joints(20, seed=4)
    for a, b in zip(q, q[::-1], strict=True):
        assert arm_distance_m(a, b, LEFT, RIGHT) == pytest.approx(arm_distance_m(b * mirror, a * mirror, LEFT, RIGHT))
    down = hand_rotation(math.pi / 2)
    both = [inverse_tcp(*base.from_world([0.25, 0.0, 0.05], down), HOME_RAD) for base in (LEFT, RIGHT)]
    assert all(reachable for _, reachable in both)
    assert arm_distance_m(both[0][0], both[1][0], LEFT, RIGHT) < 0


@settings(max_examples=200, deadline=None)
@given(*(st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 6) for _ in range(2)))
def test_arm_distance_answers_for_any_finite_joints(left: tuple[float, ...], right: tuple[float, ...]) -> None:
    distance_m = arm_distance_m(left, right, LEFT, RIGHT)
    assert math.isfinite(distance_m) == (max(map(abs, left + right)) <= 1e6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_arm_distance_of_joints_that_are_not_finite_is_nan(bad: float) -> None:
    assert math.isnan(arm_distance_m((bad, *HOME_RAD[1:]), HOME_RAD, LEFT, RIGHT))
    assert math.isnan(arm_distance_m(HOME_RAD, (*HOME_RAD[:5], bad), LEFT, RIGHT))
