"""Jogging: the hands go where the sticks point, smoothly, within every limit, and never into each other.

The arms follow as the gate lets them: each step is integrated by its limiter, and seen one tick later.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syvla.config import SafetyLimits
from syvla.control.kinematics import HOME_RAD, Base, arm_distance_m, forward_tcp
from syvla.control.limiter import Limiter
from syvla.message import Float64
from syvla.messages import ARMS
from syvla.protocols import Jog
from syvla.teleop.jog import ACCELERATION, LEAST_DISTANCE_M, Jogger
from syvla.teleop.model import capsules, two_arms

LIMITS = SafetyLimits()
LEAST, MOST = np.array(LIMITS.position_min_rad * 2), np.array(LIMITS.position_max_rad * 2)
SPEED, ACCELERATIONS = np.array(LIMITS.velocity_rad_s * 2), np.array(LIMITS.acceleration_rad_s2 * 2)
BASES = (Base(0.0, 0.30), Base(0.0, -0.30))
HOME = np.array(HOME_RAD * 2)
DT = 0.005
STILL = (0.0,) * 6


class Arms:
    """Two arms that are jogged: what was asked of them (N, 14), and where they were (N + 1, 12)."""

    def __init__(self, start: Float64 = HOME, bases: tuple[Base, Base] = BASES) -> None:
        self.bases = bases
        self.jogger = Jogger(*bases, LIMITS, round(DT * 1e9))
        self.limiter = Limiter(LIMITS)
        for arm in range(2):
            self.limiter.anchor(arm, start[6 * arm : 6 * arm + 6].tolist(), 0.03)
        self.asked: list[Float64] = []
        self.poses = [np.array(self.limiter.position)]

    def jog(
        self, seconds: float, left: Sequence[float] = STILL, right: Sequence[float] = STILL, in_hand: bool = False
    ) -> "Arms":
        """Push the sticks for a while."""
        for _ in range(round(seconds / DT)):
            seen = self.poses[max(0, len(self.poses) - 2)]
            wanted = self.jogger.velocity(0, seen, Jog((left, right), (0.0, 0.0), in_hand))
            self.asked.append(wanted)
            self.limiter.move(wanted.tolist(), DT)
            self.poses.append(np.array(self.limiter.position))
        return self

    def hand(self, k: int, i: int = -1) -> tuple[Float64, Float64]:
        """Where a hand was in its base's frame: position and rotation."""
        return forward_tcp(self.poses[i][6 * k : 6 * k + 6])

    def distances(self) -> list[float]:
        """Between the arms, all along."""
        return [arm_distance_m(q[:6], q[6:12], *self.bases) for q in self.poses[::4]]

    def assert_smooth(self) -> None:
        """Nothing asked was beyond a limit, nor changed faster than the joints can."""
        asked = np.array(self.asked)[:, :12]
        assert np.isfinite(asked).all()
        assert (np.abs(asked) <= SPEED).all()
        change = np.diff(asked, axis=0, prepend=np.zeros((1, 12)))
        assert (np.abs(change) <= ACCELERATIONS * DT + 1e-9).all()
        poses = np.array(self.poses)[:, :12]
        assert ((poses >= LEAST) & (poses <= MOST)).all()


def turned(before: Float64, after: Float64) -> Float64:
    """The rotation vector from one rotation to another, for less than half a turn."""
    r = after @ before.T
    axis = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(r) - 1) / 2
    return np.asarray(axis / max(2 * sine, 1e-12) * np.arctan2(sine, cosine))


# ---------------------------------------------------------------- the model


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12))
def test_the_model_is_the_kinematics(shares: list[float]) -> None:
    q = LEAST + np.array(shares) * (MOST - LEAST)
    bases = (Base(0.1, 0.3, 0.05, 0.4), Base(-0.1, -0.3, 0.0, -0.2))
    model = two_arms(*bases, LIMITS)
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_kinematics(model, data)
    for k, (arm, base) in enumerate(zip(ARMS, bases, strict=True)):
        position, rotation = base.to_world(*forward_tcp(q[6 * k : 6 * k + 6]))
        assert data.site(f"{arm}/tcp").xpos == pytest.approx(position, abs=1e-12)
        assert data.site(f"{arm}/tcp").xmat.reshape(3, 3) == pytest.approx(rotation, abs=1e-12)
    pairs = [(model.geom(a).id, model.geom(b).id) for a in capsules("left") for b in capsules("right")]
    near = min(mujoco.mj_geomDistance(model, data, a, b, 5.0, None) for a, b in pairs)
    if near > 0.0:  # where they overlap, MuJoCo measures something else
        assert near == pytest.approx(arm_distance_m(q[:6], q[6:], *bases), abs=1e-9)


