"""What devices do wrong, and what the arms do then.

Each test of a rule fails when the rule is taken out.
"""

import numpy as np
import pytest
from robot_bench import HOME, MS, TICK, Bench, assert_within_limits, break_arm

from syvla.messages import (
    Mode,
)

# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("faults", "device_fault"),
        ("gripper", "feedback_not_finite"),
        ("ahead", "feedback_from_future"),
        ("torque", "torque_off"),
        ("read_error", "driver_error"),
        ("command_error", "driver_error"),
    ],
)
def test_a_device_fault_latches_and_the_other_arm_brakes_and_is_held(how: str, code: str, broken: int) -> None:
    bench = Bench().move(velocity=0.5)
    arm, other = bench.arms[broken], bench.arms[1 - broken]
    if how == "gripper":
        arm.command = lambda position_rad, gripper_width_m: None  # type: ignore[method-assign]
    break_arm(arm, how)
    before = len(other.commands)
    bench.tick()
    assert bench.mode() is Mode.FAULT
    assert code in bench.codes
    assert bench.stage.gate.faulted == {broken}
    bench.run(0.3)
    assert len(other.commands) == before + 61
    assert other.commands[-1].tolist() == other.commands[-20].tolist()
    assert_within_limits(bench.commands)
    assert not arm.closed
    for action in ("resume", "clear_fault"):
        if how != "command_error":
            bench.tick(bench.operator(action))
            assert bench.mode() is Mode.FAULT


def test_a_faulted_arm_is_left_to_itself_once_standing_and_goes_on_from_where_it_is() -> None:
    """An arm that sank during a fault must not be thrown back to its old set-point when it answers again."""
    bench = Bench().move()
    arm = bench.arms[0]
    arm.faults = ("emergency stop",)
    bench.run(0.3)
    sent = len(arm.commands)
    held = bench.arms[1].commands[-1].copy()
    arm.position = arm.position - np.array([0.0, 0.6, 0.0, 0.0, 0.0, 0.0])  # it sinks
    sunk = arm.position.copy()
    bench.run(0.3)
    assert len(arm.commands) == sent
    arm.faults = ()
    bench.tick()
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.HOLD
    bench.run(0.1)
    assert len(arm.commands) > sent
    assert all(command[:6].tolist() == sunk.tolist() for command in arm.commands[sent:])
    assert bench.arms[1].commands[-1].tolist() == held.tolist()
    sent = len(arm.commands)
    bench.arms[1].faults = ("emergency stop",)  # now the other one: the first is held again
    bench.run(0.1)
    assert len(arm.commands) == sent + 20


def test_a_fault_is_not_cleared_while_the_arms_still_brake() -> None:
    """Cleared in the tick after a send that failed, the arm was taken from full speed to the measured pose at once."""
    bench = Bench().move(velocity=1.0)
    bench.arms[0].faults = ("emergency stop",)
    bench.tick()
    bench.arms[0].faults = ()
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.FAULT
    assert "resume_refused" in bench.codes
    bench.run(0.3)
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.HOLD


def test_a_fault_is_not_cleared_while_an_arm_is_outside_its_limits() -> None:
    bench = Bench().move()
    arm = bench.arms[0]
    arm.faults = ("emergency stop",)
    bench.run(0.3)
    arm.position, arm.faults = HOME[:6] + np.array([0, 0, 1.3, 0, 0, 0]), ()
    bench.tick()
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.FAULT
    assert "resume_refused" in bench.codes


def test_enabling_in_a_fault_gives_torque_back_but_neither_motion_nor_another_mode() -> None:
    bench = Bench().move()
    bench.arms[0].enabled = False
    bench.arms[0].answers = False
    bench.run(0.2)
    assert bench.mode() is Mode.FAULT
    bench.tick(bench.operator("enable"))
    bench.arms[0].answers = True
    bench.run(0.1)
    assert bench.arms[0].enabled
    assert bench.mode() is Mode.FAULT
    bench.tick(bench.operator("clear_fault"))
    assert bench.mode() is Mode.HOLD


def test_a_fault_met_while_holding_is_kept_with_the_reason_of_the_hold() -> None:
    bench = Bench().move()
    bench.tick(bench.operator("soft_stop"))
    bench.arms[1].faults = ("driver overheated",)
    bench.tick()
    assert bench.mode() is Mode.FAULT
    assert {"operator_soft_stop", "device_fault"} <= bench.codes
    assert "driver overheated" in next(r.detail for r in bench.stage.gate.reasons if r.code == "device_fault")


def test_missed_ticks_hold() -> None:
    bench = Bench().move()
    for allowed in (10 * MS, 15 * MS):
        bench.tick(dt_ns=allowed)
        assert bench.mode() is Mode.ENABLED
    bench.tick(dt_ns=15 * MS + 1)
    bench.assert_holds("missed_ticks")


def test_a_clock_that_stands_still_moves_nothing() -> None:
    bench = Bench().move(velocity=0.5)
    pose = bench.pose.copy()
    for back in (0, -TICK):
        bench.tick(dt_ns=back)
        assert bench.pose.tolist() == pose.tolist()
