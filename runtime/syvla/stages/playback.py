"""The playback stage: recorded actions in the place of an expert's, in chunks through the same timeline and gate."""

from collections.abc import Callable, Sequence

import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.config import PolicyConfig, TeleopConfig
from syvla.control.gamepad import Controls, refusal
from syvla.control.observation import proprioception
from syvla.control.playback import Actions, Playback
from syvla.message import Float64
from syvla.messages import (
    BOTH_ARMS_JOINTS,
    ActionChunk,
    ArmState,
    Mode,
    PlaybackControl,
    PlaybackState,
    SafetyState,
    Splice,
)
from syvla.protocols import Emit, Gamepad, Inbox, OnNew
from syvla.topics import topic

ROWS = 12  # 0.4 s: time enough to come to rest
CONTROL_STALE_NS = 500_000_000  # whoever can pause it must be heard
UNHEEDED_NS = 200_000_000  # without a chunk taken: the arms are not where these have led


class PlaybackStage:
    """Plays ``actions`` while the gate lets the policy command, nobody paused it, and the deadman is held.

    It begins at ``speed``, paused, unless told otherwise, and stands when nobody has told it anything for half a
    second. After anything that stopped the arms it approaches the place where the actions stand and goes on from there;
    a place too far away is refused, and what is refused stands.

    Args:
        actions: what was commanded.
        policy: its periods.
        deadman: opens the controller whose deadman must be held for anything to move, and whose B ends it; None: none
            is asked for.
        teleop: how that controller is read.
    """

    name = "expert"
    reads: tuple[str, ...] = ("arm/left", "arm/right", "safety", "splice", "playback")
    writes: tuple[str, ...] = ("chunk", "playback/state")
    lossless = False

    def __init__(
        self, actions: Actions, policy: PolicyConfig, deadman: Callable[[], Gamepad] | None, teleop: TeleopConfig
    ) -> None:
        self._actions = actions
        self._playback = Playback(actions)
        self._open = deadman
        self._gamepad: Gamepad | None = None  # opened by the thread that reads it
        self._controls = Controls(teleop)
        self._period_ns = to_ns(policy.period_s)
        self.trigger = OnNew(("arm/left",), to_ns(policy.expert_min_period_s))
        self._arm_stale_ns = to_ns(topic("arm/left").stale_after_s or 0.0)
        self._heeded_ns: int | None = None  # when the robot last took a chunk, or the approach began; None: it stands
        self._seen_ns = 0
        self._was = (1.0, False)  # speed, and whether to move, that the last chunk was made for
        self._refused = ""
        self._ended = False
        self._next_id = 0

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """One chunk, and where it stands."""
        left, right, safety = inbox.get("arm/left"), inbox.get("arm/right"), inbox.get("safety")
        if not isinstance(left, ArmState) or not isinstance(right, ArmState) or not isinstance(safety, SafetyState):
            return ()
        observation_ns = min(left.measured_ns, right.measured_ns)
        if now_ns - observation_ns > self._arm_stale_ns:
            return ()
        held = self._held(now_ns, safety.mode)
        control = inbox.get("playback")
        speed, paused = 1.0, True
        if isinstance(control, PlaybackControl):
            speed = control.speed
            paused = control.paused or not 0 <= now_ns - control.issued_ns <= CONTROL_STALE_NS
        may_move = held and not paused and not self._ended
        if safety.mode is not Mode.ENABLED:
            self._heeded_ns = None
            return (self._state(now_ns, "stopped", speed),)
        measured = set_points(proprioception(left, right, observation_ns))
        if self._heeded_ns is not None:
            splice = inbox.get("splice")
            if isinstance(splice, Splice):
                self._heeded_ns = max(self._heeded_ns, splice.spliced_ns)
            if now_ns - self._heeded_ns > UNHEEDED_NS:
                self._heeded_ns = None
        if self._heeded_ns is None:
            refused = self._playback.refusal(measured)
            if refused is not None:
                self._refused = refused
                return (self._state(now_ns, "refused", speed),)
            self._heeded_ns, self._refused = now_ns, ""
            self._playback.begin(measured)
        else:
            self._playback.advance(max(observation_ns - self._seen_ns, 0) / NS_PER_S, *self._was)
        self._seen_ns, self._was = observation_ns, (speed, may_move)
        rows = self._playback.rows(ROWS, self._period_ns / NS_PER_S, speed, may_move)
        phase = "done" if self._playback.done else "approach" if self._playback.approaching else "play"
        phase = phase if may_move or phase == "done" else "paused"
        chunk = ActionChunk(
            chunk_id=self._next_id,
            task_id=-1,
            intent_id=-1,
            intent_observation_ns=observation_ns,
            observation_ns=observation_ns,
            period_ns=self._period_ns,
            position_rad=rows[:, :BOTH_ARMS_JOINTS].astype(np.float32),
            gripper_width_m=rows[:, BOTH_ARMS_JOINTS:].astype(np.float32),
            inference_delay_steps=0,
        )
        self._next_id += 1
        return Emit("chunk", chunk), self._state(now_ns, phase, speed)

    def _held(self, now_ns: int, mode: Mode) -> bool:
        """Whether the deadman, where one is asked for, was pressed since the arms last held, and is held."""
        if self._open is None:
            return True
        if self._gamepad is None:
            self._gamepad = self._open()
        pressed = self._gamepad.read(now_ns)
        if pressed is None or refusal(pressed) is not None:
            self._controls.forget()
            return False
        asked = self._controls.read(pressed, mode)
        self._ended = self._ended or asked.request == "hold"
        return asked.deadman

    def _state(self, now_ns: int, phase: str, speed: float) -> Emit:
        state = PlaybackState(
            stamp_ns=now_ns,
            phase="ended" if self._ended else phase,  # type: ignore[arg-type]  # one of its literals
            played_s=self._playback.played_s,
            duration_s=self._actions.duration_s,
            speed=speed,
            refusal=self._refused,
        )
        return Emit("playback/state", state)

    def request_stop(self) -> None:
        """Nothing to prepare."""

    @property
    def stopped(self) -> bool:
        """Always: no step is under way between steps."""
        return True

    def close(self) -> None:
        """Let the controller go."""
        if self._gamepad is not None:
            self._gamepad.close()


def set_points(senses: Float64) -> Float64:
    """Proprioception (14,), arm by arm, as set-points (14,): both arms' joints, then both grippers."""
    by_arm = senses.reshape(2, 7)
    return np.concatenate((by_arm[:, :6].ravel(), by_arm[:, 6]))
