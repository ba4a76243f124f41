"""Enabling, holding, resuming, clearing faults: what an operator may do, and what the arms do then.

Each test of a rule fails when the rule is taken out.
"""

import numpy as np
import pytest
from robot_bench import HOME, MS, Bench

from syvla.clock import NS_PER_S
from syvla.config import ControlConfig
from syvla.messages import (
    Mode,
    Source,
)

# ---------------------------------------------------------------- enabling


def test_a_disabled_robot_commands_nothing_and_says_what_to_do() -> None:
    bench = Bench()
    for _ in range(50):
        bench.tick(bench.chunk(), bench.teleop(0.5, request="override"))
    assert bench.mode() is Mode.DISABLED
    assert not bench.commands
    assert not any(arm.commands or arm.enabled for arm in bench.arms)
    assert bench.safety[-1].source is Source.NONE
    assert bench.safety[-1].reasons[0].code == "not_enabled"


@pytest.mark.parametrize(("joint", "velocity"), [(4, 0.5), (3, -0.5)])
def test_a_device_that_allows_less_than_the_rig_narrows_the_limits(joint: int, velocity: float) -> None:
    """The gate used the rig's limits alone: beyond a motor's own, the driver refused the command and it was a fault."""
    bench = Bench()
    near = [HOME[joint] - 0.1, HOME[joint] + 0.1]
    bench.arms[1].limits_rad[0][joint], bench.arms[1].limits_rad[1][joint] = near
    bench.enable()
    bench.tick(bench.chunk(velocity * np.eye(12)[6 + joint]))
    bench.run(0.4)
    assert bench.mode() is Mode.HOLD
    assert "clamped" in bench.codes
    reached = np.array([c.position_rad[6 + joint] for c in bench.commands])
    limit = near[1] if velocity > 0 else near[0]
    assert np.abs(reached - HOME[joint]).max() == pytest.approx(abs(limit - HOME[joint]), abs=1e-3)
    assert (reached >= near[0]).all()
    assert (reached <= near[1]).all()


def test_a_device_whose_limits_leave_nothing_is_not_enabled() -> None:
    bench = Bench()
    bench.arms[0].limits_rad = ([5.0] * 6, [6.0] * 6)
    bench.tick()
    bench.tick(bench.operator("enable"))
    assert bench.mode() is Mode.DISABLED
    assert "driver_error" in bench.codes
    assert any("joint 1 -2.618..2.618 rad" in r.detail for r in bench.stage.gate.reasons)
    assert not bench.commands


def test_enabling_stands_at_the_measured_pose_until_a_chunk_made_later_arrives() -> None:
    bench = Bench()
    bench.arms[0].position = HOME[:6] + 0.05
    bench.arms[1].gripper_m = 0.011
    bench.tick()
    early = bench.chunk(0.5)
    bench.tick(bench.operator("enable"))
    assert bench.mode() is Mode.ENABLED
    assert bench.pose.tolist() == [*(HOME[:6] + 0.05), *HOME[6:]]
    assert bench.last.gripper_width_m.tolist() == [0.03, 0.011]
    assert [arm.commands[-1][6] for arm in bench.arms] == [0.03, 0.011]
    bench.tick(early)
    bench.run(0.2)
    assert bench.pose.tolist() == [*(HOME[:6] + 0.05), *HOME[6:]]
    assert "waiting_for_chunk" in bench.codes
    bench.tick(bench.chunk(0.5))
    bench.run(0.2)
    assert np.abs(bench.pose[:6] - HOME[:6] - 0.05).max() > 0.01


def test_enabling_waits_for_both_arms_and_gives_up_in_time() -> None:
    bench = Bench()
    bench.arms[1].answers = False
    bench.tick()
    bench.tick(bench.operator("enable"))
    bench.run(1.0)
    assert bench.mode() is Mode.DISABLED
    assert "enabling" in bench.codes
    bench.arms[1].answers = True
    bench.tick()
    assert bench.mode() is Mode.ENABLED

    bench = Bench(control=ControlConfig(enable_timeout_s=0.5))
    bench.arms[1].answers = False
    bench.tick()
    bench.tick(bench.operator("enable"))
    bench.run(0.6)
    bench.arms[1].answers = True
    bench.run(0.1)
    assert bench.mode() is Mode.DISABLED
    assert "enable_timeout" in bench.codes