# ---------------------------------------------------------------- directions


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("k", [0, 1])
def test_a_hand_moves_straight_and_does_not_turn(k: int, part: int, sign: float) -> None:
    start = HOME.copy()
    start[[4, 10]] = 0.6  # away from a limit
    arms = Arms(start)
    twist = [0.0] * 6
    twist[part] = 0.1 * sign
    arms.jog(0.8, *((twist, STILL) if k == 0 else (STILL, twist)))
    (before, rotation), (after, now) = arms.hand(k, 0), arms.hand(k)
    moved = after - before
    assert moved[part] * sign == pytest.approx(0.1 * 0.8, abs=0.008), "but for the time to come up to speed"
    assert np.abs(np.delete(moved, part)).max() < 0.002
    assert np.linalg.norm(turned(rotation, now)) < 0.02
    arms.assert_smooth()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("part", range(3))
def test_a_hand_turns_about_its_grasp_point(part: int, sign: float) -> None:
    start = HOME.copy()
    start[[4, 10]] = 0.8
    arms = Arms(start)
    twist = [0.0] * 6
    twist[3 + part] = 0.5 * sign
    arms.jog(0.6, left=twist)
    (before, rotation), (after, now) = arms.hand(0, 0), arms.hand(0)
    angle = turned(rotation, now)
    assert angle[part] * sign == pytest.approx(0.27, abs=0.02)
    assert np.abs(np.delete(angle, part)).max() < 0.03
    assert np.abs(after - before).max() < 0.005


def test_in_the_hands_axes_forward_is_where_its_fingers_point() -> None:
    arms = Arms()
    (before, rotation) = arms.hand(0)
    arms.jog(0.5, left=(0.1, 0, 0, 0, 0, 0), in_hand=True)
    moved = arms.hand(0)[0] - before
    assert moved / np.linalg.norm(moved) == pytest.approx(rotation[:, 2], abs=0.02)
    arms = Arms(bases=(Base(0.0, 0.3, 0.0, 1.0), BASES[1]))
    (before, rotation) = arms.hand(0)
    arms.jog(0.5, left=(0, 0.1, 0, 0, 0, 0), in_hand=True)
    moved = arms.hand(0)[0] - before
    assert moved / np.linalg.norm(moved) == pytest.approx(rotation[:, 1], abs=0.02)


def test_the_zero_pose_names_the_hands_axes_as_the_bases() -> None:
    """But for the 5 degrees by which the hand does not point straight ahead there."""
    jogger = Arms(np.zeros(12)).jogger
    jogger._configuration.update(np.zeros(12))
    for part in range(6):
        twist = [0.0] * 6
        twist[part] = 1.0
        in_base, in_hand = (jogger._in_world(0, Jog((twist, STILL), (0.0, 0.0), way)) for way in (False, True))
        assert in_hand == pytest.approx(in_base, abs=0.1)


def test_both_hands_move_at_once_and_a_base_may_be_turned() -> None:
    arms = Arms(bases=(Base(0.0, 0.5, 0.0, 0.7), Base(0.0, -0.5, 0.0, -0.4)))
    begun = [arms.hand(k)[0] for k in range(2)]
    arms.jog(0.5, left=(0.1, 0, 0, 0, 0, 0), right=(0, 0.1, 0, 0, 0, 0))
    moved = [arms.hand(k)[0] - begun[k] for k in range(2)]
    assert moved[0] == pytest.approx([0.047, 0, 0], abs=0.006)
    assert moved[1] == pytest.approx([0, 0.047, 0], abs=0.006)


# ---------------------------------------------------------------- what stays as it is


def test_an_arm_that_is_not_jogged_is_asked_for_nothing_whatever_the_other_does() -> None:
    arms = Arms().jog(3.0, left=(0, -0.25, 0, 0, 0, 0))
    assert not np.array(arms.asked)[:, 6:12].any()
    assert min(arms.distances()) < LEAST_DISTANCE_M + 0.01, "it went as near as it may"


def test_let_go_the_hands_come_to_a_stop_and_stay_there() -> None:
    arms = Arms().jog(0.5, left=(0.25, 0, 0, 0, 0, 0))
    speed = float(np.abs(arms.asked[-1]).max())
    arms.jog(2 * 0.25 / ACCELERATION[0])
    assert speed > 0.3
    rest = arms.poses[-1].tolist()
    arms.jog(1.0)
    assert not arms.asked[-1].any()
    assert arms.poses[-1].tolist() == rest
    arms.assert_smooth()


