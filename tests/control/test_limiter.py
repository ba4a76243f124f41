"""The limiter: no sequence of requests, ticks or speed scales gets a set-point past a limit."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syvla.config import SafetyLimits
from syvla.control.limiter import Limiter
from syvla.errors import ConfigError

LIMITS = SafetyLimits()
LEAST, MOST = LIMITS.position_min_rad * 2, LIMITS.position_max_rad * 2
SPEED, ACCELERATION = LIMITS.velocity_rad_s * 2, LIMITS.acceleration_rad_s2 * 2
DT = 0.005
ROUNDING = 1e-7  # velocities are differences of positions over a tick

start_poses = st.tuples(*(st.floats(lo, hi) for lo, hi in zip(LEAST, MOST, strict=True)))
ticks = st.floats(1e-4, 3 * DT)
huge = st.floats(-1e38, 1e38) | st.floats(-4.0, 4.0) | st.sampled_from((*LEAST, *MOST, 0.0))
requests = st.one_of(
    st.tuples(st.just("follow"), st.lists(huge, min_size=14, max_size=14)),
    st.tuples(st.just("move"), st.lists(huge, min_size=14, max_size=14)),
    st.tuples(st.just("brake"), st.just([0.0] * 14)),
)
programs = st.lists(st.tuples(requests, ticks, st.sampled_from((1.0, 1.0, 0.2, 0.25)), st.integers(1, 40)), max_size=8)


def advance(limiter: Limiter, kind: str, values: list[float], dt_s: float, scale: float) -> None:
    if kind == "follow":
        limiter.follow(values, dt_s, scale)
    elif kind == "move":
        limiter.move(values, dt_s, scale)
    else:
        limiter.brake(dt_s)


def standing_at(pose: tuple[float, ...], limits: SafetyLimits = LIMITS) -> Limiter:
    limiter = Limiter(limits)
    limiter.anchor(0, pose[:6], 0.03)
    limiter.anchor(1, pose[6:12], 0.03)
    return limiter


@given(start_poses, programs)
def test_every_command_is_within_position_velocity_and_acceleration_limits(
    pose: tuple[float, ...], program: list[tuple[tuple[str, list[float]], float, float, int]]
) -> None:
    limiter = standing_at(pose)
    before, speed_before = list(limiter.position), [0.0] * 12
    for (kind, values), dt_s, scale, repeats in program:
        for _ in range(repeats):
            advance(limiter, kind, values, dt_s, scale)
            speed = [(q - p) / dt_s for q, p in zip(limiter.position[:12], before, strict=False)]
            for j in range(12):
                assert LEAST[j] <= limiter.position[j] <= MOST[j]
                assert abs(speed[j]) <= SPEED[j] + ROUNDING
                assert abs(speed[j] - speed_before[j]) <= ACCELERATION[j] * dt_s + ROUNDING
            for j in (12, 13):
                assert 0.0 <= limiter.position[j] <= 0.07
                assert abs(limiter.position[j] - before[j]) <= 0.25 * dt_s + 1e-12
            before, speed_before = list(limiter.position), speed


@given(start_poses, st.lists(st.sampled_from((-1e9, 1e9)), min_size=14, max_size=14), ticks, st.integers(1, 300))
def test_it_can_always_stop_within_150_ms_and_where_it_said(
    pose: tuple[float, ...], target: list[float], dt_s: float, repeats: int
) -> None:
    limiter = standing_at(pose)
    for _ in range(repeats):
        limiter.follow(target, dt_s)
    promised, begun = limiter.stop_pose(), list(limiter.position)
    ticks_used = 0
    while not limiter.standing:
        limiter.brake(DT)
        ticks_used += 1
    assert ticks_used * DT <= 0.150
    for q, least, most in zip(limiter.position, LEAST, MOST, strict=False):
        assert least <= q <= most
    # ticks only shorten the way: the arms stand between where braking began and the pose that was promised
    for q, p, b in zip(limiter.position[:12], promised, begun, strict=False):
        assert min(p, b) - 1e-9 <= q <= max(p, b) + 1e-9


def test_a_target_within_the_limits_is_followed_without_lag() -> None:
    limiter = standing_at((0.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    start = list(limiter.position)
    for tick in range(400):
        t = tick * DT
        target = [q + 0.2 * t * t / (1 + t) for q in start[:12]] + [0.03 + 0.005 * t] * 2
        limiter.follow(target, DT)
        assert limiter.position == pytest.approx(target, abs=1e-9)
        assert limiter.limited == 0


def test_a_distant_target_is_reached_at_full_speed_without_overshoot() -> None:
    limiter = standing_at((0.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    target = [1.0, 2.0, -2.0, -1.0, 1.0, 1.0] * 2 + [0.07, 0.0]
    path = [list(limiter.position)]
    for _ in range(200):
        limiter.follow(target, DT)
        path.append(list(limiter.position))
    assert limiter.position == pytest.approx(target, abs=1e-4)
    for j in range(12):
        towards = 1 if target[j] > path[0][j] else -1
        assert all((b[j] - a[j]) * towards >= -1e-9 for a, b in pairwise(path))
        assert max(abs(b[j] - a[j]) for a, b in pairwise(path)) == pytest.approx(SPEED[j] * DT, rel=1e-6)


def test_slowing_down_never_breaks_the_acceleration_limit_and_gets_there() -> None:
    limiter = standing_at((-2.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    velocity = [2.0] + [0.0] * 13
    for _ in range(40):
        limiter.move(velocity, DT)
    assert limiter.velocity[0] == pytest.approx(2.0)
    limiter.move(velocity, DT, 0.25)
    assert limiter.velocity[0] == pytest.approx(2.0 - 20.0 * DT)
    for _ in range(40):
        limiter.move(velocity, DT, 0.25)
    assert limiter.velocity[0] == pytest.approx(0.5)


def test_limited_names_the_joints_that_could_not_follow() -> None:
    limiter = standing_at((0.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    target = list(limiter.position)
    target[3], target[7], target[13] = 9.0, -9.0, 1.0
    limiter.follow(target, DT)
    assert limiter.limited == 1 << 3 | 1 << 7 | 1 << 13
    assert limiter.beyond
    target[3], target[7] = 1.7, 3.1
    limiter.follow(target, DT)
    assert not limiter.beyond
    limiter.brake(DT)
    assert limiter.limited == 0


def test_after_braking_the_target_of_before_is_forgotten() -> None:
    limiter = standing_at((0.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    for _ in range(20):
        limiter.follow([q + 1.0 for q in limiter.position], DT)
    while not limiter.standing:
        limiter.brake(DT)
    rest = list(limiter.position)
    limiter.follow(rest, DT)
    assert limiter.position == rest


def test_anchoring_outside_the_limits_stands_at_the_nearest_pose_inside() -> None:
    limiter = Limiter(LIMITS)
    limiter.anchor(1, (0.0, -0.01, 0.02, 0.0, 0.0, 0.0), 0.09)
    assert limiter.position[7:9] == [0.0, 0.0]
    assert limiter.position[13] == 0.07
    assert limiter.outside([0.0, -0.01, 0.02, *[0.0] * 9]) == pytest.approx(0.02)
    assert limiter.outside([0.0] * 12) == 0.0


def test_anchoring_one_arm_in_motion_stops_it_and_leaves_the_other() -> None:
    limiter = standing_at((0.0, 1.0, -1.0, 0.0, 0.0, 0.0) * 2)
    for _ in range(20):
        limiter.move([0.5] * 12 + [0.0] * 2, DT)
    limiter.anchor(0, (0.1, 1.0, -1.0, 0.0, 0.0, 0.0), 0.03)
    assert limiter.velocity == pytest.approx([0.0] * 6 + [0.5] * 6)
    assert not limiter.standing
    limiter.anchor(1, (0.1, 1.0, -1.0, 0.0, 0.0, 0.0), 0.03)
    assert limiter.standing


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"position_max_rad": (-3.0, *LIMITS.position_max_rad[1:])}, "position_max_rad of joint 1"),
        ({"velocity_rad_s": (0.0, *LIMITS.velocity_rad_s[1:])}, "velocity_rad_s of joint 1"),
        ({"velocity_rad_s": (float("nan"), *LIMITS.velocity_rad_s[1:])}, "velocity_rad_s of joint 1"),
        ({"acceleration_rad_s2": (*LIMITS.acceleration_rad_s2[:5], float("inf"))}, "acceleration_rad_s2 of joint 6"),
        ({"acceleration_rad_s2": (10.0, *LIMITS.acceleration_rad_s2[1:])}, "stop 2.0 rad/s within 0.15 s"),
        ({"gripper_min_m": 0.08}, "gripper_max_m"),
        ({"gripper_velocity_m_s": 0.0}, "gripper_velocity_m_s"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Limiter(msgspec.structs.replace(LIMITS, **change))