@pytest.mark.parametrize("trouble", ["silent", "never", "fault", "outside", "read_error", "enable_error"])
def test_enabling_is_refused_while_something_speaks_against_it(trouble: str) -> None:
    bench = Bench()
    arm = bench.arms[1]
    if trouble != "never":
        bench.tick()
    arm.silent = trouble in ("silent", "never")
    arm.faults = ("overheated",) if trouble == "fault" else ()
    arm.read_error, arm.enable_error = trouble == "read_error", trouble == "enable_error"
    if trouble == "outside":
        arm.position = HOME[:6] + np.array([0, 0, 1.2, 0, 0, 0])
    bench.run(0.2)
    bench.tick(bench.operator("enable"))
    bench.run(0.2)
    assert bench.mode() is Mode.DISABLED
    assert not bench.commands
    assert len(bench.stage.gate.reasons) > 1


@pytest.mark.parametrize("action", ["hold", "soft_stop"])
def test_a_stop_takes_back_the_wish_to_enable(action: str) -> None:
    bench = Bench()
    bench.arms[0].answers = False
    bench.tick()
    bench.tick(bench.operator("enable"))
    bench.tick(bench.operator(action))
    bench.arms[0].answers = True
    bench.run(0.2)
    assert bench.mode() is Mode.DISABLED


def test_an_arm_resting_on_a_limit_is_enabled_inside_it() -> None:
    bench = Bench()
    bench.arms[0].position = np.array([0.0, -0.003, 0.004, 0.0, 0.0, 0.0])
    bench.enable()
    assert bench.pose[1:3].tolist() == [0.0, 0.0]


# ---------------------------------------------------------------- the operator


def test_what_permits_motion_must_be_fresh_and_what_stops_is_always_obeyed() -> None:
    bench = Bench()
    before_start = bench.operator("enable")
    bench.tick(before_start)  # what a robot that starts anew finds waiting for it
    bench.run(0.1)
    assert bench.mode() is Mode.DISABLED
    bench.tick(bench.operator("enable", bench.now_ns - 2 * NS_PER_S))
    assert bench.mode() is Mode.DISABLED

    bench.move()
    bench.tick(bench.operator("hold", bench.now_ns - 3600 * NS_PER_S))
    bench.assert_holds("operator_hold")
    for wrong_ns in (-2 * NS_PER_S, 2 * NS_PER_S):
        bench.tick(bench.operator("resume", bench.now_ns + wrong_ns))
        assert bench.mode() is Mode.HOLD
    resume = bench.operator("resume")
    bench.tick(resume)
    assert bench.mode() is Mode.ENABLED
    bench.tick(bench.operator("soft_stop"))
    bench.run(0.2)
    assert bench.stage.gate.refused_count >= 2


def test_the_same_operator_command_counts_once() -> None:
    bench = Bench().move()
    bench.tick(bench.operator("hold"))
    bench.run(0.2)
    resume = bench.operator("resume")
    bench.tick(resume)
    bench.stage.gate.trip("operator_hold", "again")
    bench.tick(resume)
    assert bench.mode() is Mode.HOLD


@pytest.mark.parametrize(("action", "mode"), [("hold", Mode.HOLD), ("soft_stop", Mode.SOFT_STOP)])
def test_a_stop_holds_and_only_resume_and_a_newer_chunk_move_again(action: str, mode: Mode) -> None:
    bench = Bench().move(velocity=0.5)
    bench.tick(bench.operator(action))
    bench.assert_holds(f"operator_{action}", mode=mode)
    for useless in ("enable", "clear_fault"):
        bench.tick(bench.operator(useless))
        assert bench.mode() is mode
    rest = bench.pose.copy()
    before = bench.chunk(0.5)
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED
    assert f"operator_{action}" not in bench.codes
    bench.tick(before)
    bench.run(0.1)
    assert bench.pose.tolist() == rest.tolist()
    bench.tick(bench.chunk(0.5))
    bench.run(0.1)
    assert bench.pose.tolist() != rest.tolist()


def test_resume_waits_until_the_arms_rest() -> None:
    bench = Bench().move(velocity=0.8)
    bench.tick(bench.operator("hold"))
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.HOLD
    assert "resume_refused" in bench.codes


def test_a_hold_and_a_resume_within_one_tick_do_not_let_the_old_chunk_go_on() -> None:
    bench = Bench().enable()
    rows = np.tile(HOME, (50, 1))
    rows[12:] += 0.05  # it stands for 0.4 s, then moves
    bench.tick(bench.chunk(position_rad=rows))
    bench.run(0.2)
    bench.tick(bench.operator("resume"), dt_ns=20 * MS)  # ticks were missed, and the arms stand
    assert bench.mode() is Mode.ENABLED
    bench.run(0.5)
    assert bench.pose.tolist() == HOME.tolist()
