"""Everything that ages: commands, intents, feedback, ticks.

Each test of a rule fails when the rule is taken out.
"""

import numpy as np
import pytest
from robot_bench import HOME, MS, PERIOD, TICK, Bench, assert_within_limits

from syvla.config import IntentPolicy, SafetyLimits
from syvla.messages import (
    Mode,
)

# ---------------------------------------------------------------- staleness


def test_the_arms_hold_when_the_timeline_runs_dry() -> None:
    bench = Bench().enable()
    bench.tick(bench.chunk(0.1, horizon=10))
    dry_ns = bench.now_ns - TICK + 9 * PERIOD
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    assert 50 * MS < bench.now_ns - dry_ns <= 55 * MS
    bench.assert_holds("command_stale")


def test_an_intent_past_its_time_to_live_holds_and_warns_before() -> None:
    bench = Bench().enable()
    seen_ns = bench.now_ns
    warned_ns = None
    while bench.mode() is Mode.ENABLED:
        bench.tick(*([bench.chunk(0.1, intent_observation_ns=seen_ns)] if bench.now_ns % (50 * MS) == 0 else []))
        if warned_ns is None and "intent_old" in bench.codes:
            warned_ns = bench.now_ns
    assert warned_ns is not None
    assert 500 * MS < warned_ns - seen_ns <= 505 * MS
    assert 1000 * MS < bench.now_ns - seen_ns <= 1005 * MS
    assert bench.commands[-2].intent_age_s == pytest.approx(1.0)
    bench.assert_holds("intent_stale")


def test_a_chunk_of_an_intent_past_its_time_to_live_is_not_executed() -> None:
    bench = Bench().enable()
    bench.tick(bench.chunk(0.1, intent_observation_ns=bench.now_ns - 1001 * MS))
    assert not bench.splices
    assert bench.mode() is Mode.ENABLED


def run_with_old_intent(policy: str) -> tuple[Bench, list[tuple[float, float]]]:
    """Follow a fast policy whose intent was seen once; (age of the intent, speed) at every tick."""
    bench = Bench(IntentPolicy(stale_policy=policy)).enable()  # type: ignore[arg-type]
    seen_ns = bench.now_ns
    curve = [(0.0, 0.0)]
    bench.tick(bench.chunk(0.4, horizon=200, intent_observation_ns=seen_ns))
    while bench.mode() is Mode.ENABLED and bench.now_ns - seen_ns < 2500 * MS:
        bench.tick()
        curve.append(((bench.now_ns - seen_ns) / 1e9, bench.speed()))
    assert_within_limits(bench.commands)
    return bench, curve


def test_a_late_intent_slows_the_arms_down_and_holds_them_in_the_end() -> None:
    limits = SafetyLimits()
    slow = max(limits.velocity_rad_s) * 0.25
    bench = Bench(IntentPolicy(stale_policy="slow_down")).enable()
    seen_ns = bench.now_ns
    rows = np.tile(HOME, (200, 1))
    rows[10:, 3] = -1.7  # a step: the joint goes as fast as it may
    fast = bench.chunk(
        position_rad=rows, gripper_width_m=np.full((200, 2), 0.03), intent_observation_ns=seen_ns - 600 * MS
    )
    bench.tick(fast)
    bench.run(0.395)
    assert bench.speed() > slow * 1.5
    bench.run(0.15)
    assert "intent_slow_down" in bench.codes
    assert bench.speed() <= slow + 1e-6
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    assert 2000 * MS < bench.now_ns - fast.intent_observation_ns <= 2005 * MS
    bench.assert_holds("intent_stale")


def test_a_policy_of_use_ignores_the_age_of_an_intent() -> None:
    bench, curve = run_with_old_intent("use")
    assert bench.mode() is Mode.ENABLED
    assert curve[-1][1] == pytest.approx(0.4, rel=1e-2)
    assert "intent_old" in bench.codes


@pytest.mark.parametrize("silent", [0, 1])
def test_both_arms_hold_within_50_ms_when_one_falls_silent(silent: int) -> None:
    bench = Bench().move()
    last_ns = bench.now_ns
    bench.arms[silent].silent = True
    late_ns = None
    while bench.mode() is Mode.ENABLED:
        bench.tick()
        if late_ns is None and "feedback_late" in bench.codes:
            late_ns = bench.now_ns
    assert late_ns is not None
    assert 20 * MS < late_ns - last_ns <= 25 * MS
    assert 50 * MS < bench.now_ns - last_ns <= 55 * MS
    bench.assert_holds("feedback_stale")
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.HOLD
    assert "resume_refused" in bench.codes
    bench.arms[silent].silent = False
    bench.tick()
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED


def test_a_lasting_silence_is_a_fault_and_needs_two_deliberate_acts() -> None:
    bench = Bench().move()
    bench.arms[0].silent = True
    bench.run(0.6)
    assert bench.mode() is Mode.FAULT
    assert {"feedback_stale", "feedback_lost"} <= bench.codes
    for action in ("resume", "enable", "clear_fault"):
        bench.tick(bench.operator(action))
        assert bench.mode() is Mode.FAULT
    bench.arms[0].silent = False
    bench.tick()
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.FAULT
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.HOLD
    bench.run(0.1)
    assert bench.mode() is Mode.HOLD
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED
