"""The playback stage: recorded actions in the place of an expert's, in chunks through the same timeline and gate."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from syvla.clock import to_ns
from syvla.config import PolicyConfig, RigConfig
from syvla.control.gamepad import Controls, refusal
from syvla.control.observation import proprioception
from syvla.control.playback import KEPT_NS, RAMP_S, Actions, Playback
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

CONTROL_STALE_NS = 500_000_000  # whoever can pause it must be heard
UNHEEDED_NS = 200_000_000  # after a chunk that was not taken the arms are not where these have led
UNDER_WAY_NS = 20_000_000  # until a chunk is there, and the robot's next tick
SEEN_NS = 50_000_000  # how old the feedback is at most
STANDING_RAD_S = 0.05
SHORT_RAD, SHORT_NS = 0.1, 2_000_000_000  # of the end: arms that are no nearer after this time have not got there


class PlaybackStage:
    """Plays ``actions`` while the gate lets the policy command, nobody paused it, and the deadman is held.

    It begins at ``speed``, paused, unless told otherwise, and stands when nobody has told it anything for half a
    second. After anything that stopped the arms it approaches the place where the actions stand and goes on from there;
    a place too far away is refused, and what is refused stands.

    Args:
        actions: what was commanded.
        rig: how late its arms are, and how its controller is read.
        policy: its periods.
        deadman: opens the controller whose deadman must be held for anything to move, and whose B ends it; None: none
            is asked for.
    """

    name = "expert"
    reads: tuple[str, ...] = ("arm/left", "arm/right", "safety", "splice", "playback")
    writes: tuple[str, ...] = ("chunk", "playback/state")
    lossless = False

    def __init__(
        self, actions: Actions, rig: RigConfig, policy: PolicyConfig, deadman: Callable[[], Gamepad] | None
    ) -> None:
        self._actions = actions
        self._playback = Playback(actions)
        self._open = deadman
        self._gamepad: Gamepad | None = None  # opened by the thread that reads it
        self._controls = Controls(rig.teleop)
        self._period_ns = to_ns(policy.period_s)
        late_s = max(max(arm.actuation_delay_s, arm.gripper_delay_s) for arm in (rig.left, rig.right))
        self._sent_ns = to_ns(late_s) + UNDER_WAY_NS  # set-points have been sent for up to so much later than now
        self._rows = -(-(SEEN_NS + self._sent_ns + KEPT_NS + to_ns(RAMP_S)) // self._period_ns) + 2
        self.trigger = OnNew(("arm/left",), to_ns(policy.expert_min_period_s))
        self._arm_stale_ns = to_ns(topic("arm/left").stale_after_s or 0.0)
        self._engaged = False  # whether the arms follow
        self._pending: deque[tuple[int, int, float]] = deque()  # chunks not known to be taken: id, when, played until
        self._refused = ""
        self._ended = False
        self._done_ns: int | None = None
        self._next_id = 0

    def step(self, now_ns: int, inbox: Inbox) -> Sequence[Emit]:
        """One chunk, and where it stands."""
        left, right, safety = inbox.get("arm/left"), inbox.get("arm/right"), inbox.get("safety")
        if not isinstance(left, ArmState) or not isinstance(right, ArmState) or not isinstance(safety, SafetyState):
            return ()
        observation_ns = min(left.measured_ns, right.measured_ns)
        if now_ns - observation_ns > self._arm_stale_ns:
            return ()
        speed, may_move = self._wished(now_ns, inbox, safety.mode)
        if safety.mode is not Mode.ENABLED:
            self._lose()
            return (self._state(now_ns, "stopped", speed),)
        measured = set_points(proprioception(left, right, observation_ns))
        if self._engaged:
            self._playback.advance(observation_ns)
            self._heed(now_ns, inbox)
        if not self._engaged:
            refused = self._playback.refusal(measured)
            if refused is not None:
                self._refused = refused
                return (self._state(now_ns, "refused", speed),)
            if max(np.abs(arm.velocity_rad_s).max() for arm in (left, right)) > STANDING_RAD_S:
                return (self._state(now_ns, "stopped", speed),)  # what was taken last leads them to rest
            self._engaged, self._refused = True, ""
            self._playback.begin(observation_ns, measured)
        self._playback.wish(now_ns + self._sent_ns, speed, may_move)
        phase = self._phase(now_ns, measured, may_move)
        return self._chunk(now_ns, observation_ns), self._state(now_ns, phase, speed)

    def _wished(self, now_ns: int, inbox: Inbox, mode: Mode) -> tuple[float, bool]:
        """The speed, and whether anything may move."""
        held = self._held(now_ns, mode)
        control = inbox.get("playback")
        if not isinstance(control, PlaybackControl):
            return 1.0, False
        if not 0 <= now_ns - control.issued_ns <= CONTROL_STALE_NS:
            self._controls.forget()  # nothing goes on by itself when it is heard again
            return control.speed, False
        return control.speed, held and not control.paused and not self._ended

    def _heed(self, now_ns: int, inbox: Inbox) -> None:
        """See whether the robot takes what it is sent; a step that came late has not been refused anything."""
        splice = inbox.get("splice")
        while self._pending and isinstance(splice, Splice) and self._pending[0][0] <= splice.chunk_id:
            self._pending.popleft()
        if self._pending and now_ns - self._pending[0][1] > UNHEEDED_NS:
            self._playback.rewind(self._pending[0][2])
            self._lose()

    def _lose(self) -> None:
        self._engaged = False
        self._pending.clear()

    def _phase(self, now_ns: int, measured: Float64, may_move: bool) -> str:
        if self._playback.done:
            short_rad = self._playback.short_rad(measured)
            self._done_ns = self._done_ns or now_ns
            if short_rad <= SHORT_RAD:
                return "done"
            if now_ns - self._done_ns > SHORT_NS:
                self._refused = f"everything was played, and a joint is {short_rad:.2f} rad from where that ends"
                return "refused"
        if not may_move:
            return "paused"
        return "approach" if self._playback.approaching else "play"

    def _chunk(self, now_ns: int, observation_ns: int) -> Emit:
        rows = self._playback.rows(self._rows, self._period_ns)
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
        self._pending.append((self._next_id, now_ns, self._playback.played_s))
        self._next_id += 1
        return Emit("chunk", chunk)

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
