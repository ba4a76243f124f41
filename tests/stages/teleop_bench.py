"""A robot with ideal arms, a scripted policy and a person at a scripted controller, under the virtual clock."""

from collections.abc import Iterable, Sequence

import numpy as np
from robot_bench import LIMITS, MS, PERIOD, IdealArm

from syvla.clock import NS_PER_S
from syvla.config import ArmConfig, RigConfig, TeleopConfig
from syvla.control.gamepad import Button
from syvla.control.kinematics import Base
from syvla.hosts.lockstep import LockstepHost
from syvla.message import Float64
from syvla.messages import (
    ActionChunk,
    ArmName,
    ArmState,
    EpisodeControl,
    JointCommand,
    Mode,
    OperatorCommand,
    SafetyState,
    Source,
    Splice,
    TeleopCommand,
)
from syvla.protocols import ArmDriver, Emit, GamepadState, Guide, Inbox, OnNew, Periodic, Stage
from syvla.stages.robot import RobotStage
from syvla.stages.teleop import PERIOD_NS, TeleopStage
from syvla.teleop.jog import Jogger

START = Button.START
LB = Button.LEFT_SHOULDER
BASES = (Base(0.0, 0.3), Base(0.0, -0.3))


class ScriptedPad:
    """A controller in the hands of a test."""

    def __init__(self) -> None:
        self.plugged = True
        self.silent_since_ns: int | None = None
        self.axes = [0.0] * 6
        self.down: set[int] = set()

    def read(self, now_ns: int) -> GamepadState | None:
        """What the test holds."""
        if not self.plugged:
            return None
        stamp_ns = now_ns if self.silent_since_ns is None else self.silent_since_ns
        return GamepadState(stamp_ns, tuple(self.axes), [button in self.down for button in range(len(Button))])

    def close(self) -> None:
        """Nothing to let go."""


class Policy:
    """Moves every joint at ``velocity``, with a chunk each 50 ms from what it saw 40 ms before."""

    name = "expert"
    reads: tuple[str, ...] = ("arm/left", "arm/right")
    writes: tuple[str, ...] = ("chunk",)
    trigger = Periodic(50 * MS)
    lossless = False
    stopped = True

    def __init__(self) -> None:
        self.velocity = 0.3
        self.sent: dict[int, ActionChunk] = {}
        self._seen: list[tuple[int, Float64]] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """A chunk from what was measured a while ago."""
        states = [inbox.get(topic) for topic in self.reads]
        if all(isinstance(s, ArmState) for s in states):
            pose = np.concatenate([s.position_rad for s in states if isinstance(s, ArmState)])
            self._seen = [*self._seen, (now_ns, pose)][-2:]
            at_ns, start = self._seen[0]
            rows = start + np.arange(50)[:, None] * (PERIOD / 1e9) * self.velocity * np.ones(12)
            chunk = ActionChunk(
                chunk_id=len(self.sent),
                task_id=1,
                intent_id=1,
                intent_observation_ns=at_ns,
                observation_ns=at_ns,
                period_ns=PERIOD,
                position_rad=rows.astype(np.float32),
                gripper_width_m=np.full((50, 2), 0.03, np.float32),
                inference_delay_steps=1,
            )
            self.sent[chunk.chunk_id] = chunk
            yield Emit("chunk", chunk)

    def request_stop(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing is owned."""


class Witness:
    """Keeps what was said."""

    name = "witness"
    reads: tuple[str, ...] = ("command", "safety", "splice", "teleop", "teleop/operator", "teleop/episode")
    writes: tuple[str, ...] = ()
    trigger = OnNew(reads)
    lossless = True
    stopped = True

    def __init__(self) -> None:
        self.commands: list[JointCommand] = []
        self.safety: list[SafetyState] = []
        self.splices: list[Splice] = []
        self.teleop: list[TeleopCommand] = []
        self.operator: list[OperatorCommand] = []
        self.episodes: list[EpisodeControl] = []

    def step(self, now_ns: int, inbox: Inbox) -> Iterable[Emit]:
        """Note it."""
        for received in inbox.fresh:
            message = received.message
            if isinstance(message, JointCommand):
                self.commands.append(message)
            elif isinstance(message, SafetyState):
                self.safety.append(message)
            elif isinstance(message, Splice):
                self.splices.append(message)
            elif isinstance(message, TeleopCommand):
                self.teleop.append(message)
            elif isinstance(message, OperatorCommand):
                self.operator.append(message)
            elif isinstance(message, EpisodeControl):
                self.episodes.append(message)
        return ()

    def request_stop(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing is owned."""


class Takeover:
    """The whole of it; time passes in :meth:`run`."""

    def __init__(self, guide: Guide | None = None, extra: Sequence[Stage] = ()) -> None:
        self.pad = ScriptedPad()
        self.policy = Policy()
        self.witness = Witness()
        self.arms = [IdealArm("left"), IdealArm("right")]
        rig = RigConfig(name="bench", kind="twin", left=ArmConfig(), right=ArmConfig())
        drivers: dict[ArmName, ArmDriver] = {"left": self.arms[0], "right": self.arms[1]}
        self.robot = RobotStage(drivers, rig, lambda left, right: 1.0)
        teleop = TeleopStage(self.pad, guide or Jogger(*BASES, LIMITS, PERIOD_NS), TeleopConfig())
        self.host = LockstepHost([*extra, self.robot, teleop, self.policy, self.witness], start_ns=1000 * NS_PER_S)
        self.sent = 0

    def mode(self) -> Mode:
        """The mode of the gate."""
        return self.robot.gate.mode

    @property
    def commands(self) -> Sequence[JointCommand]:
        """Every command so far."""
        return self.witness.commands

    @property
    def source(self) -> Source:
        """Who made the last command."""
        return self.commands[-1].provenance.source

    @property
    def codes(self) -> set[str]:
        """The codes of all reasons shown."""
        return {reason.code for reason in self.robot.gate.reasons}

    def run(self, seconds: float) -> "Takeover":
        """Let time pass."""
        self.host.run_until(self.host.now_ns + round(seconds * NS_PER_S))
        return self

    def operate(self, action: str) -> "Takeover":
        """The operator at the console says something."""
        self.sent += 1
        command = OperatorCommand(command_id=self.sent, issued_ns=self.host.now_ns, action=action)  # type: ignore[arg-type]
        self.host.inject("operator", command)
        return self.run(0.01)

    def moving(self) -> "Takeover":
        """Enable, and let the policy move the arms."""
        self.run(0.02).operate("enable").run(0.5)
        assert self.mode() is Mode.ENABLED
        assert self.source is Source.POLICY
        assert self.speed() > 0.1
        return self

    def taken(self, stick: float = 0.0) -> "Takeover":
        """A person takes over from a moving policy, and pushes the left stick forward."""
        self.moving()
        self.pad.down.add(LB)
        self.pad.axes[1] = -stick
        self.run(0.3)
        assert self.mode() is Mode.OVERRIDE
        return self

    def speed(self) -> float:
        """The largest joint speed of the last two commands [rad/s]."""
        first, second = self.commands[-2:]
        return float(np.abs(second.position_rad - first.position_rad).max() * 200)

    def since(self, at_ns: int) -> list[JointCommand]:
        """The commands later than that."""
        return [c for c in self.commands if c.commanded_ns > at_ns]
