"""Do the arms do something, in the units they should: joints at their limits, wrong units, arms that stand still."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from syvla.check.finding import Finding, Severity, Span, Tally
from syvla.clock import to_s
from syvla.config import RunConfig, SafetyLimits
from syvla.message import Float64
from syvla.messages import ARM_JOINTS, ARMS, BOTH_ARMS_JOINTS, ActionChunk, ArmName, ArmState, JointCommand
from syvla.recording.mcap_read import Recorded

SATURATED_RAD = 0.01  # a hair: half a degree
SATURATED_S = 1.0  # a reach touches a limit for less
BEYOND_RAD = 0.5  # a sagging arm or a bad policy is beyond a limit by less; degrees are by more
TURN_RAD = 2 * np.pi  # no joint turns so far; that of several, all in one other unit, is told from a joint that is off
BEYOND_SPEED = 10.0  # times the limit: no motor turns so fast, but degrees are 57 times radians
LARGEST_NM = 200.0  # several times what the arm's strongest joint can
GRIPPER_SHARE = 0.5  # beyond its width by so much of it
STILL_RAD = 0.01  # less than this over a whole episode is no motion
STILL_M = 0.002
FOLLOWS_FROM_RAD = 0.2  # an arm that is commanded so far must be seen to move
FOLLOWS_SHARE = 0.1  # and by this share of it
_JOINTS = tuple(f"{arm} joint {joint + 1}" for arm in ARMS for joint in range(ARM_JOINTS))


class Range:
    """Lowest and highest of each of ``size`` values; what is not finite does not count."""

    def __init__(self, size: int) -> None:
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)

    def take(self, rows: npt.NDArray[np.floating]) -> None:
        """One row, or several."""
        rows = np.where(np.isfinite(rows), rows, np.nan).reshape(-1, len(self.low))
        self.low = np.fmin(self.low, np.fmin.reduce(rows))
        self.high = np.fmax(self.high, np.fmax.reduce(rows))

    @property
    def seen(self) -> bool:
        """Whether there was anything."""
        return bool(np.isfinite(self.low).any())

    @property
    def width(self) -> Float64:
        """How far each went; 0 where there was nothing."""
        return np.where(self.high >= self.low, self.high - self.low, 0.0)

    def within(self, low: Float64, high: Float64, scale: float = 1.0) -> bool:
        """Whether all would lie between these, were they in units of ``scale``."""
        return bool((self.low * scale >= low).all() and (self.high * scale <= high).all())


class _Quantities:
    """Joints and grippers as one sender tells them."""

    def __init__(self, joints: int, grippers: int) -> None:
        self.position_rad, self.gripper_m = Range(joints), Range(grippers)

    def take(self, position_rad: npt.NDArray[np.floating], gripper_m: npt.NDArray[np.floating]) -> None:
        self.position_rad.take(position_rad)
        self.gripper_m.take(gripper_m)

    def findings(self, topic: str, limits: SafetyLimits) -> Iterator[Finding]:
        """Units that cannot be."""
        arms = len(self.position_rad.low) // ARM_JOINTS
        low = np.tile(limits.position_min_rad, arms) - BEYOND_RAD
        high = np.tile(limits.position_max_rad, arms) + BEYOND_RAD
        reached = np.fmax(-self.position_rad.low, self.position_rad.high)
        if self.position_rad.seen and (reached > TURN_RAD).sum() < 2:
            for joint in np.flatnonzero((self.position_rad.low < low) | (self.position_rad.high > high)).tolist():
                yield _beyond(topic, joint, reached[joint], limits)
        elif self.position_rad.seen and not self.position_rad.within(low, high):
            units = {"degrees": np.pi / 180, "thousandths of a degree": np.pi / 180_000}
            like = _first(unit for unit, scale in units.items() if self.position_rad.within(low, high, scale))
            yield _units(topic, f"joints reach {reached.max():.4g} and are no radians{like}", "radians")
        most_m = limits.gripper_max_m * (1 + GRIPPER_SHARE)
        least_m = limits.gripper_min_m - limits.gripper_max_m * GRIPPER_SHARE
        if self.gripper_m.seen and not self.gripper_m.within(np.array(least_m), np.array(most_m)):
            top = float(self.gripper_m.high.max())
            scales = {"shares of the whole way": most_m / 1.5, "mm": 1e-3, "thousandths of a mm": 1e-6}
            like = _first(unit for unit, scale in scales.items() if 0 < top * scale <= most_m)
            yield _units(topic, f"grippers reach {top:.4g} and are no metres{like}", "metres between the fingers")


class _Saturation:
    """Which commanded joints stay at a limit that they were driven to, or that the gate had to keep."""

    def __init__(self, limits: SafetyLimits) -> None:
        self.tallies = [Tally() for _ in range(BOTH_ARMS_JOINTS)]
        self._low = np.tile(limits.position_min_rad, 2) + SATURATED_RAD
        self._high = np.tile(limits.position_max_rad, 2) - SATURATED_RAD
        self._rest: npt.NDArray[np.int8] | None = None  # where the episode began: an arm may be parked at a limit
        self._at = np.zeros(BOTH_ARMS_JOINTS, np.int8)  # -1 at the lowest, 1 at the highest
        self._since_ns = [0] * BOTH_ARMS_JOINTS
        self._limited = 0  # bit j: by the gate, since

    def see(self, command: JointCommand, at_ns: int) -> None:
        q = command.position_rad
        at = (q >= self._high).astype(np.int8) - (q <= self._low).astype(np.int8)
        if self._rest is None:
            self._rest = at
        if not np.array_equal(at, self._at):
            for joint in np.flatnonzero(at != self._at).tolist():
                self._leave(joint, at_ns)
                self._since_ns[joint] = at_ns
                self._limited &= ~(1 << joint)
            self._at = at
        if command.limited_joints and at.any():
            self._limited |= command.limited_joints

    def end(self, at_ns: int) -> None:
        """The episode is over."""
        for joint in range(BOTH_ARMS_JOINTS):
            self._leave(joint, at_ns)
            self._since_ns[joint] = at_ns

    def _leave(self, joint: int, at_ns: int) -> None:
        for_s = to_s(at_ns - self._since_ns[joint])
        parked = self._rest is not None and self._at[joint] == self._rest[joint] and not self._limited >> joint & 1
        if self._at[joint] and not parked and for_s >= SATURATED_S:
            self.tallies[joint].add(self._since_ns[joint], for_s)


class ArmsRule:
    """Both arms: what they measured, what they were commanded, and what the chunks asked for."""

    def __init__(self, run: RunConfig | None) -> None:
        self._limits = run.rig.safety if run is not None else SafetyLimits()
        self._measured = {arm: _Quantities(ARM_JOINTS, 1) for arm in ARMS}
        self._commanded = _Quantities(BOTH_ARMS_JOINTS, 2)
        self._asked = _Quantities(BOTH_ARMS_JOINTS, 2)
        self._speed = {arm: Range(ARM_JOINTS) for arm in ARMS}
        self._effort = {arm: Range(ARM_JOINTS) for arm in ARMS}
        self._saturation = _Saturation(self._limits)

    def see(self, recorded: Recorded) -> None:
        """Take in one message."""
        message = recorded.message
        if isinstance(message, ArmState):
            self._measured[message.arm].take(message.position_rad, np.array(message.gripper_width_m))
            self._speed[message.arm].take(np.abs(message.velocity_rad_s))
            self._effort[message.arm].take(np.abs(message.effort_nm))
        elif isinstance(message, JointCommand):
            self._commanded.take(message.position_rad, message.gripper_width_m)
            self._saturation.see(message, recorded.log_time_ns)
        elif isinstance(message, ActionChunk):
            self._asked.take(message.position_rad, message.gripper_width_m)

    def findings(self, span: Span) -> Iterator[Finding]:
        """What is wrong."""
        senders = {**{f"arm/{arm}": told for arm, told in self._measured.items()}, "command": self._commanded}
        strange = [finding for topic, told in senders.items() for finding in told.findings(topic, self._limits)]
        yield from strange
        yield from self._asked.findings("chunk", self._limits)
        for arm in ARMS:
            yield from self._rates(arm)
        yield from self._absent()
        if strange:  # in other units nothing can be said about motion and limits
            return
        yield from self._motion()
        self._saturation.end(span.end_ns)
        for joint, tally in enumerate(self._saturation.tallies):
            yield from tally.told(
                span, Severity.WARNING, "joint.saturated", _JOINTS[joint],
                f"commanded at its limit for up to {tally.worst:.1f} s",
                "place the task or the arm's base so that it is reached with room to spare",
            )  # fmt: skip

    def _rates(self, arm: ArmName) -> Iterator[Finding]:
        topic, speed, effort = f"arm/{arm}", self._speed[arm], self._effort[arm]
        if speed.seen and (speed.high > BEYOND_SPEED * np.array(self._limits.velocity_rad_s)).any():
            yield _units(topic, f"joints turn at {speed.high.max():.4g}, which no motor can in radians", "rad/s")
        if effort.seen and (effort.high > LARGEST_NM).any():
            yield _units(topic, f"efforts reach {effort.high.max():.4g}, which no motor can in Nm", "Nm")

    def _absent(self) -> Iterator[Finding]:
        if not self._commanded.position_rad.seen:
            yield Finding(
                name="command.none", severity=Severity.ERROR, where="command", seen="nothing was commanded",
                fix="record from when the arms are enabled",
            )  # fmt: skip
        for arm in ARMS:
            if not self._measured[arm].position_rad.seen:
                yield Finding(
                    name="arm.missing", severity=Severity.ERROR, where=f"arm/{arm}", seen="it measured nothing",
                    fix="syvla doctor says whether the arm is heard",
                )  # fmt: skip

    def _motion(self) -> Iterator[Finding]:
        went = self._commanded.position_rad.width
        grippers_m = self._commanded.gripper_m.width.max()
        if self._commanded.position_rad.seen and went.max() < STILL_RAD and grippers_m < STILL_M:
            yield Finding(
                name="command.never_moved", severity=Severity.ERROR, where="command",
                seen=f"joints were commanded over {went.max():.4f} rad at most, grippers over {grippers_m:.4f} m",
                fix="leave the episode out; syvla report says what held the arms",
            )  # fmt: skip
        for k, arm in enumerate(ARMS):
            measured = self._measured[arm].position_rad
            wanted = went[k * ARM_JOINTS : (k + 1) * ARM_JOINTS]
            if measured.seen and ((wanted > FOLLOWS_FROM_RAD) & (measured.width < FOLLOWS_SHARE * wanted)).any():
                joint = int(np.argmax(wanted - measured.width))
                yield Finding(
                    name="arm.not_following", severity=Severity.ERROR, where=_JOINTS[k * ARM_JOINTS + joint],
                    seen=f"commanded over {wanted[joint]:.2f} rad, but measured over {measured.width[joint]:.3f} only",
                    fix="see whether the arm had torque and its feedback came: faults, enabling, cable",
                )  # fmt: skip


def _beyond(topic: str, joint: int, reached_rad: float, limits: SafetyLimits) -> Finding:
    low, high = (limit[joint % ARM_JOINTS] for limit in (limits.position_min_rad, limits.position_max_rad))
    name = f"joint {joint + 1}" if topic.startswith("arm/") else _JOINTS[joint]
    return Finding(
        name="joint.beyond", severity=Severity.ERROR, where=topic,
        seen=f"{name} reaches {reached_rad:.4g} rad; it is limited to {low:g} to {high:g} rad",
        fix="see whether the arm's zero and the rig file's limits are right, and leave the episode out",
    )  # fmt: skip


def _units(topic: str, seen: str, wanted: str) -> Finding:
    fix = f"{topic} is told in {wanted}: convert where the vendor's units come in, and record again"
    return Finding(name="units", severity=Severity.ERROR, where=topic, seen=seen, fix=fix)


def _first(units: Iterator[str]) -> str:
    unit = next(units, "")
    return f"; they look like {unit}" if unit else ""
