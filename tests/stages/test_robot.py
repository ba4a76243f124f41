"""The robot stage against the safety rules: each test fails when its rule is taken out.

The arms here are ideal devices: they go where they are told at once, and say so at the next tick.
"""

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syvla.clock import NS_PER_S
from syvla.config import ArmConfig, ControlConfig, IntentPolicy, RigConfig, SafetyLimits
from syvla.errors import ConfigError, DriverError
from syvla.message import Float64, Message
from syvla.messages import (
    ActionChunk,
    ArmName,
    ArmState,
    JointCommand,
    Mode,
    OperatorCommand,
    SafetyState,
    Source,
    Splice,
    Task,
    TeleopCommand,
)
from syvla.protocols import ArmDriver, Header, Inbox, Received
from syvla.stages.robot import RobotStage

MS = 1_000_000
TICK = 5 * MS
PERIOD = 33_333_333
LIMITS, INTENT, CONTROL = SafetyLimits(), IntentPolicy(), ControlConfig()
LEAST, MOST = np.array(LIMITS.position_min_rad * 2), np.array(LIMITS.position_max_rad * 2)
SPEED, ACCELERATION = np.array(LIMITS.velocity_rad_s * 2), np.array(LIMITS.acceleration_rad_s2 * 2)
HOME = np.array([0.0, 1.0, -1.0, 0.0, 0.0, 0.0] * 2)
TOPIC = {Task: "task", ActionChunk: "chunk", TeleopCommand: "teleop", OperatorCommand: "operator"}


