"""A person takes over while the policy runs, and gives back; and what happens when the controller goes away.

Robot, teleop stage and policy run together under the virtual clock.
"""

from math import nan
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from robot_bench import MS, assert_within_limits
from teleop_bench import LB, START, Takeover

from syvla.config import ArmConfig, RigConfig, RunConfig
from syvla.control.gamepad import SPEEDS, Button
from syvla.control.kinematics import forward_tcp
from syvla.message import Float64
from syvla.messages import EpisodeControl, JointCommand, Mode, Source, TeleopCommand
from syvla.protocols import Jog
from syvla.recording.mcap_read import read
from syvla.report.summary import summarise
from syvla.stages.recorder import RecorderStage

HELD = {Source.HOLD}


def sources(run: Takeover, at_ns: int) -> set[Source]:
    return {c.provenance.source for c in run.since(at_ns)}


def test_a_press_takes_over_while_the_policy_goes_on_and_the_arm_follows() -> None:
    """Fault 19: the policy is cut in one tick, the arm follows within 60 ms, and the same frame says so."""
    run = Takeover().moving()
    run.pad.down.add(LB)
    run.pad.axes[1] = -1.0
    pressed_ns = run.host.now_ns
    run.run(1.0)
    first = next(c for c in run.since(pressed_ns) if c.provenance.source is Source.TELEOP)
    assert first.commanded_ns - pressed_ns <= 10 * MS
    assert first.provenance.override_id == 0
    assert first.provenance.chunk_id == -1
    assert sources(run, first.commanded_ns) == {Source.TELEOP}
    sampled = min(c.sampled_ns for c in run.witness.teleop if c.mode_request == "override")
    assert first.commanded_ns - sampled <= 5 * MS, "in the robot's next tick"
    said = next(s for s in run.witness.safety if s.mode is Mode.OVERRIDE)
    assert said.stamp_ns == first.commanded_ns
    assert len([c for c in run.policy.sent.values() if c.observation_ns > pressed_ns]) > 15, "the policy runs on"
    hands = [forward_tcp(c.position_rad[:6])[0] for c in run.since(pressed_ns)]
    forward = next(c for c, hand in zip(run.since(pressed_ns), hands, strict=True) if hand[0] > hands[0][0] + 1e-4)
    assert forward.commanded_ns - pressed_ns <= 60 * MS
    speed = np.linalg.norm(hands[-1] - hands[-41]) / 0.2
    assert speed == pytest.approx(SPEEDS[0].linear_m_s, rel=0.02)
    assert_within_limits(run.commands)


def test_let_go_the_arms_stand_and_the_policy_does_not_take_them() -> None:
    run = Takeover().taken(stick=1.0)
    assert run.speed() > 0.02
    run.pad.down.discard(LB)
    run.run(0.2)
    assert run.speed() == 0.0
    rest_ns = run.host.now_ns
    run.run(3.0)
    assert run.mode() is Mode.OVERRIDE
    assert run.speed() == 0.0
    assert sources(run, rest_ns) == {Source.TELEOP}
    run.pad.down.add(LB)
    run.run(0.5)
    assert run.speed() > 0.02
    assert run.commands[-1].provenance.override_id == 0, "still the same takeover"
    assert_within_limits(run.commands)


def test_an_arm_that_is_not_jogged_keeps_its_set_points_to_the_last_digit() -> None:
    run = Takeover().taken()
    rest = run.commands[-1].position_rad[6:].tolist()
    for axes in ((0.0, -1.0), (1.0, 0.0), (-0.7, 0.7)):
        run.pad.axes[:2] = axes
        run.run(0.5)
        assert run.commands[-1].position_rad[6:].tolist() == rest
    assert run.speed() > 0.02


def test_start_gives_back_without_a_jump_and_only_to_chunks_made_of_what_was_seen_since() -> None:
    run = Takeover().taken(stick=1.0)
    run.pad.down.add(START)
    asked_ns = run.host.now_ns
    run.run(0.05)
    run.pad.down.clear()
    run.pad.axes[1] = 0.0
    run.run(1.0)
    assert run.mode() is Mode.ENABLED
    assert run.source is Source.POLICY
    back_ns = next(s.stamp_ns for s in run.witness.safety if s.stamp_ns > asked_ns and s.mode is Mode.ENABLED)
    by_policy = [c for c in run.since(back_ns) if c.provenance.source is Source.POLICY]
    assert all(c.provenance.observation_ns > back_ns for c in by_policy)
    older = [c for c in run.policy.sent.values() if c.observation_ns <= back_ns]
    assert any(s.spliced_ns > back_ns for s in run.witness.splices)
    assert not {s.chunk_id for s in run.witness.splices if s.spliced_ns > back_ns} & {c.chunk_id for c in older}
    assert sources(run, back_ns) <= {Source.POLICY, Source.HOLD}
    assert by_policy[0].provenance.override_id == -1
    assert_within_limits(run.commands)


