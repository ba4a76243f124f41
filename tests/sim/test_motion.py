"""Waypoints to joint trajectories."""

import math

import numpy as np
import pytest

from syvla.control.kinematics import HOME_RAD, Base, forward_tcp, hand_rotation
from syvla.message import Float64
from syvla.sim.motion import ArmMotion, MotionLimits, quaternion_from_rotation, rotation_from_quaternion
from syvla.sim.waypoints import Waypoint

BASE = Base(0.0, 0.3, 0.0, 0.0)
LIMITS = MotionLimits()


def hand(x: float, y: float, tilt_rad: float, turn_rad: float = 0.0) -> tuple[float, float, float, float]:
    azimuth = math.atan2(y - BASE.y_m, x - BASE.x_m)
    return quaternion_from_rotation(hand_rotation(azimuth + math.pi / 2.0 + turn_rad, tilt_rad, azimuth))


def resting() -> ArmMotion:
    motion = ArmMotion(BASE)
    motion.anchor(np.array(HOME_RAD), 0.05, completed=0)
    return motion


def tcp(joints: Float64) -> Float64:
    position, rotation = forward_tcp(joints)
    return BASE.to_world(position, rotation)[0]


def random_plan(rng: np.random.Generator) -> ArmMotion:
    motion = resting()
    for number in range(1, 5):
        x, y, z, tilt, turn = rng.uniform([0.15, 0.0, 0.03, 0.25, -0.8], [0.35, 0.5, 0.12, 0.5, 0.8]).tolist()
        motion.append(
            Waypoint(
                "left",
                number,
                (x, y, z),
                hand(x, y, tilt, turn),
                gripper_width_m=float(rng.uniform(0.0, 0.07)),
                dwell_s=0.1,
                straight=bool(rng.random() < 0.5),
            ),
            0,
        )
    return motion


def test_plans_keep_the_limits_of_velocity_and_acceleration() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        motion = random_plan(rng)
        position, width = motion.evaluate(np.arange(-50_000_000, motion.end_ns + 50_000_000, 1_000_000))
        velocity = np.diff(position, axis=0) * 1e3
        assert np.abs(velocity).max() < 1.02 * LIMITS.velocity_rad_s
        assert np.abs(np.diff(velocity, axis=0) * 1e3).max() < 1.02 * LIMITS.acceleration_rad_s2
        assert np.abs(np.diff(width) * 1e3).max() < 1.02 * LIMITS.gripper_velocity_m_s


def test_each_waypoint_is_reached_and_held_for_its_dwell() -> None:
    motion = random_plan(np.random.default_rng(2))
    assert len(motion.segments) == 4
    for segment in motion.segments:
        held = np.array([segment.end_ns - 100_000_000 + 1, segment.end_ns - 1])
        position, width = motion.evaluate(held)
        for joints in position:
            assert np.allclose(tcp(joints), segment.waypoint.position_m, atol=1e-6)
        assert np.allclose(width, segment.waypoint.gripper_width_m)


def test_a_straight_waypoint_is_reached_along_a_line() -> None:
    motion = resting()
    assert motion.append(Waypoint("left", 1, (0.30, 0.35, 0.12), hand(0.30, 0.35, 0.3), 0.05), 0)
    assert motion.append(Waypoint("left", 2, (0.30, 0.35, 0.02), hand(0.30, 0.35, 0.0), 0.05, straight=True), 0)
    down = motion.segments[1]
    path = np.array([tcp(q) for q in motion.evaluate(np.arange(down.start_ns, down.end_ns, 10_000_000))[0]])
    assert np.abs(path[:, :2] - (0.30, 0.35)).max() < 3e-4
    assert (np.diff(path[:, 2]) < 1e-6).all()


def test_evaluation_is_a_function_of_time_only() -> None:
    """Chunks that overlap agree because their plan is asked at the same instants."""
    motion = random_plan(np.random.default_rng(3))
    times = np.arange(0, motion.end_ns, 7_000_000)
    whole, widths = motion.evaluate(times)
    for first in (0, 40, 90):
        part, part_widths = motion.evaluate(times[first : first + 30])
        assert np.array_equal(part, whole[first : first + 30])
        assert np.array_equal(part_widths, widths[first : first + 30])


def test_forgetting_the_past_does_not_change_the_future() -> None:
    motion = random_plan(np.random.default_rng(4))
    times = np.arange(motion.segments[2].start_ns, motion.end_ns + 100_000_000, 5_000_000)
    before, _ = motion.evaluate(times)
    motion.forget_before(int(times[0]))
    assert [s.waypoint.number for s in motion.segments] == [2, 3, 4]  # the second ends exactly then
    motion.forget_before(int(times[0]) + 1)
    assert motion.completed == 2
    assert motion.end_of(2) == 0
    assert motion.end_of(4) == motion.end_ns
    assert motion.end_of(5) is None
    assert np.array_equal(before, motion.evaluate(times)[0])


def test_a_slower_waypoint_takes_longer_in_proportion() -> None:
    durations = []
    for speed in (1.0, 0.5):
        motion = resting()
        motion.append(Waypoint("left", 1, (0.30, 0.4, 0.1), hand(0.30, 0.4, 0.3), 0.05, speed=speed), 0)
        durations.append(motion.end_ns)
    assert durations[1] == pytest.approx(2 * durations[0], rel=1e-6)


def test_out_of_reach_is_not_planned() -> None:
    motion = resting()
    assert not motion.append(Waypoint("left", 1, (1.2, 0.3, 0.1), hand(1.2, 0.3, 0.3), 0.05), 0)
    assert not motion.append(Waypoint("left", 1, (1.2, 0.3, 0.1), hand(1.2, 0.3, 0.3), 0.05, straight=True), 0)
    assert motion.segments == []


def test_quaternions_and_rotations_agree() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        turn = rng.normal(size=4)
        turn /= np.linalg.norm(turn)
        back = quaternion_from_rotation(rotation_from_quaternion(turn.tolist()))
        assert abs(np.dot(back, turn)) == pytest.approx(1.0)