class IdealArm:
    """A device that follows at once, and fails as it is told to."""

    def __init__(self, arm: ArmName) -> None:
        self.arm: ArmName = arm
        self.position = HOME[:6].copy()
        self.gripper_m = 0.03
        self.enabled = False
        self.answers = True  # to enable
        self.silent = False
        self.stamp_ahead_ns = 0
        self.faults: tuple[str, ...] = ()
        self.limits_rad = ([-10.0] * 6, [10.0] * 6)
        self.read_error = self.command_error = self.enable_error = False
        self.commands: list[Float64] = []
        self.closed = False
        self._state: ArmState | None = None

    def open(self) -> None:
        """Nothing to connect."""

    def enable(self) -> bool:
        """Give torque, or not."""
        if self.enable_error:
            raise DriverError("bus off")
        self.enabled = self.enabled or self.answers
        return self.answers

    @property
    def position_limits_rad(self) -> tuple[list[float], list[float]]:
        """What its motors allow."""
        return self.limits_rad

    def read(self, now_ns: int) -> ArmState | None:
        """What it measures now, or the last it said."""
        if self.read_error:
            raise DriverError("bus off")
        if not self.silent:
            self._state = ArmState(
                arm=self.arm,
                measured_ns=now_ns + self.stamp_ahead_ns,
                position_rad=self.position.copy(),
                velocity_rad_s=np.zeros(6),
                effort_nm=np.zeros(6),
                gripper_width_m=self.gripper_m,
                enabled=self.enabled,
                faults=self.faults,
            )
        return self._state

    def command(self, position_rad: Float64, gripper_width_m: float) -> None:
        """Go there at once."""
        if self.command_error:
            raise DriverError("no buffer space")
        self.commands.append(np.append(position_rad, gripper_width_m))
        self.position, self.gripper_m = position_rad.copy(), gripper_width_m

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Bench:
    """A robot stage with ideal arms under a clock that the test turns."""

    def __init__(
        self,
        intent: IntentPolicy = INTENT,
        control: ControlConfig = CONTROL,
        distance: Callable[[Float64, Float64], float] = lambda left, right: 1.0,
        safety: SafetyLimits = LIMITS,
    ) -> None:
        self.now_ns = 1_000 * NS_PER_S
        self.arms = [IdealArm("left"), IdealArm("right")]
        self.distance = distance
        base = ArmConfig()
        config = RigConfig(
            name="bench", kind="twin", left=base, right=base, intent=intent, control=control, safety=safety
        )
        drivers: dict[ArmName, ArmDriver] = {"left": self.arms[0], "right": self.arms[1]}
        self.stage = RobotStage(drivers, config, lambda left, right: self.distance(left, right))
        self.commands: list[JointCommand] = []
        self.safety: list[SafetyState] = []
        self.splices: list[Splice] = []
        self.arm_states: list[ArmState] = []
        self.sent = 0

    def mode(self) -> Mode:
        """The mode of the gate."""
        return self.stage.gate.mode

    def source(self) -> Source:
        """Who made the last command."""
        return self.last.provenance.source

    @property
    def codes(self) -> set[str]:
        """The codes of all reasons shown."""
        return {reason.code for reason in self.stage.gate.reasons}

    @property
    def pose(self) -> Float64:
        """The last set-points of both arms."""
        return self.commands[-1].position_rad

    @property
    def last(self) -> JointCommand:
        """The last command."""
        return self.commands[-1]

    def tick(self, *messages: Message, dt_ns: int = TICK) -> None:
        """Let ``dt_ns`` pass, then step with ``messages``."""
        self.now_ns += dt_ns
        fresh = []
        for message in messages:
            header = Header(TOPIC[type(message)], 0, 0, self.now_ns, 0)
            fresh.append(Received(header, message, self.now_ns, lambda: ()))
        for emit in self.stage.step(self.now_ns, Inbox({}, fresh)):
            lists: dict[str, list[Any]] = {"command": self.commands, "safety": self.safety, "splice": self.splices}
            lists.get(emit.topic, self.arm_states).append(emit.message)

    def run(self, seconds: float) -> None:
        """Tick for a while."""
        for _ in range(round(seconds * 200)):
            self.tick()

    def operator(self, action: str, issued_ns: int | None = None) -> OperatorCommand:
        """What the operator says at the next tick."""
        self.sent += 1
        issued_ns = self.now_ns if issued_ns is None else issued_ns
        return OperatorCommand(command_id=self.sent, issued_ns=issued_ns, action=action)  # type: ignore[arg-type]

    def teleop(self, velocity: float = 0.0, deadman: bool = True, request: str = "none") -> TeleopCommand:
        """A sample of the joystick for the next tick."""
        return TeleopCommand(
            sampled_ns=self.now_ns + 1,
            deadman=deadman,
            joint_velocity_rad_s=np.full(12, velocity),
            gripper_velocity_m_s=np.zeros(2),
            mode_request=request,  # type: ignore[arg-type]
        )

    def chunk(
        self, velocity: float | Float64 = 0.2, start: Float64 | None = None, horizon: int = 50, **change: Any
    ) -> ActionChunk:
        """A chunk from the newest observation that moves at ``velocity`` from ``start`` (the pose of the arms)."""
        self.sent += 1
        pose = np.concatenate([arm.position for arm in self.arms]) if start is None else start
        rows = pose + np.arange(horizon)[:, None] * (PERIOD / 1e9) * np.asarray(velocity)
        fields = {
            "chunk_id": self.sent,
            "intent_id": 5,
            "task_id": 1,
            "intent_observation_ns": self.now_ns - 100 * MS,
            "observation_ns": self.now_ns + 1,  # later than the tick before
            "period_ns": PERIOD,
            "position_rad": rows * np.ones(12),
            "gripper_width_m": np.full((horizon, 2), 0.03),
            "inference_delay_steps": 0,
        } | change
        for name in ("position_rad", "gripper_width_m"):
            fields[name] = np.asarray(fields[name], np.float32)
        return ActionChunk(**fields)

    def enable(self) -> "Bench":
        """Let the operator enable; the arms stand."""
        self.tick()
        self.tick(self.operator("enable"))
        assert self.mode() is Mode.ENABLED
        return self

    def move(self, seconds: float = 0.5, velocity: float = 0.2) -> "Bench":
        """Enable, and follow the policy until the arms move at ``velocity``."""
        self.enable()
        self.tick(self.chunk(velocity))
        self.run(seconds)
        assert self.mode() is Mode.ENABLED
        assert self.speed() == pytest.approx(velocity, rel=1e-2)
        return self

    def speed(self) -> float:
        """The largest joint speed of the last two commands."""
        first, second = self.commands[-2:]
        return float(
            np.abs(second.position_rad - first.position_rad).max() / (second.commanded_ns - first.commanded_ns) * 1e9
        )

    def assert_holds(self, *codes: str, mode: Mode = Mode.HOLD) -> None:
        """The arms hold because of ``codes``; they come to rest within 150 ms and stay, whatever the policy says."""
        assert self.mode() is mode
        assert set(codes) <= self.codes
        assert self.source() is Source.HOLD
        self.run(0.15)
        rest = self.pose.copy()
        for _ in range(20):
            self.tick(self.chunk(0.5), self.teleop(0.5, request="override"))
        assert self.mode() is mode
        assert self.pose.tolist() == rest.tolist()
        for arm in self.arms:
            assert not arm.closed
            assert arm.enabled
        assert_within_limits(self.commands)