def test_takeover_and_return_jump_by_no_more_than_a_ticks_limit_whatever_both_want() -> None:
    """Both ways, many times, with a policy that goes one way and a person who goes another."""
    run = Takeover().moving()
    rng = np.random.default_rng(0)
    for i in range(12):
        run.policy.velocity = float(rng.uniform(-0.6, 0.6))
        run.pad.axes = [*rng.uniform(-1.0, 1.0, 4).tolist(), *rng.uniform(0.0, 1.0, 2).tolist()]
        run.pad.down = {LB, *([Button.X] if i % 3 == 0 else [Button.RIGHT_SHOULDER] if i % 3 == 1 else [])}
        run.run(float(rng.uniform(0.1, 0.6)))
        assert run.mode() is Mode.OVERRIDE
        run.pad.down = {LB, START} if i % 2 else {START}
        run.run(0.02)
        run.pad.down = set()
        run.run(float(rng.uniform(0.1, 0.6)))
        assert run.mode() is Mode.ENABLED
    overrides = {c.provenance.override_id for c in run.commands if c.provenance.source is Source.TELEOP}
    assert overrides == set(range(12))
    assert_within_limits(run.commands)


def test_a_controller_that_is_unplugged_during_a_takeover_holds_and_does_not_give_back() -> None:
    """Fault 18: within 150 ms, and the policy does not resume, not even when it is plugged in again."""
    run = Takeover().taken(stick=1.0)
    run.pad.plugged = False
    gone_ns = run.host.now_ns
    run.run(0.3)
    assert run.mode() is Mode.HOLD
    assert "teleop_lost" in run.codes
    held = next(c for c in run.since(gone_ns) if c.provenance.source is Source.HOLD)
    assert held.commanded_ns - gone_ns <= 15 * MS
    assert run.speed() == 0.0
    run.pad.plugged = True
    run.run(2.0)
    assert run.mode() is Mode.HOLD
    assert sources(run, held.commanded_ns) == HELD
    assert_within_limits(run.commands)


def test_a_controller_that_only_repeats_itself_is_lost_too() -> None:
    """Over ROS an unplugged controller may simply say nothing more."""
    run = Takeover().taken(stick=1.0)
    run.pad.silent_since_ns = gone_ns = run.host.now_ns
    run.run(0.5)
    held = next(c for c in run.since(gone_ns) if c.provenance.source is Source.HOLD)
    assert held.commanded_ns - gone_ns <= 150 * MS
    assert "teleop_lost" in run.codes


def test_a_controller_that_is_not_there_or_makes_no_sense_does_not_disturb_the_policy() -> None:
    run = Takeover().moving()
    before_ns = run.host.now_ns
    run.pad.plugged = False
    run.run(0.3)
    run.pad.plugged = True
    run.pad.axes[2] = nan
    run.run(0.3)
    run.pad.axes[2] = 0.0
    run.run(0.3)
    assert sources(run, before_ns) == {Source.POLICY}


@pytest.mark.parametrize("way", [nan, 1.5, -1.5])
def test_an_axis_that_cannot_be_holds_a_takeover_and_names_its_cause(way: float) -> None:
    run = Takeover().taken(stick=1.0)
    run.pad.axes[2] = way
    run.run(0.02)
    assert run.mode() is Mode.HOLD
    assert "teleop_not_finite" in run.codes
    run.pad.axes[2] = 0.0
    run.run(0.5)
    assert run.speed() == 0.0
    assert_within_limits(run.commands)


def test_b_holds_whoever_commands() -> None:
    for run in (Takeover().moving(), Takeover().taken(stick=1.0)):
        run.pad.down.add(Button.B)
        run.run(0.3)
        assert run.mode() is Mode.HOLD
        assert "teleop_hold" in run.codes
        assert run.speed() == 0.0
        run.pad.down.discard(Button.B)
        run.run(0.5)
        assert run.mode() is Mode.HOLD


def test_back_and_start_together_clear_a_hold_and_one_alone_does_not() -> None:
    run = Takeover().taken(stick=1.0)
    run.pad.down = {Button.B}
    run.run(0.3)
    for alone in (Button.BACK, START):
        run.pad.down = {alone}
        run.run(0.1)
        run.pad.down = set()
        run.run(0.1)
    assert run.mode() is Mode.HOLD
    run.pad.axes[1] = 0.0
    held_ns = run.host.now_ns
    run.pad.down = {Button.BACK, START}
    run.run(0.5)
    assert run.mode() is Mode.ENABLED
    assert [c.action for c in run.witness.operator] == ["resume"]
    by_policy = [c for c in run.since(held_ns) if c.provenance.source is Source.POLICY]
    assert all(c.provenance.observation_ns > held_ns for c in by_policy)
    assert_within_limits(run.commands)


