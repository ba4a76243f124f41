"""The playback stage: recorded actions in the place of an expert's, in chunks through the same timeline and gate."""

from collections.abc import Sequence

import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.config import PolicyConfig
from syvla.control.gamepad import DEADMAN
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
)
from syvla.protocols import Emit, Gamepad, Inbox, OnNew
from syvla.topics import topic

ROWS = 16
STATE_NS = 50_000_000


class PlaybackStage:
    """Plays ``actions`` while the gate lets the policy command, nobody paused it, and the deadman is held.

    It begins at ``speed``, paused, unless told otherwise. After anything that stopped the arms it approaches the place
    where the actions stand and goes on from there; a place too far away is refused, and what is refused stands.

    Args:
        actions: what was commanded.
        policy: its periods.
        deadman: the controller whose deadman must be held for anything to move; None: none is asked for.
    """

    name = "expert"
    reads: tuple[str, ...] = ("arm/left", "arm/right", "safety", "playback")
    writes: tuple[str, ...] = ("chunk", "playback/state")
    lossless = False

    def __init__(self, actions: Actions, policy: PolicyConfig, deadman: Gamepad | None) -> None:
        self._actions = actions
        self._playback = Playback(actions)
        self._deadman = deadman
        self._period_ns = to_ns(policy.period_s)
        self.trigger = OnNew(("arm/left",), to_ns(policy.expert_min_period_s))
        self._arm_stale_ns = to_ns(topic("arm/left").stale_after_s or 0.0)
        self._engaged = False
        self._moving = False
        self._seen_ns: int | None = None
        self._refused = ""
        self._next_id = 0

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """One chunk, and where it stands."""
        left, right, safety = inbox.get("arm/left"), inbox.get("arm/right"), inbox.get("safety")
        control = inbox.get("playback")
        if not isinstance(left, ArmState) or not isinstance(right, ArmState) or not isinstance(safety, SafetyState):
            return ()
        observation_ns = min(left.measured_ns, right.measured_ns)
        if now_ns - observation_ns > self._arm_stale_ns:
            return ()
        speed = control.speed if isinstance(control, PlaybackControl) else 1.0
        may_move = isinstance(control, PlaybackControl) and not control.paused and self._held(now_ns)
        if safety.mode is not Mode.ENABLED:
            self._engaged = self._moving = False
            self._seen_ns = None
            return (self._state(now_ns, "stopped", speed),)
        measured = set_points(proprioception(left, right, observation_ns))
        if not self._engaged:
            refusal = self._playback.refusal(measured)
            if refusal is not None:
                self._refused = refusal
                return (self._state(now_ns, "refused", speed),)
            self._engaged, self._refused = True, ""
            self._playback.begin(measured)
        if self._moving and self._seen_ns is not None:
            self._playback.advance(max(observation_ns - self._seen_ns, 0) / NS_PER_S, speed)
        self._seen_ns, self._moving = observation_ns, may_move
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

    def _held(self, now_ns: int) -> bool:
        """Whether the deadman is held, where one is asked for."""
        if self._deadman is None:
            return True
        pressed = self._deadman.read(now_ns)
        return pressed is not None and len(pressed.buttons) > DEADMAN and bool(pressed.buttons[DEADMAN])

    def _state(self, now_ns: int, phase: str, speed: float) -> Emit:
        state = PlaybackState(
            stamp_ns=now_ns,
            phase=phase,  # type: ignore[arg-type]  # one of its literals
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
        if self._deadman is not None:
            self._deadman.close()


def set_points(senses: Float64) -> Float64:
    """Proprioception (14,), arm by arm, as set-points (14,): both arms' joints, then both grippers."""
    by_arm = senses.reshape(2, 7)
    return np.concatenate((by_arm[:, :6].ravel(), by_arm[:, 6]))