def assert_within_limits(commands: Sequence[JointCommand], from_rest: bool = True) -> None:
    """Every command within position, velocity and acceleration limits of every joint, both signs."""
    if not commands:
        return
    at_ns = np.array([c.commanded_ns for c in commands])
    q = np.array([c.position_rad for c in commands])
    grippers = np.array([c.gripper_width_m for c in commands])
    assert np.isfinite(q).all()
    assert (q >= LEAST).all()
    assert (q <= MOST).all()
    assert ((grippers >= 0) & (grippers <= 0.07)).all()
    dt = np.diff(at_ns)[:, None] / 1e9
    moved = np.diff(q, axis=0)
    counted = dt[:, 0] > 0
    assert not moved[~counted].any()
    v = moved[counted] / dt[counted]
    assert (np.abs(v) <= SPEED + 1e-6).all()
    assert (np.abs(np.diff(grippers, axis=0)) <= LIMITS.gripper_velocity_m_s * dt + 1e-9).all()
    change = np.abs(np.diff(v, axis=0, prepend=0 * v[:1] if from_rest else v[:1]))
    assert (change <= ACCELERATION * dt[counted] + 1e-5).all()


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


# ---------------------------------------------------------------- faults


def break_arm(arm: IdealArm, how: str) -> None:
    if how == "faults":
        arm.faults = ("joint 3 collision",)
    elif how == "gripper":
        arm.gripper_m = nan
    elif how == "ahead":
        arm.stamp_ahead_ns = 20 * MS
    elif how == "torque":
        arm.enabled = False
    else:
        setattr(arm, how, True)


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


# ---------------------------------------------------------------- the distance between the arms


def towards_each_other(left: Float64, right: Float64) -> float:
    """A distance that the first joints open: 1 cm for 0.1 rad each, 3 cm at HOME."""
    return 0.03 + 0.1 * float(left[0] - right[0])


def apart(speed: float) -> Float64:
    return np.array([speed, 0, 0, 0, 0, 0, -speed, 0, 0, 0, 0, 0])


def test_close_arms_slow_down_within_20_ms_at_the_acceleration_limit() -> None:
    bench = Bench().move(velocity=0.2)
    rows = np.tile(bench.pose, (50, 1))
    rows[10:, 0] = 2.0
    bench.tick(bench.chunk(position_rad=rows))
    bench.run(0.55)
    assert bench.speed() > 1.5
    bench.distance = lambda left, right: 0.049
    bench.run(0.02)
    assert "arm_distance_slow" in bench.codes
    bench.run(0.1)
    assert bench.speed() == pytest.approx(0.2 * 2.0, rel=1e-3)
    assert bench.mode() is Mode.ENABLED
    assert_within_limits(bench.commands)


@pytest.mark.parametrize("distance_m", [0.019, -0.01, nan])
def test_arms_too_close_hold_within_20_ms(distance_m: float) -> None:
    bench = Bench().move()
    bench.distance = lambda left, right: distance_m
    bench.run(0.02)
    assert bench.mode() is Mode.HOLD
    bench.assert_holds("arm_distance_hold")


