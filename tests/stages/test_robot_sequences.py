"""No sequence of inputs gets a command past the limits.

Each test of a rule fails when the rule is taken out.
"""

from collections.abc import Sequence
from math import inf, nan

import msgspec
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from robot_bench import MS, Bench, assert_within_limits, break_arm, towards_each_other

from syvla.config import IntentPolicy
from syvla.messages import (
    JointCommand,
    Mode,
    TeleopCommand,
)

# ---------------------------------------------------------------- no sequence of inputs

poison = st.sampled_from((nan, inf, -inf, 1e38, -1e38))
ordinary = st.floats(-3.0, 3.0)
values = ordinary | ordinary | ordinary | poison


class HostileInputs(RuleBasedStateMachine):
    """Whatever comes in whichever order: no command is ever beyond a limit of any joint, either sign, nor NaN."""

    @initialize(policy=st.sampled_from(("use", "slow_down", "hold")), near=st.booleans())
    def start(self, policy: str, near: bool) -> None:
        """Enable."""
        intent = IntentPolicy(stale_policy=policy)  # type: ignore[arg-type]
        self.bench = Bench(intent, distance=towards_each_other if near else lambda left, right: 1.0)
        self.bench.enable()
        self.checked = self.begun = 0  # commands judged, and the first of the motion that goes on

    @rule(ticks=st.integers(1, 40), dt_ms=st.sampled_from((5, 5, 5, 1, 3, 8, 12, 15, 20)))
    def wait(self, ticks: int, dt_ms: int) -> None:
        """Let time pass, regularly or not."""
        for _ in range(ticks):
            self.bench.tick(dt_ns=dt_ms * MS)

    @rule(velocity=st.floats(-5, 5), joints=st.integers(0, 2**12 - 1), ticks=st.integers(1, 60))
    def plausible_chunk(self, velocity: float, joints: int, ticks: int) -> None:
        """Some joints move off, fast or slowly."""
        mask = np.array([(joints >> j) & 1 for j in range(12)])
        self.bench.tick(self.bench.chunk(velocity * mask))
        self.wait(ticks, 5)

    @rule(
        step=st.lists(st.floats(-1e4, 1e4), min_size=12, max_size=12), row=st.integers(1, 49), gripper=st.floats(-9, 9)
    )
    def jumping_chunk(self, step: list[float], row: int, gripper: float) -> None:
        """All joints jump somewhere in the middle."""
        new = self.bench.chunk(0.0)
        rows, grippers = np.array(new.position_rad), np.array(new.gripper_width_m)
        rows[row:] += np.array(step, np.float32)
        grippers[row:] = gripper
        self.bench.tick(msgspec.structs.replace(new, position_rad=rows, gripper_width_m=grippers))
        self.wait(40, 5)

    @rule(value=values, row=st.integers(0, 49), column=st.integers(0, 13), age_ms=st.integers(-50, 2000))
    def spoilt_chunk(self, value: float, row: int, column: int, age_ms: int) -> None:
        """One value is spoilt, or the chunk is late or early."""
        new = self.bench.chunk(0.3, observation_ns=self.bench.now_ns - age_ms * MS)
        rows = np.concatenate((new.position_rad, new.gripper_width_m), axis=1)
        rows[row, column] = value
        self.bench.tick(
            msgspec.structs.replace(
                new, position_rad=np.ascontiguousarray(rows[:, :12]), gripper_width_m=np.ascontiguousarray(rows[:, 12:])
            )
        )

    @rule(
        joints=st.lists(values, min_size=12, max_size=12),
        grippers=st.lists(values, min_size=2, max_size=2),
        deadman=st.booleans(),
        request=st.sampled_from(("none", "override", "override", "policy", "hold")),
        repeats=st.integers(1, 30),
    )
    def teleop(self, joints: list[float], grippers: list[float], deadman: bool, request: str, repeats: int) -> None:
        """Anything from the joystick."""
        for _ in range(repeats):
            self.bench.tick(
                TeleopCommand(
                    sampled_ns=self.bench.now_ns + 1,
                    deadman=deadman,
                    joint_velocity_rad_s=np.array(joints),
                    gripper_velocity_m_s=np.array(grippers),
                    mode_request=request,  # type: ignore[arg-type]
                )
            )

    @rule(action=st.sampled_from(("enable", "hold", "soft_stop", "resume", "resume", "clear_fault")))
    def operator(self, action: str) -> None:
        """Any act of the operator."""
        before = self.bench.mode()
        refusal = self.refusal()
        self.bench.tick(self.bench.operator(action))
        if before is Mode.FAULT and action == "clear_fault" and self.refusal() == refusal:
            # The faulted arm goes on from where it is: the commands before this one are another motion. So they are
            # where the device fails again at once and the mode is a fault as before: in the same tick it was cleared.
            self.judge(self.bench.commands[:-1])
            self.begun = self.checked

    def refusal(self) -> object:
        """The gate's newest refusal to clear or resume; another one after each."""
        return self.bench.stage.gate._warned.get("resume_refused")

    @rule()
    def recover(self) -> None:
        """What an operator does to go on; without it most sequences would end in the first hold."""
        for arm in self.bench.arms:
            arm.silent = arm.read_error = arm.command_error = False
            arm.faults, arm.stamp_ahead_ns, arm.enabled = (), 0, True
            if not np.isfinite(arm.gripper_m):
                arm.gripper_m = 0.03
        self.wait(40, 5)
        for action in ("clear_fault", "resume"):
            self.operator(action)

    @rule(
        arm=st.integers(0, 1),
        how=st.sampled_from(("silent", "faults", "gripper", "ahead", "torque", "read_error", "command_error")),
        ticks=st.integers(1, 120),
    )
    def breakage(self, arm: int, how: str, ticks: int) -> None:
        """An arm fails."""
        break_arm(self.bench.arms[arm], how)
        self.wait(ticks, 5)

    @invariant()
    def every_command_is_within_the_limits(self) -> None:
        """Judge every command sent so far once, by both arms: what one was sent, and what was said to be sent."""
        for arm in self.bench.arms:
            assert np.isfinite(arm.commands).all()
            arm.commands.clear()
        self.judge(self.bench.commands)

    def judge(self, commands: Sequence[JointCommand]) -> None:
        """The commands since the last judgement, and a few before them for their speed."""
        begin = max(self.checked - 3, self.begun)
        assert_within_limits(commands[begin:], from_rest=begin == self.begun)
        self.checked = len(commands)


HostileInputs.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestHostileInputs = HostileInputs.TestCase
