"""The command limiter: whatever is asked, the set-points stay within position, velocity and acceleration limits.

In one tick of ``dt`` a joint moves from ``q`` to ``q + v' dt``. With the acceleration limit ``a`` its next
velocity may be chosen from

    [max(v - a dt, -v_max, -b(q - q_min)),  min(v + a dt, v_max, b(q_max - q))]

    b(gap) = a (-dt + sqrt(dt^2 + 2 gap / a))

``b`` solves ``b dt + b^2 / (2 a) = gap``: after a tick at ``b`` the joint can still brake before the limit, since
braking in ticks of any length never takes more than ``v^2 / (2 a)``. Hence the set is never empty: let
``gap >= v^2 / (2 a)`` and ``w = v - a dt > 0``; then ``w dt + w^2 / (2 a) = v^2 / (2 a) - a dt^2 / 2 <= gap``, so
``w <= b(gap)``, and the tick leaves ``gap' >= v'^2 / (2 a)`` again.
"""

from collections.abc import Sequence
from math import sqrt

from syvla.config import SafetyLimits
from syvla.errors import ConfigError
from syvla.messages import BOTH_ARMS_JOINTS

SETPOINTS = BOTH_ARMS_JOINTS + 2  # both arms' joints [rad], then both grippers [m]
HOLD_WITHIN_S = 0.150
LIMITED_RAD = 1e-6  # a set-point further than this from what was asked counts as limited
LIMITED_M = 1e-6
BEYOND_LIMIT_RAD = 1e-4  # more than the quantum of the bus and of float32, less than anything meant


