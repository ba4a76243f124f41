"""The reference expert alone: how it moves arms along an intent's waypoints."""

import numpy as np
import pytest

from syvla.control.kinematics import HOME_RAD, Base, forward_tcp
from syvla.message import Float64
from syvla.messages import ActionChunk, Intent
from syvla.runs import load_rig
from syvla.sim.motion import quaternion_from_rotation
from syvla.sim.reference import OFF_PLAN_RAD, ReferenceExpert
from syvla.sim.waypoints import Waypoint, encode

RIG = load_rig("twin")
_BASES = (Base.of(RIG.left), Base.of(RIG.right))


def intent_of(waypoints: list[Waypoint], intent_id: int = 0, task_id: int = 0, plan: int = 1) -> Intent:
    return Intent(
        intent_id=intent_id,
        task_id=task_id,
        observation_ns=0,
        chain_of_thought="",
        feature_query_states=encode(waypoints, plan),
        model_id="test",
    )


def home_state() -> Float64:
    return np.array([*HOME_RAD, 0.05, *HOME_RAD, 0.05])


def near_home(number: int, dz_m: float, arm: str = "left", after: int = 0) -> Waypoint:
    base = _BASES[0] if arm == "left" else _BASES[1]
    position, rotation = base.to_world(*forward_tcp(HOME_RAD))
    x, y, z = position.tolist()
    quaternion = quaternion_from_rotation(rotation)
    return Waypoint("left" if arm == "left" else "right", number, (x, y, z + dz_m), quaternion, 0.05, after=after)


def planned(chunk: ActionChunk, row: int) -> Float64:
    both = chunk.position_rad[row].astype(np.float64)
    width = chunk.gripper_width_m[row].astype(np.float64)
    return np.concatenate((both[:6], width[:1], both[6:], width[1:]))


def test_without_waypoints_the_arms_stay() -> None:
    chunk = ReferenceExpert(RIG).act(intent_of([]), 10**9, home_state(), None, 0, 0)
    assert chunk.position_rad.shape == (50, 12)
    assert np.allclose(chunk.position_rad, np.tile(HOME_RAD, 2))
    assert np.allclose(chunk.gripper_width_m, 0.05)


def test_successive_chunks_agree_where_they_overlap() -> None:
    expert, intent = ReferenceExpert(RIG), intent_of([near_home(1, -0.08), near_home(2, 0.0), near_home(3, -0.05)])
    first = expert.act(intent, 0, home_state(), None, 0, 0)
    second = expert.act(intent, 3 * first.period_ns, planned(first, 3), first, 1, 1)
    assert np.ptp(first.position_rad, axis=0).max() > 0.1
    assert np.array_equal(second.position_rad[:-3], first.position_rad[3:])


def test_a_changed_waypoint_counts_unless_it_has_started() -> None:
    expert = ReferenceExpert(RIG)
    first = expert.act(intent_of([near_home(1, -0.08), near_home(2, 0.0)]), 0, home_state(), None, 0, 0)
    changed = intent_of([near_home(1, 0.05), near_home(2, -0.04)], intent_id=1)
    second = expert.act(changed, 3 * first.period_ns, planned(first, 3), first, 1, 1)
    start, _ = forward_tcp(HOME_RAD)
    heights = np.array([forward_tcp(row[:6])[0][2] for row in second.position_rad]) - start[2]
    assert heights.min() == pytest.approx(-0.08, abs=1e-3)
    assert heights[-1] == pytest.approx(-0.04, abs=1e-3)


def test_a_waypoint_waits_for_the_other_arms() -> None:
    expert = ReferenceExpert(RIG)
    rows = [near_home(1, -0.05, after=2), near_home(1, -0.05, "right"), near_home(2, 0.0, "right")]
    chunk = expert.act(intent_of(rows), 0, home_state(), None, 0, 0)
    moving = np.abs(np.diff(chunk.position_rad, axis=0)) > 1e-6
    left, right = moving[:, :6].any(axis=1), moving[:, 6:].any(axis=1)
    assert left.any()
    assert right.any()
    assert np.flatnonzero(left)[0] >= np.flatnonzero(right)[-1]


def test_an_arm_that_left_the_plan_is_planned_from_where_it_is() -> None:
    expert, intent = ReferenceExpert(RIG), intent_of([near_home(1, -0.08), near_home(2, -0.02)])
    first = expert.act(intent, 0, home_state(), None, 0, 0)
    pushed = planned(first, 6)
    pushed[0] += 2.0 * OFF_PLAN_RAD
    second = expert.act(intent, 6 * first.period_ns, pushed, first, 1, 1)
    assert np.allclose(second.position_rad[0, :6], pushed[:6], atol=1e-6)
    lowest = min(forward_tcp(row[:6])[0][2] for row in second.position_rad)
    assert lowest == pytest.approx(forward_tcp(HOME_RAD)[0][2] - 0.08, abs=1e-3)  # the first waypoint is not skipped


def test_another_task_starts_from_the_measured_pose() -> None:
    expert = ReferenceExpert(RIG)
    first = expert.act(intent_of([near_home(1, -0.08), near_home(2, 0.0)]), 0, home_state(), None, 0, 0)
    measured = planned(first, 9)
    second = expert.act(intent_of([], intent_id=1, task_id=1), 9 * first.period_ns, measured, first, 1, 1)
    assert np.allclose(second.position_rad, np.concatenate((measured[:6], measured[7:13])), atol=1e-6)


def test_a_waypoint_out_of_reach_stops_its_arm_only() -> None:
    expert = ReferenceExpert(RIG)
    rows = [near_home(1, 1.0), near_home(2, -0.05), near_home(1, -0.05, "right")]
    chunk = expert.act(intent_of(rows), 0, home_state(), None, 0, 0)
    assert np.ptp(chunk.position_rad[:, :6], axis=0).max() == 0.0
    assert np.ptp(chunk.position_rad[:, 6:], axis=0).max() > 0.05
