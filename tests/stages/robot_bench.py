"""A robot stage with ideal arms under a clock that the test turns.

The arms go where they are told at once, and say so at the next tick.
"""

from collections.abc import Callable, Sequence
from math import nan
from typing import Any

import numpy as np
import pytest

from syvla.clock import NS_PER_S
from syvla.config import ArmConfig, ControlConfig, IntentPolicy, RigConfig, SafetyLimits
from syvla.errors import DriverError
from syvla.message import Float64, Message
from syvla.messages import (
    ActionChunk,
    ArmName,
    ArmState,
    CamerasState,
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
TOPIC = {
    CamerasState: "cameras",
    Task: "task",
    ActionChunk: "chunk",
    TeleopCommand: "teleop",
    OperatorCommand: "operator",
}


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


def towards_each_other(left: Float64, right: Float64) -> float:
    """A distance that the first joints open: 1 cm for 0.1 rad each, 3 cm at HOME."""
    return 0.03 + 0.1 * float(left[0] - right[0])


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
