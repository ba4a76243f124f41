"""What the robot stage says, and how it stops.

Each test of a rule fails when the rule is taken out.
"""

from math import nan

import msgspec
import numpy as np
import pytest
from robot_bench import PERIOD, Bench, IdealArm

from syvla.config import ArmConfig, RigConfig
from syvla.errors import ConfigError
from syvla.messages import (
    ArmName,
    Mode,
    Source,
)
from syvla.protocols import ArmDriver
from syvla.stages.robot import RobotStage

# ---------------------------------------------------------------- what it says, and stopping


def test_every_command_says_where_it_came_from() -> None:
    bench = Bench().enable()
    assert bench.source() is Source.HOLD
    assert bench.last.intent_age_s == -1.0
    new = bench.chunk(0.2)
    bench.tick(new)
    bench.run(0.1)
    said = bench.last.provenance
    assert (said.source, said.chunk_id, said.intent_id) == (Source.POLICY, new.chunk_id, new.intent_id)
    assert (said.observation_ns, said.intent_observation_ns) == (new.observation_ns, new.intent_observation_ns)
    assert said.chunk_row == (bench.now_ns - new.observation_ns) // PERIOD
    assert said.splice_id == bench.splices[-1].splice_id
    assert bench.last.intent_age_s == pytest.approx((bench.now_ns - new.intent_observation_ns) / 1e9)
    assert [c.command_id for c in bench.commands] == list(range(len(bench.commands)))
    assert np.append(bench.pose[:6], bench.last.gripper_width_m[0]).tolist() == bench.arms[0].commands[-1].tolist()
    assert np.append(bench.pose[6:], bench.last.gripper_width_m[1]).tolist() == bench.arms[1].commands[-1].tolist()


def test_feedback_is_passed_on_once_and_the_safety_state_at_20_hz_and_on_change() -> None:
    bench = Bench().move()
    bench.arm_states.clear()
    bench.safety.clear()
    bench.run(1.0)
    assert len(bench.arm_states) == 400
    assert 19 <= len(bench.safety) <= 21
    bench.arms[0].silent = True
    bench.arm_states.clear()
    bench.tick()
    assert [state.arm for state in bench.arm_states] == ["right"]
    bench.safety.clear()
    bench.tick(bench.operator("hold"))
    assert bench.safety[-1].mode is Mode.HOLD
    assert bench.safety[-1].reasons[0].next_step


def test_a_requested_stop_brakes_holds_and_leaves_torque_on() -> None:
    bench = Bench().move(velocity=0.8)
    assert not bench.stage.stopped
    bench.stage.request_stop()
    bench.tick()
    assert not bench.stage.stopped
    bench.run(0.15)
    assert bench.stage.stopped
    bench.tick(bench.operator("resume"))
    bench.tick(bench.operator("enable"))
    bench.assert_holds("stopping")
    bench.stage.close()
    assert all(arm.closed and arm.enabled for arm in bench.arms)


def test_a_stop_before_enabling_is_done_at_once_and_keeps_it_disabled() -> None:
    bench = Bench()
    bench.tick()
    bench.stage.request_stop()
    assert bench.stage.stopped
    bench.tick(bench.operator("enable"))
    bench.run(0.1)
    assert bench.mode() is Mode.DISABLED


def test_the_stage_names_what_is_wrong_with_its_arms_and_settings() -> None:
    config = RigConfig(name="bench", kind="twin", left=ArmConfig(), right=ArmConfig())
    left: dict[ArmName, ArmDriver] = {"left": IdealArm("left")}
    with pytest.raises(ConfigError, match="left and right"):
        RobotStage(left, config, lambda a, b: 1.0)
    for section, field, value in (
        ("control", "rate_hz", 5.0),
        ("safety", "first_step_rad", nan),
        ("safety", "feedback_stale_s", 0.0),
        ("safety", "clamps_to_hold", 0),
        ("safety", "arm_distance_hold_m", 0.06),
        ("safety", "arm_distance_slow_factor", 0.0),
        ("intent", "slow_down_factor", 1.5),
        ("intent", "slow_down_hold_after_s", 0.5),
    ):
        changed = msgspec.structs.replace(getattr(config, section), **{field: value})
        both: dict[ArmName, ArmDriver] = {"left": IdealArm("left"), "right": IdealArm("right")}
        with pytest.raises(ConfigError, match=field.removeprefix("arm_distance_")):
            RobotStage(both, msgspec.structs.replace(config, **{section: changed}), lambda a, b: 1.0)
