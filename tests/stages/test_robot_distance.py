"""The two arms keep apart.

Each test of a rule fails when the rule is taken out.
"""

from math import nan

import msgspec
import numpy as np
import pytest
from robot_bench import HOME, LIMITS, Bench, assert_within_limits, towards_each_other

from syvla.message import Float64
from syvla.messages import (
    Mode,
    TeleopCommand,
)

# ---------------------------------------------------------------- the distance between the arms


def apart(speed: float) -> Float64:
    return np.array([speed, 0, 0, 0, 0, 0, -speed, 0, 0, 0, 0, 0])


def test_close_arms_slow_down_within_20_ms_at_the_acceleration_limit() -> None:
    bench = Bench().move(velocity=0.2)
    rows = np.tile(bench.pose, (50, 1))
    rows[10:, 0] = 2.0
    bench.tick(bench.chunk(position_rad=rows))
    bench.run(0.55)
    assert bench.speed() > 1.5
    bench.distance = lambda left, right: 0.049
    bench.run(0.02)
    assert "arm_distance_slow" in bench.codes
    bench.run(0.1)
    assert bench.speed() == pytest.approx(0.2 * 2.0, rel=1e-3)
    assert bench.mode() is Mode.ENABLED
    assert_within_limits(bench.commands)


@pytest.mark.parametrize("distance_m", [0.019, -0.01, nan])
def test_arms_too_close_hold_within_20_ms(distance_m: float) -> None:
    bench = Bench().move()
    bench.distance = lambda left, right: distance_m
    bench.run(0.02)
    assert bench.mode() is Mode.HOLD
    bench.assert_holds("arm_distance_hold")


def test_arms_that_approach_fast_stop_before_the_limit_and_not_beyond_it() -> None:
    """It is where the arms would stand if they braked now that must not be too close."""
    safety = msgspec.structs.replace(LIMITS, arm_distance_slow_factor=1.0, arm_distance_every_ticks=1)
    bench = Bench(distance=lambda left, right: 0.12 + 0.5 * float(left[0] - right[0]), safety=safety)
    bench.enable()
    bench.tick(bench.chunk(apart(-0.8)))
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    bench.assert_holds("arm_distance_hold")
    assert 0.014 <= bench.distance(bench.pose[:6], bench.pose[6:]) <= 0.02


def test_a_distance_that_is_not_a_number_where_the_arms_are_heading_holds() -> None:
    safety = msgspec.structs.replace(LIMITS, arm_distance_every_ticks=1)
    bench = Bench(distance=lambda left, right: 0.06 if left[0] < 0.2 else nan, safety=safety)
    bench.enable()
    bench.tick(bench.chunk(1.0))
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    assert bench.arms[0].position[0] < 0.19
    bench.assert_holds("arm_distance_hold")


def test_an_arm_that_is_pushed_too_close_holds_although_its_set_point_is_far() -> None:
    bench = Bench(distance=towards_each_other).enable()
    arm = bench.arms[0]
    arm.command = lambda position_rad, gripper_width_m: None  # type: ignore[method-assign]
    arm.position = HOME[:6] - np.array([0.2, 0, 0, 0, 0, 0])
    bench.run(0.02)
    assert bench.mode() is Mode.HOLD
    assert "arm_distance_hold" in bench.codes


def test_a_person_may_not_bring_arms_closer_that_are_held_too_close() -> None:
    bench = Bench(distance=lambda left, right: towards_each_other(left, right) - 0.02)
    bench.enable()
    bench.run(0.05)
    bench.tick(bench.operator("resume"))
    closer = TeleopCommand(
        sampled_ns=bench.now_ns + 1,
        deadman=True,
        joint_velocity_rad_s=apart(-0.4),
        gripper_velocity_m_s=np.zeros(2),
        mode_request="override",
    )
    bench.tick(closer)
    bench.run(0.1)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) >= 0.01 - 3e-4
    assert_within_limits(bench.commands)


def test_arms_held_too_close_may_move_apart_and_not_closer() -> None:
    bench = Bench(distance=lambda left, right: towards_each_other(left, right) - 0.02)
    bench.enable()
    bench.run(0.05)
    assert "arm_distance_hold" in bench.codes
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED
    bench.run(0.1)
    assert bench.mode() is Mode.ENABLED  # standing is allowed
    bench.tick(bench.chunk(apart(-0.05)))
    bench.run(0.4)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) >= 0.01 - 3e-4
    bench.tick(bench.operator("resume"))
    for _ in range(40):
        bench.tick(bench.chunk(apart(0.2)))
        bench.run(0.05)
    assert bench.mode() is Mode.ENABLED
    assert bench.distance(bench.pose[:6], bench.pose[6:]) > 0.02
    # once apart, coming close again holds again
    for _ in range(40):
        bench.tick(bench.chunk(apart(-0.2)))
        bench.run(0.05)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) < 0.022
    assert_within_limits(bench.commands)
