"""The safety gate: what every input must pass before it may move an arm, and why the arms hold.

Time is an argument and devices are not known here. Each rule trips one cause of :data:`~syvla.control.mode.CAUSES`;
the mode machine latches it, and the gate then brakes both arms within their acceleration limits and keeps them
standing with torque on, until the operator resumes and nothing that still holds is present.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np

from syvla.clock import NS_PER_S, to_ns
from syvla.config import IntentPolicy, SafetyLimits
from syvla.control.limiter import Limiter
from syvla.control.mode import CAUSES, LATCHED, MOVING, Event, next_mode, reason
from syvla.errors import ConfigError
from syvla.message import Float64
from syvla.messages import (
    ARMS,
    BOTH_ARMS_JOINTS,
    ActionChunk,
    ArmState,
    CameraFault,
    Mode,
    OperatorCommand,
    Reason,
    Source,
)

ArmDistance = Callable[[Float64, Float64], float]  # left (6,) and right (6,) rad -> metres between the arms

OPERATOR_FRESH_S = 1.0  # what permits motion must be recent; what stops is always obeyed
FEEDBACK_LOST_S = 0.5  # silence for this long is a fault, not a hold
ARM_REACH_M = 1.0  # an upper bound: from the first joint's axis to the fingertips
ESCAPE_TOLERANCE_M = 1e-4  # arms held too close may move only apart, give or take this
MAX_AHEAD_S = 0.1  # the measured pose is carried at most this far to when a row is due
EVENT_S = 1.0  # how long an event that only warns stays visible
CONDITION_S = 0.1  # the same for a condition that is judged every tick


class Request(NamedTuple):
    """What the arbiter asks of the gate in one tick; nothing but a source: stand still."""

    source: Source
    set_point: Sequence[float] | None = None  # (14,) rad and m
    velocity: Sequence[float] | None = None  # (14,) rad/s and m/s, instead of a set-point
    age_ns: int = 0  # teleop: since it was sampled; policy: since the last row was due
    intent_observation_ns: int = -1


class Gate:
    """The rules, the mode and the set-points of one robot.

    Called once a tick in this order: :meth:`begin`, :meth:`feedback`, :meth:`driver_error`, :meth:`cameras`, the
    messages (:meth:`operate`, :meth:`check_chunk`, :meth:`switch`), :meth:`command`.
    """

    remembered = (
        "limiter",
        "mode",
        "resumed_ns",
        "measured",
        "faulted",
        "arm_distance_m",
        "clamped_count",
        "refused_count",
        "_present",
        "_latched",
        "_warned",
        "_first_ns",
        "_now_ns",
        "_dt_ns",
        "_tick",
        "_beyond",
        "_slow",
        "_escape_m",
    )

    def __init__(self, limits: SafetyLimits, intent: IntentPolicy, period_ns: int, distance: ArmDistance) -> None:
        for name in (
            "first_step_rad",
            "command_stale_s",
            "chunk_wait_s",
            "feedback_stale_s",
            "teleop_stale_s",
            "arm_distance_slow_m",
        ):
            if not 0 < getattr(limits, name) < float("inf"):
                raise ConfigError(f"safety.{name} must be finite and above 0, not {getattr(limits, name)}")
        for name in ("clamps_to_hold", "missed_ticks_to_hold", "arm_distance_every_ticks"):
            if getattr(limits, name) < 1:
                raise ConfigError(f"safety.{name} must be at least 1, not {getattr(limits, name)}")
        if not 0 < limits.arm_distance_hold_m <= limits.arm_distance_slow_m:
            raise ConfigError("safety.arm_distance_hold_m must be above 0 and at most arm_distance_slow_m")
        for key, factor in (
            ("safety.arm_distance_slow_factor", limits.arm_distance_slow_factor),
            ("intent.slow_down_factor", intent.slow_down_factor),
        ):
            if not 0 < factor <= 1:
                raise ConfigError(f"{key} must be above 0 and at most 1, not {factor}")
        if not intent.time_to_live_s > 0 or not intent.slow_down_hold_after_s >= 1:
            raise ConfigError("intent.time_to_live_s must be above 0 and slow_down_hold_after_s at least 1")
        self._limits = limits
        self._intent = intent
        self._period_ns = period_ns
        self._distance = distance
        self._warn_ns = to_ns(limits.feedback_warn_s)
        self._stale_ns = to_ns(limits.feedback_stale_s)
        self._lost_ns = to_ns(FEEDBACK_LOST_S)
        self._longest_ns = limits.missed_ticks_to_hold * period_ns
        self._intent_ages_ns = (
            to_ns(intent.warn_age_s),
            to_ns(intent.time_to_live_s),
            to_ns(intent.time_to_live_s * intent.slow_down_hold_after_s),
        )
        self.limiter = Limiter(limits)
        self.mode = Mode.DISABLED
        self.resumed_ns = -1  # when motion was last permitted; a chunk must be made from what was seen later
        self.measured: list[float] = [0.0] * (BOTH_ARMS_JOINTS + 2)
        self.faulted: set[int] = set()  # the arms that a fault is about
        self.arm_distance_m = -1.0  # smallest of measured and committed; -1 before the first check
        self.clamped_count = 0
        self.refused_count = 0
        self._present: dict[str, str] = {}  # conditions true in this tick, by code
        self._latched: dict[str, str] = {}  # what brought the mode about, by code
        self._warned: dict[str, tuple[int, str]] = {}  # until when, and what
        self._first_ns: int | None = None
        self._now_ns = 0
        self._dt_ns = 0
        self._tick = 0
        self._beyond = 0  # consecutive ticks whose request lay beyond a position limit
        self._slow = 1.0
        self._escape_m: float | None = None  # arms held too close: the distance they have reached since

    # ------------------------------------------------------------ reasons

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the arms hold, then what warns, in plain words."""
        shown = dict(self._latched)
        if self.mode is Mode.DISABLED:
            shown = {"not_enabled": "the arms are not commanded", **self._present}
        shown.update({code: text for code, (until_ns, text) in self._warned.items() if self._now_ns < until_ns})
        return tuple(reason(code, detail) for code, detail in shown.items())

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of what is latched, oldest first."""
        return tuple(self._latched)

    def trip(self, code: str, detail: str) -> None:
        """Apply the cause ``code``; a latched one stays until it is cleared, with its first detail."""
        self.mode = next_mode(self.mode, CAUSES[code].event)
        if self.mode in LATCHED and code not in self._latched:
            self._latched[code] = detail

    def warn(self, code: str, detail: str, for_s: float = CONDITION_S) -> None:
        """Show ``code`` for a while."""
        self._warned[code] = (self._now_ns + to_ns(for_s), detail)

    def _condition(self, code: str, detail: str, arm: int | None = None) -> None:
        """A cause that lasts while it is true: it trips, and nothing is cleared or enabled while it is there."""
        self._present.setdefault(code, detail)
        self.trip(code, detail)
        if arm is not None and self.mode is Mode.FAULT:
            self.faulted.add(arm)

    # ------------------------------------------------------------ time and feedback

    def begin(self, now_ns: int) -> None:
        """Start a tick: how long it is, and whether ticks were missed."""
        if self._first_ns is None:
            self._first_ns = self._now_ns = now_ns
        dt_ns = now_ns - self._now_ns
        self._now_ns = max(now_ns, self._now_ns)
        self._dt_ns = max(dt_ns, 0)
        self._tick += 1
        self._present = {}
        if dt_ns > self._longest_ns and self.mode in MOVING:
            self.trip("missed_ticks", f"{dt_ns / self._period_ns:.1f} periods passed between two ticks")

    def feedback(self, states: Sequence[ArmState | None]) -> None:
        """Judge what both arms, left and right, say."""
        now_ns = self._now_ns
        for arm, state in enumerate(states):
            name = ARMS[arm]
            if state is None:
                self._condition("feedback_stale", f"the {name} arm has sent no feedback yet")
                continue
            age_ns = now_ns - state.measured_ns
            if age_ns > self._warn_ns:
                if age_ns > self._lost_ns:
                    self._condition("feedback_lost", f"the {name} arm is silent", arm)
                if age_ns > self._stale_ns:
                    self._condition("feedback_stale", f"the {name} arm's feedback is {age_ns / 1e6:.0f} ms old")
                else:
                    self.warn("feedback_late", f"the {name} arm's feedback is {age_ns / 1e6:.0f} ms old")
            elif age_ns < -self._period_ns:
                self._condition("feedback_from_future", f"the {name} arm's stamp is {-age_ns / 1e6:.0f} ms ahead", arm)
            position = state.position_rad.tolist()
            if not isfinite(sum(position) + state.gripper_width_m):
                self._condition("feedback_not_finite", f"the {name} arm measured a value that is not finite", arm)
                continue
            self.measured[6 * arm : 6 * arm + 6] = position
            self.measured[BOTH_ARMS_JOINTS + arm] = state.gripper_width_m
            if state.faults:
                self._condition("device_fault", f"the {name} arm says: {', '.join(state.faults)}", arm)
            if not state.enabled and state.measured_ns > self.resumed_ns + self._stale_ns and self.resumed_ns >= 0:
                self._condition("torque_off", f"the {name} arm has no torque", arm)

    def driver_error(self, arm: int, detail: str) -> None:
        """A driver did not do what was asked of it."""
        self._condition("driver_error", f"the {ARMS[arm]} arm: {detail}", arm)

    def cameras(self, faults: Sequence[CameraFault], silent_ns: int) -> None:
        """Judge what was last said of the cameras; ``silent_ns`` above 0: nothing is said any more, for so long."""
        if silent_ns > 0:
            self._condition("camera_lost", f"nothing has been heard of the cameras for {silent_ns / 1e6:.0f} ms")
        for what in ("lost", "frozen"):
            words = [f"{fault.camera} ({fault.for_s:.2f} s)" for fault in faults if fault.what == what]
            if words:
                self._condition(f"camera_{what}", f"no new picture from {' and '.join(words)}")

    # ------------------------------------------------------------ people

    def may_enable(self) -> bool:
        """Whether nothing speaks against enabling in this tick; what does is among the reasons."""
        outside = self.limiter.outside(self.measured)
        if outside > self._limits.first_step_rad:
            self._present["outside_limits"] = f"a joint is {outside:.2f} rad beyond its limits"
        return not self._present

    def enable(self) -> None:
        """Both arms answered: stand at the measured pose and let a chunk from now on move them."""
        if self.mode is Mode.DISABLED and self.may_enable():
            for arm in range(2):
                self._anchor(arm)
            self.mode = next_mode(self.mode, Event.ENABLED)
            self.resumed_ns = self._now_ns

    def _anchor(self, arm: int) -> None:
        self.limiter.anchor(arm, self.measured[6 * arm : 6 * arm + 6], self.measured[BOTH_ARMS_JOINTS + arm])

    def fresh(self, command: OperatorCommand) -> bool:
        """Whether a command that permits motion was given just now, to this process."""
        if self._first_ns is None or command.issued_ns < self._first_ns:
            return False
        return abs(self._now_ns - command.issued_ns) <= to_ns(OPERATOR_FRESH_S)

    def operate(self, command: OperatorCommand) -> None:
        """Obey the operator; enabling belongs to whoever owns the drivers."""
        if command.action == "hold" and command.lost:
            self.trip("process_lost", command.lost)
        elif command.action == "hold":
            self.trip("operator_hold", "the operator asked for it")
        elif command.action == "soft_stop":
            self.trip("operator_soft_stop", "the operator asked for it")
        elif not self.fresh(command):
            self.refused_count += 1
        elif command.action == "resume":
            self._resume()
        elif command.action == "clear_fault":
            self._clear_fault()

    def _resume(self) -> None:
        if self.mode not in (Mode.HOLD, Mode.SOFT_STOP):
            return
        if self._present or not self.limiter.standing:
            self.warn("resume_refused", ", ".join(self._present) or "the arms have not come to rest", EVENT_S)
            return
        self.mode = next_mode(self.mode, Event.RESUME)
        self._latched.clear()
        self._beyond = 0
        self.resumed_ns = self._now_ns
        self._escape_m = None
        if self.arm_distance_m >= 0 and not self._measure_distance() >= self._limits.arm_distance_hold_m:
            self._escape_m = self._set_point_distance()

    def _clear_fault(self) -> None:
        if self.mode is not Mode.FAULT:
            return
        if not self.may_enable() or not self.limiter.standing:
            self.warn("resume_refused", ", ".join(self._present) or "the arms have not come to rest", EVENT_S)
            return
        # A faulted arm may have sunk; it goes on from where it is. The other one stands where it was held.
        for arm in self.faulted:
            self._anchor(arm)
        self.faulted.clear()
        self.mode = next_mode(self.mode, Event.CLEAR_FAULT)

    def switch(self, event: Event) -> None:
        """A person takes over or hands back."""
        before = self.mode
        self.mode = next_mode(before, event)
        if self.mode is not before:
            self._beyond = 0
            self.resumed_ns = self._now_ns

    # ------------------------------------------------------------ chunks

    def check_chunk(self, chunk: ActionChunk, first_row: int | None) -> bool:
        """Whether ``chunk`` may be executed from ``first_row`` on, None if it will not be executed anyway.

        A value that is not finite refuses all of it and holds the arms, whatever else is true of it.
        """
        now_ns = self._now_ns
        if not (np.isfinite(chunk.position_rad).all() and np.isfinite(chunk.gripper_width_m).all()):
            self.trip("chunk_not_finite", f"chunk {chunk.chunk_id} has a value that is not finite")
            self.refused_count += 1
            return False
        if first_row is None:
            return False
        newest_ns = max(chunk.observation_ns, chunk.intent_observation_ns)
        intent_age_ns = now_ns - chunk.intent_observation_ns
        if newest_ns > now_ns + self._period_ns:
            self.warn(
                "chunk_from_future", f"chunk {chunk.chunk_id} is {(newest_ns - now_ns) / 1e6:.0f} ms ahead", EVENT_S
            )
        elif self._intent.stale_policy == "hold" and intent_age_ns > self._intent_ages_ns[1]:
            detail = f"chunk {chunk.chunk_id} is of an intent {intent_age_ns / 1e9:.2f} s old"
            self.warn("intent_old", detail, EVENT_S)
        else:
            # The arms go on moving until the row is due; where they stand, this is the measured pose itself.
            ahead_ns = chunk.observation_ns + first_row * chunk.period_ns - now_ns
            ahead_s = min(max(ahead_ns / NS_PER_S, 0.0), MAX_AHEAD_S)
            row = chunk.position_rad[first_row].tolist()
            poses = zip(row, self.measured, self.limiter.velocity, strict=False)
            step_rad = max(abs(target - (q + v * ahead_s)) for target, q, v in poses)
            if step_rad <= self._limits.first_step_rad:
                return True
            detail = f"chunk {chunk.chunk_id} starts {step_rad:.2f} rad from the measured pose"
            self.warn("chunk_first_step", detail, EVENT_S)
        self.refused_count += 1
        return False

    def wait_for_chunk(self, waited_ns: int) -> None:
        """The arms stand enabled without a chunk: for a while, then not any more, lest one moves them unawares."""
        if waited_ns > self._limits.chunk_wait_s * NS_PER_S:
            self.trip("chunk_missing", f"no chunk came for {waited_ns / 1e9:.1f} s")
        else:
            self.warn("waiting_for_chunk", "no chunk yet")

    def teleop_fresh(self, sampled_ns: int) -> bool:
        """Whether a teleop sample is recent enough to act on."""
        return -self._period_ns <= self._now_ns - sampled_ns <= self._limits.teleop_stale_s * NS_PER_S

    # ------------------------------------------------------------ the command

    def command(self, request: Request) -> Source:
        """Judge ``request`` and move the set-points of ``limiter`` by one tick; who commanded in the end."""
        self._check_distance()
        dt_s = self._dt_ns / NS_PER_S
        if self.mode in MOVING:
            scale = self._judge(request)
            if self.mode in MOVING and self._advance(request, dt_s, scale):
                return request.source
        self.limiter.brake(dt_s)
        return Source.NONE if self.mode is Mode.DISABLED else Source.HOLD

    def _judge(self, request: Request) -> float:
        """Trip what ``request`` violates; the factor on the velocity limits otherwise."""
        scale = self._slow
        asked = request.set_point if request.set_point is not None else request.velocity
        if asked is not None and not isfinite(sum(asked)):
            code = "teleop_not_finite" if request.source is Source.TELEOP else "chunk_not_finite"
            self.trip(code, "a command was not finite")
            return scale
        if request.source is Source.TELEOP and request.age_ns > self._limits.teleop_stale_s * NS_PER_S:
            self.trip("teleop_stale", f"the last sample is {request.age_ns / 1e6:.0f} ms old")
        if request.source is Source.POLICY:
            if request.age_ns > self._limits.command_stale_s * NS_PER_S:
                self.trip("command_stale", f"the last action was due {request.age_ns / 1e6:.0f} ms ago")
            scale = min(scale, self._judge_intent(self._now_ns - request.intent_observation_ns))
        return scale

    def _judge_intent(self, age_ns: int) -> float:
        """The factor on the velocity limits for an intent of this age; trips when it is too old."""
        warn_ns, live_ns, slow_ns = self._intent_ages_ns
        if age_ns > warn_ns:
            text = f"the intent is {age_ns / 1e9:.2f} s old"
            policy = self._intent.stale_policy
            if age_ns <= live_ns or policy == "use":
                self.warn("intent_old", text)
            elif policy == "hold" or age_ns > slow_ns:
                self.trip("intent_stale", text)
            else:
                self.warn("intent_slow_down", text)
                return self._intent.slow_down_factor
        return 1.0

    def _advance(self, request: Request, dt_s: float, scale: float) -> bool:
        """Move the set-points as asked; False if the arms must brake instead."""
        limiter = self.limiter
        before = (list(limiter.position), list(limiter.velocity)) if self._escape_m is not None else None
        if request.set_point is not None and dt_s > 0:
            limiter.follow(request.set_point, dt_s, scale)
        elif request.velocity is not None and dt_s > 0:
            limiter.move(request.velocity, dt_s, scale)
        else:
            return False
        if before is not None and self._comes_closer():
            limiter.position[:], limiter.velocity[:] = before
            return False
        if limiter.limited:
            self.clamped_count += 1
        # A person who leans on a joystick at a limit is not a policy that has lost its way.
        self._beyond = self._beyond + 1 if request.set_point is not None and limiter.beyond else 0
        if self._beyond >= self._limits.clamps_to_hold:
            self.trip("clamped", f"{self._beyond} requests in a row were beyond the joint limits")
        return True

    # ------------------------------------------------------------ distance between the arms

    def _set_point_distance(self) -> float:
        q = np.array(self.limiter.position)
        return self._distance(q[:6], q[6:12])

    def _measure_distance(self) -> float:
        """The distance of the arms as measured, and as they would stand if they braked now: the smaller."""
        limits, stop_pose = self._limits, self.limiter.stop_pose()
        q = np.array(self.measured)
        near = committed = self._distance(q[:6], q[6:12])
        # One radian of a joint moves no point of an arm further than its reach: far apart, one look is enough.
        travel_m = ARM_REACH_M * sum(abs(a - b) for a, b in zip(stop_pose, self.measured, strict=False))
        if not near - travel_m >= limits.arm_distance_slow_m:
            stop = np.array(stop_pose)
            committed = self._distance(stop[:6], stop[6:])
        self._slow = 1.0 if near >= limits.arm_distance_slow_m else limits.arm_distance_slow_factor
        # min() would hide a NaN; "not >= limit" must be true of it.
        self.arm_distance_m = min(near, committed) if isfinite(near) and isfinite(committed) else 0.0
        return self.arm_distance_m

    def _check_distance(self) -> None:
        if self.mode is Mode.DISABLED or self._tick % self._limits.arm_distance_every_ticks:
            return
        distance_m = self._measure_distance()
        if self._slow < 1.0:
            self.warn("arm_distance_slow", f"the arms are {distance_m * 100:.1f} cm apart")
        if distance_m >= self._limits.arm_distance_hold_m:
            self._escape_m = None
        elif self._escape_m is None and self.mode in MOVING:
            self.trip("arm_distance_hold", f"the arms are or would come {distance_m * 100:.1f} cm apart")

    def _comes_closer(self) -> bool:
        """Whether the set-points just moved bring arms closer that were held too close; holds them if so."""
        distance_m = self._set_point_distance()
        reached_m = self._escape_m if self._escape_m is not None else distance_m
        if not distance_m >= reached_m - ESCAPE_TOLERANCE_M:
            self.trip(
                "arm_distance_hold", f"only motion apart passes; this one brought them to {distance_m * 100:.1f} cm"
            )
            return True
        self._escape_m = max(reached_m, distance_m)
        return False
