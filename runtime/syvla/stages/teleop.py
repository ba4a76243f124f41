"""The teleop stage: a person with a game controller, and with leader arms if there are any, takes over the arms."""

import logging
from collections.abc import Sequence
from math import nan

import numpy as np

from syvla.clock import to_ns
from syvla.config import TeleopConfig
from syvla.control.gamepad import Asked, Controls, refusal
from syvla.message import Float64
from syvla.messages import (
    BOTH_ARMS_JOINTS,
    EpisodeControl,
    JointCommand,
    Mode,
    OperatorCommand,
    SafetyState,
    TeleopCommand,
)
from syvla.protocols import Emit, Gamepad, GamepadState, Guide, Inbox, Periodic

PERIOD_NS = 5_000_000  # half of what is left of a takeover's 15 ms beside the robot's own tick
SETPOINTS = BOTH_ARMS_JOINTS + 2
_log = logging.getLogger(__name__)


class TeleopStage:
    """Says what a person wants, always; whether it happens is up to the robot's arbiter and gate.

    Args:
        gamepad: the controller: its deadman, its buttons and, for a guide that jogs, its sticks.
        guide: what moves the arms while the deadman is held.
        config: the rig's section ``teleop``.
    """

    name = "teleop"
    reads: tuple[str, ...] = ("safety", "command")
    writes: tuple[str, ...] = ("teleop", "teleop/operator", "teleop/episode")
    trigger = Periodic(PERIOD_NS)
    lossless = False

    def __init__(self, gamepad: Gamepad, guide: Guide, config: TeleopConfig) -> None:
        self._gamepad = gamepad
        self._guide = guide
        self._controls = Controls(config)
        self._silent_ns = to_ns(config.silent_s)
        self._commands = 0
        self._trouble = ""
        self._stopping = False

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """One sample."""
        state = self._gamepad.read(now_ns)
        if state is None or not -PERIOD_NS <= now_ns - state.sampled_ns <= self._silent_ns:
            return [self._lost(now_ns, "no controller is plugged in" if state is None else "the controller is silent")]
        trouble = refusal(state)
        if trouble is not None:
            return [self._refused(now_ns, f"the controller makes no sense: {trouble}")]
        return self._ask(now_ns, state, inbox)

    def _ask(self, now_ns: int, state: GamepadState, inbox: Inbox) -> list[Emit]:
        safety, command = inbox.get("safety"), inbox.get("command")
        mode = safety.mode if isinstance(safety, SafetyState) else None
        asked = self._controls.read(state, mode)
        velocity: Float64 | None = np.zeros(SETPOINTS)
        if asked.deadman and mode in (Mode.ENABLED, Mode.OVERRIDE) and isinstance(command, JointCommand):
            set_point = np.concatenate((command.position_rad, command.gripper_width_m))
            velocity = self._guide.velocity(now_ns, set_point, asked.jog)
        else:
            self._guide.rest(now_ns)
        if velocity is None:
            return [self._lost(now_ns, "a leader arm is silent")]
        self._say("")
        emits = [self._command(now_ns, velocity, asked)]
        if asked.clear:
            self._commands += 1
            operator = OperatorCommand(
                command_id=self._commands,
                issued_ns=now_ns,
                action="clear_fault" if mode is Mode.FAULT else "resume",
            )
            emits.append(Emit("teleop/operator", operator))
        if asked.episode is not None:
            emits.append(Emit("teleop/episode", EpisodeControl(action=asked.episode, name="", issued_ns=now_ns)))
        return emits

    def _lost(self, now_ns: int, why: str) -> Emit:
        """The device is gone: an override becomes a hold, and is not given back by itself."""
        self._forget(now_ns, why)
        return _teleop(now_ns, False, np.zeros(SETPOINTS), "lost", why)

    def _refused(self, now_ns: int, why: str) -> Emit:
        """What cannot be true is handed on as such: the gate holds an override for it, and says so."""
        self._forget(now_ns, why)
        return _teleop(now_ns, True, np.full(SETPOINTS, nan), "none", "the controller makes no sense")

    def _forget(self, now_ns: int, why: str) -> None:
        self._controls.forget()
        self._guide.rest(now_ns)
        self._say(why)

    def _say(self, trouble: str) -> None:
        """Log what is wrong when that changes."""
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("%s", trouble or "the controller is there")

    def _command(self, now_ns: int, velocity: Float64, asked: Asked) -> Emit:
        return _teleop(now_ns, asked.deadman, velocity, asked.request, self._controls.setting)

    def request_stop(self) -> None:
        """The robot holds by itself; nothing to prepare."""
        self._stopping = True

    @property
    def stopped(self) -> bool:
        """True once a stop was requested."""
        return self._stopping

    def close(self) -> None:
        """Let the devices go."""
        self._guide.close()
        self._gamepad.close()


def _teleop(now_ns: int, deadman: bool, velocity: Float64, request: str, setting: str) -> Emit:
    command = TeleopCommand(
        sampled_ns=now_ns,
        deadman=deadman,
        joint_velocity_rad_s=velocity[:BOTH_ARMS_JOINTS],
        gripper_velocity_m_s=velocity[BOTH_ARMS_JOINTS:],
        mode_request=request,  # type: ignore[arg-type]
        setting=setting,
    )
    return Emit("teleop", command)