def test_arms_that_approach_fast_stop_before_the_limit_and_not_beyond_it() -> None:
    """It is where the arms would stand if they braked now that must not be too close."""
    safety = msgspec.structs.replace(LIMITS, arm_distance_slow_factor=1.0, arm_distance_every_ticks=1)
    bench = Bench(distance=lambda left, right: 0.12 + 0.5 * float(left[0] - right[0]), safety=safety)
    bench.enable()
    bench.tick(bench.chunk(apart(-0.8)))
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    bench.assert_holds("arm_distance_hold")
    assert 0.014 <= bench.distance(bench.pose[:6], bench.pose[6:]) <= 0.02


def test_a_distance_that_is_not_a_number_where_the_arms_are_heading_holds() -> None:
    safety = msgspec.structs.replace(LIMITS, arm_distance_every_ticks=1)
    bench = Bench(distance=lambda left, right: 0.06 if left[0] < 0.2 else nan, safety=safety)
    bench.enable()
    bench.tick(bench.chunk(1.0))
    while bench.mode() is Mode.ENABLED:
        bench.tick()
    assert bench.arms[0].position[0] < 0.19
    bench.assert_holds("arm_distance_hold")


def test_an_arm_that_is_pushed_too_close_holds_although_its_set_point_is_far() -> None:
    bench = Bench(distance=towards_each_other).enable()
    arm = bench.arms[0]
    arm.command = lambda position_rad, gripper_width_m: None  # type: ignore[method-assign]
    arm.position = HOME[:6] - np.array([0.2, 0, 0, 0, 0, 0])
    bench.run(0.02)
    assert bench.mode() is Mode.HOLD
    assert "arm_distance_hold" in bench.codes


def test_a_person_may_not_bring_arms_closer_that_are_held_too_close() -> None:
    bench = Bench(distance=lambda left, right: towards_each_other(left, right) - 0.02)
    bench.enable()
    bench.run(0.05)
    bench.tick(bench.operator("resume"))
    closer = TeleopCommand(
        sampled_ns=bench.now_ns + 1,
        deadman=True,
        joint_velocity_rad_s=apart(-0.4),
        gripper_velocity_m_s=np.zeros(2),
        mode_request="override",
    )
    bench.tick(closer)
    bench.run(0.1)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) >= 0.01 - 3e-4
    assert_within_limits(bench.commands)


def test_arms_held_too_close_may_move_apart_and_not_closer() -> None:
    bench = Bench(distance=lambda left, right: towards_each_other(left, right) - 0.02)
    bench.enable()
    bench.run(0.05)
    assert "arm_distance_hold" in bench.codes
    bench.tick(bench.operator("resume"))
    assert bench.mode() is Mode.ENABLED
    bench.run(0.1)
    assert bench.mode() is Mode.ENABLED  # standing is allowed
    bench.tick(bench.chunk(apart(-0.05)))
    bench.run(0.4)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) >= 0.01 - 3e-4
    bench.tick(bench.operator("resume"))
    for _ in range(40):
        bench.tick(bench.chunk(apart(0.2)))
        bench.run(0.05)
    assert bench.mode() is Mode.ENABLED
    assert bench.distance(bench.pose[:6], bench.pose[6:]) > 0.02
    # once apart, coming close again holds again
    for _ in range(40):
        bench.tick(bench.chunk(apart(-0.2)))
        bench.run(0.05)
    assert bench.mode() is Mode.HOLD
    assert bench.distance(bench.pose[:6], bench.pose[6:]) < 0.022
    assert_within_limits(bench.commands)


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
        self.bench.tick(self.bench.operator(action))
        if before is Mode.FAULT and self.bench.mode() is Mode.HOLD:
            # The faulted arm goes on from where it is: the commands before this one are another motion.
            self.judge(self.bench.commands[:-1])
            self.begun = self.checked

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
