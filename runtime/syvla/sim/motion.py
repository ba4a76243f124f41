"""From waypoints to joint trajectories: one arm's plan as a list of segments, a pure function of time once planned.

A segment comes to rest at both ends. Its path is a polynomial q(u), u in [0, 1]: in joint space a line, for a
straight line of the grasp point an interpolation of the closed-form inverse kinematics at eight Chebyshev-Lobatto
points. Its timing u(t) is a trapezoid of velocity whose ramps are half a cosine, so that the acceleration is
continuous (Biagiotti and Melchiorri, Trajectory Planning for Automatic Machines and Robots, 2008, section 3.4's
double-S with harmonic ramps): the least duration that keeps the limits of velocity and acceleration.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syvla.clock import to_ns
from syvla.control.kinematics import Base, forward_tcp, inverse_tcp
from syvla.message import Float64
from syvla.messages import ARM_JOINTS
from syvla.sim.waypoints import Waypoint

_KNOTS = 8
_MAX_RATE_HZ = 20.0  # even a move over no distance takes a control period or so
_U = (1.0 - np.cos(np.pi * np.arange(_KNOTS) / (_KNOTS - 1))) / 2.0
_COEFFICIENTS_FROM_KNOTS = np.linalg.inv(np.vander(_U, increasing=True))
_POWERS = np.arange(_KNOTS)
_GRID = np.linspace(0.0, 1.0, 17)[:, None]
_SLOPE = _POWERS * _GRID ** np.maximum(_POWERS - 1, 0)  # dq/du of the coefficients, on the grid
_BEND = _POWERS * (_POWERS - 1) * _GRID ** np.maximum(_POWERS - 2, 0)


class MotionLimits(NamedTuple):
    """What a planned segment keeps."""

    velocity_rad_s: float = 1.3
    acceleration_rad_s2: float = 8.0
    gripper_velocity_m_s: float = 0.2
    knot_step_rad: float = 0.6  # a straight line whose joints jump further between knots is not followed


class Timing(NamedTuple):
    """How u goes from 0 to 1: cosine ramp, constant rate, cosine ramp."""

    rate_hz: float  # the largest du/dt
    ramp_s: float  # at most 1 / rate

    @property
    def duration_s(self) -> float:
        """From rest to rest."""
        return 1.0 / self.rate_hz + self.ramp_s

    def share(self, elapsed_s: Float64) -> Float64:
        """Values (K,) of u after the times ``elapsed_s`` (K,), 0 before and 1 after the move."""
        duration_s, ramp_s = self.duration_s, self.ramp_s
        # The profile is symmetric: count from the nearer end.
        t = np.maximum(np.minimum(elapsed_s, duration_s - elapsed_s), 0.0)
        ramp = 0.5 * (t - ramp_s / math.pi * np.sin(math.pi / ramp_s * t))
        near = self.rate_hz * np.where(t < ramp_s, ramp, t - 0.5 * ramp_s)
        return np.where(elapsed_s < 0.5 * duration_s, near, 1.0 - near)


class Segment(NamedTuple):
    """The way to one waypoint: ``coefficients`` (8, 6) of the path polynomial, lowest power first."""

    waypoint: Waypoint
    start_ns: int
    timing: "Timing"
    end_ns: int  # of the dwell
    coefficients: Float64
    gripper_from_m: float

    @property
    def goal_rad(self) -> Float64:
        """Joints (6,) at the end."""
        total: Float64 = self.coefficients.sum(axis=0)
        return total


class ArmMotion:
    """The trajectory of one arm: at rest where it was anchored, then segment after segment."""

    def __init__(self, base: Base, limits: MotionLimits | None = None) -> None:
        self._base = base
        self._limits = limits or MotionLimits()
        self._rest_rad: Float64 = np.zeros(ARM_JOINTS)
        self._rest_width_m = 0.0
        self.segments: list[Segment] = []
        self.completed = 0  # number of the last waypoint that was forgotten as completed

    def anchor(self, position_rad: Float64, width_m: float, completed: int) -> None:
        """Forget the plan: rest at these joints, with the waypoints up to ``completed`` behind."""
        self._rest_rad = np.array(position_rad, dtype=np.float64)
        self._rest_width_m = width_m
        self.segments.clear()
        self.completed = completed

    def forget_before(self, now_ns: int) -> None:
        """Fold the segments that ended before ``now_ns`` into the resting pose."""
        while self.segments and self.segments[0].end_ns < now_ns:
            segment = self.segments.pop(0)
            self._rest_rad, self._rest_width_m = segment.goal_rad, segment.waypoint.gripper_width_m
            self.completed = segment.waypoint.number

    def drop_from(self, index: int) -> None:
        """Take segment ``index`` and all later ones out of the plan."""
        del self.segments[index:]

    def end_of(self, number: int) -> int | None:
        """When the waypoint ``number`` is completed [ns]; 0 if it is behind, None if it is not planned."""
        if number <= self.completed:
            return 0
        return next((s.end_ns for s in self.segments if s.waypoint.number >= number), None)

    @property
    def last_number(self) -> int:
        """Number of the last waypoint in the plan or behind."""
        return self.segments[-1].waypoint.number if self.segments else self.completed

    @property
    def end_ns(self) -> int:
        """When the plan ends; 0 if the arm rests."""
        return self.segments[-1].end_ns if self.segments else 0

    def append(self, waypoint: Waypoint, start_ns: int) -> bool:
        """Plan the way to ``waypoint`` from the end of the plan, not before ``start_ns``; False if out of reach."""
        start_rad = self.segments[-1].goal_rad if self.segments else self._rest_rad
        width_m = self.segments[-1].waypoint.gripper_width_m if self.segments else self._rest_width_m
        coefficients = self._path(waypoint, start_rad)
        if coefficients is None:
            return False
        start_ns = max(start_ns, self.end_ns)
        timing = self._timing(coefficients, waypoint.gripper_width_m - width_m, waypoint.speed)
        end_ns = start_ns + to_ns(timing.duration_s + waypoint.dwell_s)
        self.segments.append(Segment(waypoint, start_ns, timing, end_ns, coefficients, width_m))
        return True

    def evaluate(self, times_ns: npt.NDArray[np.int64]) -> tuple[Float64, Float64]:
        """Joints (K, 6) [rad] and gripper widths (K,) [m] at growing instants (K,)."""
        count = len(times_ns)
        position, width = np.empty((count, ARM_JOINTS)), np.empty(count)
        rest, rest_width, filled = self._rest_rad, self._rest_width_m, 0
        for segment in self.segments:
            first = int(np.searchsorted(times_ns, segment.start_ns))
            position[filled:first], width[filled:first] = rest, rest_width
            rest, rest_width = segment.goal_rad, segment.waypoint.gripper_width_m
            filled = max(first, int(np.searchsorted(times_ns, segment.end_ns)))
            if filled > first:
                elapsed_s: Float64 = (times_ns[first:filled] - segment.start_ns).astype(np.float64) * 1e-9
                u = segment.timing.share(elapsed_s)
                position[first:filled] = (u[:, None] ** _POWERS) @ segment.coefficients
                width[first:filled] = segment.gripper_from_m + u * (rest_width - segment.gripper_from_m)
            if filled == count:
                break
        position[filled:], width[filled:] = rest, rest_width
        return position, width

    def _path(self, waypoint: Waypoint, start_rad: Float64) -> Float64 | None:
        """Coefficients (8, 6) of the path polynomial, None if the waypoint is out of reach."""
        position, rotation = self._base.from_world(waypoint.position_m, rotation_from_quaternion(waypoint.quaternion))
        if waypoint.straight:
            start_position, start_rotation = forward_tcp(start_rad)
            positions = start_position + _U[:, None] * (position - start_position)
            knots, reachable = inverse_tcp(positions, _turns(start_rotation, rotation), start_rad)
            knots[0] = start_rad
            if reachable.all() and np.abs(np.diff(knots, axis=0)).max() < self._limits.knot_step_rad:
                return _COEFFICIENTS_FROM_KNOTS @ knots
        goal, reached = inverse_tcp(position, rotation, start_rad)
        if not reached:
            return None
        coefficients = np.zeros((_KNOTS, ARM_JOINTS))
        coefficients[0], coefficients[1] = start_rad, goal - start_rad
        return coefficients

    def _timing(self, coefficients: Float64, opening_m: float, speed: float) -> Timing:
        """The fastest timing of a path that keeps the limits, slowed to the share ``speed``.

        With u' at most w and ramps of r seconds, q' is at most |dq/du| w, and q'' at most |d2q/du2| w^2 while
        cruising and |dq/du| (pi / 2) w / r + |d2q/du2| w^2 / 4 in the middle of a ramp.
        """
        limits = self._limits
        slope = max(float(np.abs(_SLOPE @ coefficients).max()), 1e-6)
        bend = max(float(np.abs(_BEND @ coefficients).max()), 1e-6)
        acceleration = limits.acceleration_rad_s2
        rate = min(
            limits.velocity_rad_s / slope,
            math.sqrt(acceleration / bend),
            limits.gripper_velocity_m_s / max(abs(opening_m), 1e-6),
            # The ramps meet in the middle: r = 1 / w.
            math.sqrt(acceleration / (0.5 * math.pi * slope + 0.25 * bend)),
            _MAX_RATE_HZ,
        )
        ramp_s = 0.5 * math.pi * slope * rate / (acceleration - 0.25 * bend * rate * rate)
        ramp_s = min(max(ramp_s, 0.25 / rate), 1.0 / rate)
        return Timing(rate * speed, ramp_s / speed)


# ---------------------------------------------------------------- rotations


def rotation_from_quaternion(quaternion: Sequence[float]) -> Float64:
    """(3, 3) from a unit quaternion w x y z."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: Float64) -> tuple[float, float, float, float]:
    """Unit quaternion w x y z, from the largest of its four squares (Shepperd, 1978)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    rows = (
        (1.0 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1.0 + xx - yy - zz, yx + xy, xz + zx),
        (xz - zx, yx + xy, 1.0 - xx + yy - zz, zy + yz),
        (yx - xy, xz + zx, zy + yz, 1.0 - xx - yy + zz),
    )
    best = max(range(4), key=lambda k: rows[k][k])
    norm = math.sqrt(sum(v * v for v in rows[best]))
    w, x, y, z = (v / norm for v in rows[best])
    return w, x, y, z


def _turns(start: Float64, goal: Float64) -> Float64:
    """Rotations (8, 3, 3) along the shortest turn from ``start`` to ``goal`` at the knots (Rodrigues' formula)."""
    w, x, y, z = quaternion_from_rotation(start.T @ goal)
    if w < 0.0:
        w, x, y, z = -w, -x, -y, -z
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < 1e-9:
        return np.broadcast_to(start, (_KNOTS, 3, 3))
    x, y, z = x / sine, y / sine, z / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angles = 2.0 * math.atan2(sine, w) * _U
    turns = np.eye(3) + np.sin(angles)[:, None, None] * cross + (1.0 - np.cos(angles))[:, None, None] * (cross @ cross)
    turned: Float64 = start @ turns
    return turned