def test_after_a_rest_a_jog_begins_at_standstill() -> None:
    arms = Arms().jog(0.5, left=(0.25, 0, 0, 0, 0, 0))
    arms.jogger.rest(0)
    arms.limiter.brake(1.0)
    first = arms.jogger.velocity(0, arms.poses[-1], Jog(((0.25, 0, 0, 0, 0, 0), STILL), (0.0, 0.0), False))
    assert np.abs(first).max() < 0.1


# ---------------------------------------------------------------- limits


FURTHEST: dict[str, Sequence[float]] = {
    "out": (0.25, 0, 0, 0, 0, 0),
    "out and up": (0.2, 0, 0.15, 0, 0, 0),
    "in": (-0.25, 0, 0, 0, 0, 0),
    "up": (0, 0, 0.25, 0, 0, 0),
    "down": (0, 0, -0.25, 0, 0, 0),
    "aside": (0, 0.25, 0, 0, 0, 0),
    "roll": (0, 0, 0, 1.2, 0, 0),
    "pitch": (0, 0, 0, 0, 1.2, 0),
    "back": (0, 0, 0, 0, -1.2, 0),
    "yaw": (0, 0, 0, 0, 0, 1.2),
    "yaw back": (0, 0, 0, 0, 0, -1.2),
}


@pytest.mark.parametrize("way", FURTHEST)
def test_as_far_as_it_goes_it_stays_smooth(way: str) -> None:
    """Through outstretched arms, straight wrists and joint limits, and back."""
    twist = FURTHEST[way]
    arms = Arms().jog(2.5, left=twist).jog(1.5, left=[-v for v in twist])
    arms.assert_smooth()


def test_no_hand_is_faster_than_a_full_stick_also_while_it_comes_back_to_its_line() -> None:
    """ISO 10218-1: 250 mm/s. Here a hand is held up by the other arm, then has its way again."""
    arms = Arms().jog(1.5, left=(0, -0.25, 0, 0, 0, 0)).jog(0.5, left=(0.2, 0.15, 0, 0, 0, 0))
    hands = np.array([arms.hand(0, i)[0] for i in range(len(arms.poses))])
    assert np.linalg.norm(np.diff(hands, axis=0), axis=1).max() / DT < 0.26


def test_a_hand_that_cannot_follow_turns_round_at_once() -> None:
    """What it could not do is not made up for: the way back begins where it is."""
    arms = Arms().jog(3.0, left=(0.25, 0, 0, 0, 0, 0))
    before = arms.hand(0)[0]
    arms.jog(0.6, left=(-0.25, 0, 0, 0, 0, 0))
    assert arms.hand(0)[0][0] < before[0] - 0.02


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((0, -0.25, 0, 0, 0, 0), (0, 0.25, 0, 0, 0, 0)),
        ((0.1, -0.22, 0, 0, 0, 0), (0.1, 0.22, 0, 0, 0, 0)),
        ((0, -0.1, -0.05, 0, 0, 0), (0, 0.1, -0.05, 0, 0, 0)),
        ((0, -0.25, 0, 0, 0, 0), STILL),
        ((0, 0, 0, 0, 0, -1.2), (0, 0.25, 0, 0, 0, 0)),
    ],
)
def test_the_arms_come_to_a_stop_before_each_other(left: Sequence[float], right: Sequence[float]) -> None:
    arms = Arms().jog(2.5, left=left, right=right)
    assert min(arms.distances()) > LEAST_DISTANCE_M - 0.003
    assert LIMITS.arm_distance_hold_m < LEAST_DISTANCE_M - 0.003
    arms.assert_smooth()


def test_arms_that_are_too_near_may_be_moved_apart_and_not_together() -> None:
    bases = (Base(0.0, 0.0775), Base(0.0, -0.0775))
    near = arm_distance_m(HOME[:6], HOME[6:], *bases)
    assert 0.0 < near < LEAST_DISTANCE_M
    arms = Arms(bases=bases).jog(0.6, left=(0, 0.1, 0, 0, 0, 0))
    assert max(arms.distances()) > near + 0.02
    assert min(arms.distances()) > near - 0.001
    arms = Arms(bases=bases).jog(0.6, left=(0, -0.1, 0, 0, 0, 0))
    assert min(arms.distances()) > near - 0.003


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_sticks_do_it_stays_smooth_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arms = Arms()

    def twist() -> list[float]:
        return [*rng.uniform(-0.25, 0.25, 3), *rng.uniform(-1.2, 1.2, 3)]

    for _ in range(6):
        arms.jog(0.3, left=twist(), right=twist(), in_hand=bool(rng.integers(2)))
    arms.assert_smooth()
    assert min(arms.distances()) > LIMITS.arm_distance_hold_m
