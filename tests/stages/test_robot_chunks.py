"""What becomes of a chunk: refused, dropped, spliced or executed.

Each test of a rule fails when the rule is taken out.
"""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from robot_bench import HOME, LEAST, LIMITS, MOST, MS, PERIOD, Bench, assert_within_limits

from syvla.config import IntentPolicy
from syvla.messages import (
    ActionChunk,
    Mode,
    Source,
    Task,
)

# ---------------------------------------------------------------- chunks


@pytest.mark.parametrize("poison", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("field", "place"), [("position_rad", (49, 11)), ("position_rad", (0, 0)), ("gripper_width_m", (30, 1))]
)
def test_a_chunk_with_one_value_that_is_not_finite_is_refused_whole_and_holds_within_a_tick(
    poison: float, field: str, place: tuple[int, int]
) -> None:
    bench = Bench().move()
    good = bench.chunk(0.2)
    values = np.array(getattr(good, field))
    values[place] = poison
    change: dict[str, Any] = {field: values}
    bench.tick(bench.chunk(0.2, **change))
    assert len(bench.splices) == 1
    bench.assert_holds("chunk_not_finite")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("joint", [0, 11])
def test_a_chunk_that_starts_too_far_from_the_measured_pose_is_refused(sign: int, joint: int) -> None:
    bench = Bench().enable()
    offset = np.zeros(12)
    offset[joint] = 0.101 * sign
    bench.tick(bench.chunk(0.0, HOME + offset))
    bench.run(0.2)
    assert not bench.splices
    assert "chunk_first_step" in bench.codes
    assert bench.pose.tolist() == HOME.tolist()
    bench.tick(bench.chunk(0.0, HOME + offset * 0.98))
    assert len(bench.splices) == 1


def test_the_first_step_is_that_of_the_first_row_still_to_come() -> None:
    bench = Bench().enable()
    late = bench.chunk(0.5)  # 0.5 rad/s for 0.3 s is 0.15 rad
    bench.run(0.3)
    bench.tick(late)
    assert not bench.splices
    bench.tick(bench.chunk(0.5))
    assert len(bench.splices) == 1


def test_the_first_step_counts_from_where_moving_arms_will_be_when_the_row_is_due() -> None:
    """Fast arms cover the allowed step between two rows; refusing their chunks would starve and hold them."""
    bench = Bench().enable()
    fast = np.eye(12)[0] * 1.6
    bench.tick(bench.chunk(fast))
    bench.run(0.4)
    for count in range(2, 8):
        sparse = bench.chunk(fast * 70 * MS / PERIOD, period_ns=70 * MS)  # 0.112 rad from row to row
        bench.tick(sparse)
        assert len(bench.splices) == count
        bench.run(0.04)


@pytest.mark.parametrize(("joint", "limit"), [(0, MOST[0]), (6, LEAST[6]), (8, MOST[8]), (5, LEAST[5])])
def test_ten_ticks_beyond_a_limit_hold_and_are_clamped_until_then(joint: int, limit: float) -> None:
    bench = Bench()
    start = HOME.copy()
    start[joint] = limit
    bench.arms[0].position, bench.arms[1].position = start[:6].copy(), start[6:].copy()
    bench.enable()
    sign = 1 if limit == MOST[joint] else -1
    beyond = start.copy()
    beyond[joint] += 0.09 * sign
    bench.tick(bench.chunk(0.0, beyond))
    ticks = 0
    while bench.mode() is Mode.ENABLED and ticks < 30:
        bench.tick()
        ticks += 1
        assert bench.pose[joint] == limit
        assert ticks < 5 or bench.last.limited_joints == 1 << joint or bench.mode() is not Mode.ENABLED
    assert 9 <= ticks <= 15  # ten, after the fade has left the tolerance
    assert bench.stage.gate.clamped_count >= 10
    bench.tick()
    bench.assert_holds("clamped")


def test_clamped_ticks_that_are_not_consecutive_do_not_add_up() -> None:
    bench = Bench(IntentPolicy(stale_policy="use"))
    start = HOME.copy()
    start[0] = MOST[0]
    bench.arms[0].position = start[:6].copy()
    bench.enable()
    rows = np.tile(start, (50, 1))
    rows[:, 0] -= 0.05
    rows[8::4, 0] += 0.06  # one row in four is beyond the limit, for fewer than ten ticks
    bench.tick(bench.chunk(position_rad=rows))
    bench.run(1.5)
    assert bench.mode() is Mode.ENABLED
    assert sum(command.limited_joints for command in bench.commands) > 30