class Limiter:
    """The set-points of both arms and grippers, as they were last commanded, and how they may move on.

    ``position`` (14,) is both arms' joints [rad] and both grippers [m], ``velocity`` (12,) the joints' [rad/s].
    Only joints have inertia worth an acceleration limit here; a gripper is limited in position and velocity.
    """

    remembered = ("position", "velocity", "_target", "limited", "beyond", "_devices")

    def __init__(self, limits: SafetyLimits) -> None:
        for name in ("position_max_rad", "velocity_rad_s", "acceleration_rad_s2"):
            least = limits.position_min_rad if name == "position_max_rad" else (0.0,) * 6
            for joint, (value, bound) in enumerate(zip(getattr(limits, name), least, strict=True), start=1):
                if not bound < value < float("inf"):
                    raise ConfigError(f"safety.{name} of joint {joint} must be finite and above {bound}, not {value}")
        for joint, (v, a) in enumerate(zip(limits.velocity_rad_s, limits.acceleration_rad_s2, strict=True), start=1):
            if v / a > HOLD_WITHIN_S:
                raise ConfigError(
                    f"safety.acceleration_rad_s2 of joint {joint} must stop {v} rad/s within {HOLD_WITHIN_S} s: "
                    f"at least {v / HOLD_WITHIN_S:.3g}, not {a}"
                )
        if not 0 <= limits.gripper_min_m < limits.gripper_max_m < float("inf"):
            raise ConfigError(f"safety.gripper_max_m must be above gripper_min_m, not {limits.gripper_max_m}")
        if not 0 < limits.gripper_velocity_m_s < float("inf"):
            raise ConfigError(f"safety.gripper_velocity_m_s must be above 0, not {limits.gripper_velocity_m_s}")
        self._least = [*limits.position_min_rad * 2, *[limits.gripper_min_m] * 2]
        self._most = [*limits.position_max_rad * 2, *[limits.gripper_max_m] * 2]
        self._joints: list[tuple[int, float, float, float, float, float]] = list(
            zip(
                range(BOTH_ARMS_JOINTS),
                limits.position_min_rad * 2,
                limits.position_max_rad * 2,
                limits.velocity_rad_s * 2,
                limits.acceleration_rad_s2 * 2,
                [v * v / (2 * a) for v, a in zip(limits.velocity_rad_s, limits.acceleration_rad_s2, strict=True)] * 2,
                strict=True,
            )
        )
        self._gripper = (limits.gripper_min_m, limits.gripper_max_m, limits.gripper_velocity_m_s)
        self.position: list[float] = [0.0] * SETPOINTS
        self.velocity: list[float] = [0.0] * BOTH_ARMS_JOINTS
        self._target: list[float] | None = None  # what was asked in the last tick
        self.limited = 0  # bit j: set-point j could not follow in the last tick
        self.beyond = False  # whether a joint was asked beyond a position limit in the last tick
        self._devices: dict[int, tuple[list[float], list[float]]] = {}  # by arm: its own limits

    @property
    def standing(self) -> bool:
        """Whether no joint is commanded to move."""
        return not any(self.velocity)

    def outside(self, position: Sequence[float]) -> float:
        """How far the worst joint of (12,) or (14,) lies beyond its position limits [rad]; 0 when inside."""
        joints = zip(position[:BOTH_ARMS_JOINTS], self._least, self._most, strict=False)
        return max(0.0, *(max(lo - q, q - hi) for q, lo, hi in joints))

    def narrow(self, arm: int, lower_rad: Sequence[float], upper_rad: Sequence[float]) -> None:
        """Take the device's own limits (6,) of arm 0 or 1 into account: from now on the narrower of both hold.

        ConfigError names the joint for which nothing would be left. Anchor the arm before it moves again.
        """
        joints = list(self._joints)
        for j, low, high in zip(range(6 * arm, 6 * arm + 6), lower_rad, upper_rad, strict=True):
            _, least, most, v_max, a, reach = joints[j]
            if not max(least, low) < min(most, high):
                raise ConfigError(
                    f"safety.position_min_rad and position_max_rad allow joint {j - 6 * arm + 1} "
                    f"{least}..{most} rad, of which the device takes nothing: {low}..{high}"
                )
            joints[j] = (j, max(least, low), min(most, high), v_max, a, reach)
        self._joints = joints
        self._least[:BOTH_ARMS_JOINTS] = [joint[1] for joint in joints]
        self._most[:BOTH_ARMS_JOINTS] = [joint[2] for joint in joints]
        self._devices[arm] = list(lower_rad), list(upper_rad)

    def recalled(self) -> None:
        """Narrow these limits by those of the devices."""
        for arm, (lower_rad, upper_rad) in list(self._devices.items()):
            self.narrow(arm, lower_rad, upper_rad)

    def anchor(self, arm: int, position_rad: Sequence[float], gripper_width_m: float) -> None:
        """Stand at the measured pose of arm 0 or 1, or at the nearest one inside the limits."""
        first = 6 * arm
        for j, q in zip(
            (*range(first, first + 6), BOTH_ARMS_JOINTS + arm), (*position_rad, gripper_width_m), strict=True
        ):
            self.position[j] = min(max(q, self._least[j]), self._most[j])
        self.velocity[first : first + 6] = [0.0] * 6
        self._target = None

    def brake(self, dt_s: float) -> None:
        """One tick of ``dt_s`` towards standstill."""
        position, velocity = self.position, self.velocity
        self._target, self.limited, self.beyond = None, 0, False
        for j, least, most, _, a, _ in self._joints:
            v = velocity[j]
            if v != 0.0:
                step = a * dt_s
                v = 0.0 if -step <= v <= step else v - step if v > 0.0 else v + step
                q = position[j] + v * dt_s
                position[j] = least if q < least else most if q > most else q
                velocity[j] = v

    def follow(self, target: Sequence[float], dt_s: float, scale: float = 1.0) -> None:
        """One tick of ``dt_s`` towards ``target`` (14,), finite, at most ``scale`` times the velocity limits.

        The joint brakes before the target as it does before a limit, but in the frame of the moving target, so that
        a target within the limits is followed without lag.
        """
        position, velocity = self.position, self.velocity
        asked = self._target if self._target is not None else target
        limited, beyond = 0, False
        for j, least, most, v_max, a, reach in self._joints:
            q, v, p = position[j], velocity[j], target[j]
            step = a * dt_s
            room = reach + v_max * dt_s  # further from a limit than this, the limit does not matter
            v_max *= scale
            # What is asked: the target's own velocity, and the braking law on what is left of the way to it.
            wanted = (p - asked[j]) / dt_s
            if wanted > v_max:
                wanted = v_max
            elif wanted < -v_max:
                wanted = -v_max
            gap = p - q - wanted * dt_s
            if gap > 0.0:
                wanted += a * (sqrt(dt_s * dt_s + 2.0 * gap / a) - dt_s)
            elif gap < 0.0:
                wanted -= a * (sqrt(dt_s * dt_s - 2.0 * gap / a) - dt_s)
            # What is allowed. A lowered velocity limit is reached at the acceleration limit, not at once.
            high, low = v + step, v - step
            if high > v_max:
                high = v_max if v_max > low else low
            if low < -v_max:
                low = -v_max if -v_max < high else high
            if most - q < room:
                bound = a * (sqrt(dt_s * dt_s + 2.0 * max(most - q, 0.0) / a) - dt_s)
                high = min(high, bound)
            if q - least < room:
                bound = -a * (sqrt(dt_s * dt_s + 2.0 * max(q - least, 0.0) / a) - dt_s)
                low = max(low, bound)
            v = low if wanted < low else high if wanted > high else wanted
            q += v * dt_s
            position[j] = least if q < least else most if q > most else q
            velocity[j] = v
            if abs(q - p) > LIMITED_RAD:
                limited |= 1 << j
                if p < least - BEYOND_LIMIT_RAD or p > most + BEYOND_LIMIT_RAD:
                    beyond = True
        least, most, v_max = self._gripper
        for j in (BOTH_ARMS_JOINTS, BOTH_ARMS_JOINTS + 1):
            q, p, step = position[j], target[j], v_max * dt_s
            moved = min(max(p, least, q - step), most, q + step)
            position[j] = moved
            if abs(moved - p) > LIMITED_M:
                limited |= 1 << j
        self._target, self.limited, self.beyond = list(target), limited, beyond

    def move(self, velocity: Sequence[float], dt_s: float, scale: float = 1.0) -> None:
        """One tick of ``dt_s`` at ``velocity`` (14,), both arms' joints [rad/s] and both grippers [m/s]."""
        self._target = list(self.position)
        self.follow([q + v * dt_s for q, v in zip(self.position, velocity, strict=True)], dt_s, scale)
        self._target = None

    def stop_pose(self) -> list[float]:
        """Where both arms would stand (12,) if they braked from now on."""
        return [
            q + v * abs(v) / (2 * a)
            for q, v, (_, _, _, _, a, _) in zip(self.position, self.velocity, self._joints, strict=False)
        ]
