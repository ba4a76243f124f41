"""A person takes over and hands back.

Each test of a rule fails when the rule is taken out.
"""

from math import inf, nan

import msgspec
import pytest
from robot_bench import MS, Bench, assert_within_limits

from syvla.messages import (
    Mode,
    Source,
)

# ---------------------------------------------------------------- people


def test_a_person_takes_over_within_one_tick_and_without_a_jump() -> None:
    bench = Bench().move(velocity=0.5)
    bench.tick(bench.teleop(-0.3, request="override"))
    assert bench.mode() is Mode.OVERRIDE
    assert bench.source() is Source.TELEOP
    assert bench.last.provenance.override_id == 0
    assert bench.last.provenance.chunk_id == -1
    for _ in range(60):
        bench.tick(bench.teleop(-0.3), bench.chunk(0.5))
    assert bench.speed() == pytest.approx(0.3)
    assert bench.pose[0] < bench.commands[-2].position_rad[0]
    assert_within_limits(bench.commands)


def test_without_the_deadman_nobody_takes_over_and_nothing_moves() -> None:
    bench = Bench().enable()
    bench.tick(bench.teleop(0.5, deadman=False, request="override"))
    assert bench.mode() is Mode.ENABLED
    bench.tick(bench.teleop(0.5, request="override"))
    for _ in range(40):
        bench.tick(bench.teleop(0.5))
    for _ in range(30):
        bench.tick(bench.teleop(0.5, deadman=False))
    assert bench.mode() is Mode.OVERRIDE
    assert bench.speed() == 0.0


def test_a_joystick_that_falls_silent_holds_and_the_policy_does_not_resume() -> None:
    bench = Bench().move()
    sample = bench.teleop(0.3, request="override")
    bench.tick(sample)
    while bench.mode() is Mode.OVERRIDE:
        bench.tick(bench.chunk(0.3))
    assert 150 * MS < bench.now_ns - sample.sampled_ns <= 155 * MS
    bench.assert_holds("teleop_stale")


@pytest.mark.parametrize("poison", [nan, inf])
def test_a_joystick_that_is_not_finite_holds(poison: float) -> None:
    bench = Bench().move()
    bench.tick(bench.teleop(0.3, request="override"))
    bench.tick(bench.teleop(poison))
    bench.assert_holds("teleop_not_finite")


def test_the_policy_goes_on_after_handback_only_with_a_chunk_made_later() -> None:
    bench = Bench().move()
    bench.tick(bench.teleop(0.3, request="override"))
    bench.run(0.05)
    before = bench.chunk(0.5)
    bench.tick(bench.teleop(0.0, deadman=False, request="policy"))
    assert bench.mode() is Mode.ENABLED
    bench.tick(before)
    bench.run(0.2)
    assert bench.source() is Source.HOLD
    assert bench.speed() == 0.0
    bench.tick(bench.chunk(0.5))
    bench.run(0.2)
    assert bench.source() is Source.POLICY
    assert bench.last.provenance.override_id == -1
    assert_within_limits(bench.commands)
    bench.tick(bench.teleop(0.1, request="override"))
    assert bench.last.provenance.override_id == 1


def test_old_and_future_joystick_samples_are_not_acted_on() -> None:
    bench = Bench().enable()
    stale = bench.teleop(0.3, request="override")
    bench.run(0.2)
    bench.tick(stale)
    assert bench.mode() is Mode.ENABLED
    ahead = msgspec.structs.replace(bench.teleop(0.3, request="override"), sampled_ns=bench.now_ns + 50 * MS)
    bench.tick(ahead)
    assert bench.mode() is Mode.ENABLED
    now = bench.teleop(0.3, request="override")
    bench.tick(now)
    assert bench.mode() is Mode.OVERRIDE
    bench.tick(bench.teleop(0.0, deadman=False, request="policy"))
    bench.tick(now)
    assert bench.mode() is Mode.ENABLED


def test_the_joystick_can_ask_for_a_hold() -> None:
    bench = Bench().move()
    bench.tick(bench.teleop(0.0, deadman=False, request="hold"))
    bench.assert_holds("teleop_hold")