def test_fewer_than_ten_ticks_beyond_a_limit_are_only_counted() -> None:
    bench = Bench()
    start = HOME.copy()
    start[0] = MOST[0]
    bench.arms[0].position = start[:6].copy()
    bench.enable()
    for _ in range(5):
        bench.tick(bench.chunk(0.0, start + np.eye(12)[0] * 0.05))
        bench.tick()
        bench.tick(bench.chunk(0.0, start - np.eye(12)[0] * 0.09))
        bench.run(0.12)
    assert bench.mode() is Mode.ENABLED
    assert bench.stage.gate.clamped_count > 10


def test_a_huge_jump_inside_a_chunk_stays_within_velocity_and_acceleration() -> None:
    bench = Bench(IntentPolicy(stale_policy="use")).enable()
    rows = np.tile(HOME, (50, 1))
    rows[8:, 0], rows[8:, 9] = 2.3, -1.7
    grippers = np.full((50, 2), 0.03)
    grippers[8:] = 0.07
    bench.tick(bench.chunk(position_rad=rows, gripper_width_m=grippers))
    bench.run(1.5)
    assert bench.mode() is Mode.ENABLED
    assert bench.pose[[0, 9]] == pytest.approx([2.3, -1.7], abs=1e-3)
    assert_within_limits(bench.commands)


def test_arms_do_not_wait_enabled_for_ever() -> None:
    """A planner that woke up minutes later moved arms that everybody believed idle."""
    bench = Bench().enable()
    bench.run(LIMITS.chunk_wait_s - 0.1)
    assert bench.mode() is Mode.ENABLED
    bench.run(0.2)
    bench.assert_holds("chunk_missing")
    bench.tick(bench.operator("resume"))
    bench.run(LIMITS.chunk_wait_s - 0.1)
    assert bench.mode() is Mode.ENABLED, "resuming waits anew"
    bench.tick(bench.chunk(0.2))
    bench.run(0.3)
    assert bench.speed() == pytest.approx(0.2, rel=1e-2)


def test_another_task_makes_the_old_ones_chunks_void_and_the_arms_stand_without_a_hold() -> None:
    """Chunks of the last task ran on after a new one was given, until their intent was too old: a latched hold."""
    bench = Bench().enable()
    bench.tick(Task(task_id=1, instruction="one", issued_ns=bench.now_ns), bench.chunk(0.2))
    bench.run(0.3)
    assert bench.speed() == pytest.approx(0.2, rel=1e-2)
    bench.tick(Task(task_id=1, instruction="one", issued_ns=bench.now_ns))
    assert bench.source() is Source.POLICY, "the same task said again changes nothing"
    bench.tick(Task(task_id=2, instruction="two", issued_ns=bench.now_ns), bench.chunk(0.2))
    bench.run(0.15)
    rest = bench.pose.copy()
    for _ in range(400):
        bench.tick(bench.chunk(0.5))
    assert bench.mode() is Mode.ENABLED
    assert bench.pose.tolist() == rest.tolist()
    assert "waiting_for_chunk" in bench.codes
    bench.tick(bench.chunk(0.2, task_id=2))
    bench.run(0.3)
    assert bench.speed() == pytest.approx(0.2, rel=1e-2)
    assert_within_limits(bench.commands)


def test_old_duplicate_past_and_future_chunks_are_dropped_and_counted() -> None:
    bench = Bench().enable()
    first = bench.chunk(0.2)
    bench.tick(first)
    bench.run(0.1)
    past = bench.chunk(0.2, horizon=2)
    bench.run(0.1)
    unwanted: tuple[Callable[[], ActionChunk], ...] = (
        lambda: first,
        lambda: bench.chunk(0.2, observation_ns=first.observation_ns - 1),
        lambda: past,
        lambda: bench.chunk(0.2, observation_ns=bench.now_ns + 100 * MS),
        lambda: bench.chunk(0.2, intent_observation_ns=bench.now_ns + 100 * MS),
    )
    for count, chunk in enumerate(unwanted, start=1):
        bench.tick(chunk())
        assert len(bench.splices) == 1
        bench.run(0.05)
        assert bench.safety[-1].refused_count == count
    assert "chunk_from_future" in bench.codes
    assert bench.mode() is Mode.ENABLED


def test_a_splice_in_motion_does_not_jerk_the_arms() -> None:
    bench = Bench().enable()
    for _ in range(20):
        bench.tick(bench.chunk(0.3))
        bench.run(0.05)
    assert len(bench.splices) == 20
    speeds = np.diff([c.position_rad[0] for c in bench.commands[40:]]) * 200
    assert np.abs(np.diff(speeds)).max() < 0.05
    assert bench.splices[-1].replaced_chunk_id == bench.splices[-2].chunk_id