def test_a_fault_takes_the_chord_twice_and_only_when_its_cause_is_gone() -> None:
    run = Takeover().moving()
    run.arms[0].faults = ("joint 3 collision",)
    run.run(0.3)
    assert run.mode() is Mode.FAULT

    def strike() -> None:
        run.pad.down = {Button.BACK, START}
        run.run(0.1)
        run.pad.down = set()
        run.run(0.1)

    strike()
    assert run.mode() is Mode.FAULT, "it is still there"
    run.arms[0].faults = ()
    strike()
    assert run.mode() is Mode.HOLD
    strike()
    assert run.mode() is Mode.ENABLED
    assert [c.action for c in run.witness.operator] == ["clear_fault", "clear_fault", "resume"]


def test_a_deadman_pressed_during_a_hold_has_the_arms_when_it_is_cleared() -> None:
    run = Takeover().taken()
    run.pad.down = {Button.B}
    run.run(0.3)
    run.pad.down = {LB}
    run.run(0.05)
    held_ns = run.host.now_ns
    run.pad.down = {LB, Button.BACK, START}
    run.run(0.5)
    assert run.mode() is Mode.OVERRIDE
    assert Source.POLICY not in sources(run, held_ns)
    assert run.commands[-1].provenance.override_id == 1


def test_the_triggers_work_the_grippers() -> None:
    run = Takeover().taken()
    left, right = run.commands[-1].gripper_width_m
    run.pad.axes[4] = 1.0
    run.run(0.1)
    assert run.commands[-1].gripper_width_m[0] < left - 0.005
    assert run.commands[-1].gripper_width_m[1] == right
    run.pad.down.add(Button.RIGHT_SHOULDER)
    run.run(0.5)
    assert run.commands[-1].gripper_width_m[0] > left
    assert run.speed() == 0.0


def test_an_override_is_recorded_as_an_intervention_with_the_persons_commands(tmp_path: Path) -> None:
    rig = RigConfig(name="bench", kind="twin", left=ArmConfig(), right=ArmConfig())
    run = Takeover(extra=[RecorderStage(tmp_path, RunConfig(rig=rig))])

    def say(action: Literal["start", "success"]) -> None:
        run.host.inject("episode", EpisodeControl(action=action, name="taken", issued_ns=run.host.now_ns))

    say("start")
    run.taken(stick=1.0)
    run.run(0.7)
    run.pad.down = {START}
    run.run(0.5)
    say("success")
    run.run(0.1)
    run.host.stop()
    path = tmp_path / "taken.mcap"
    found = summarise(path)["interventions"]
    assert found["count"] == 1
    assert found["total_s"] == pytest.approx(1.0, abs=0.03)
    by_person = [
        entry.message
        for entry in read(path)
        if isinstance(entry.message, JointCommand) and entry.message.provenance.source is Source.TELEOP
    ]
    assert {c.provenance.override_id for c in by_person} == {0}
    assert len(by_person) == pytest.approx(200, abs=5)
    asked = [entry.message for entry in read(path) if isinstance(entry.message, TeleopCommand)]
    moving = [c for c in asked if c.deadman and np.abs(c.joint_velocity_rad_s[:6]).max() > 0.05]
    assert len(moving) > 150


class LostGuide:
    """Leader arms that are not there."""

    def __init__(self) -> None:
        self.there = True
        self.closed = False

    def velocity(self, now_ns: int, set_point: Float64, jog: Jog) -> Float64 | None:
        """Slowly, or not at all."""
        return np.full(14, 0.1) if self.there else None

    def rest(self, now_ns: int) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_whoever_has_the_controller_begins_and_ends_episodes_while_the_arms_go_on() -> None:
    run = Takeover().moving()
    for button in (Button.DPAD_UP, Button.DPAD_LEFT):
        run.pad.down.update({Button.BACK, button})
        run.run(0.1)
        run.pad.down.clear()
        run.run(0.1)
    assert [(asked.action, asked.name) for asked in run.witness.episodes] == [("start", ""), ("failure", "")]
    assert run.source is Source.POLICY


def test_a_guide_that_is_lost_holds_a_takeover_and_cannot_begin_one() -> None:
    guide = LostGuide()
    run = Takeover(guide).taken()
    guide.there = False
    run.run(0.1)
    assert run.mode() is Mode.HOLD
    assert "teleop_lost" in run.codes
    guide = LostGuide()
    guide.there = False
    run = Takeover(guide).moving()
    run.pad.down.add(LB)
    run.run(0.3)
    assert run.mode() is Mode.ENABLED
    run.host.stop()
    assert guide.closed


def test_a_teleop_process_that_dies_during_a_takeover_holds() -> None:
    """Nothing is said any more: only the age of the last sample tells."""
    run = Takeover().taken(stick=1.0)
    died_ns = run.host.now_ns
    run.host._seats[1].stage.step = lambda now_ns, inbox: ()  # type: ignore[method-assign]
    run.run(0.5)
    assert run.mode() is Mode.HOLD
    assert "teleop_stale" in run.codes
    held = next(c for c in run.since(died_ns) if c.provenance.source is Source.HOLD)
    assert held.commanded_ns - died_ns <= 155 * MS
