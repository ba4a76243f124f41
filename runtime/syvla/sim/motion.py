"""From waypoints to joint trajectories: one arm's plan as a list of segments, a pure function of time once planned.

A segment comes to rest at both ends. Its path is a polynomial q(u), u in [0, 1], and its timing the minimum-jerk
profile u(tau) = 10 tau^3 - 15 tau^4 + 6 tau^5 (Flash and Hogan, 1985), stretched until the joints keep their
velocity and acceleration limits. In joint space the polynomial is a line; a straight line of the grasp point is
interpolated through closed-form inverse kinematics at eight Chebyshev-Lobatto points.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from syvla.clock import to_ns
from syvla.control.kinematics import Base, forward_tcp, inverse_tcp
from syvla.messages import ARM_JOINTS, Float64
from syvla.sim.waypoints import Waypoint

_KNOTS = 8
_U = (1.0 - np.cos(np.pi * np.arange(_KNOTS) / (_KNOTS - 1))) / 2.0
_COEFFICIENTS_FROM_KNOTS = np.linalg.inv(np.vander(_U, increasing=True))
_POWERS = np.arange(_KNOTS)
_TAU = np.linspace(0.0, 1.0, 25)


def minimum_jerk(tau: Float64) -> Float64:
    """Share of the path covered after the share ``tau`` of the time."""
    u: Float64 = tau * tau * tau * (10.0 + tau * (6.0 * tau - 15.0))
    return u


# Path derivatives on the grid of _TAU: q' = P1 c u', q'' = P2 c u'^2 + P1 c u''.
_GRID_U = minimum_jerk(_TAU)
_GRID_U1 = 30.0 * _TAU**2 * (1.0 - _TAU) ** 2
_GRID_U2 = 60.0 * _TAU * (1.0 - _TAU) * (1.0 - 2.0 * _TAU)
_P1 = np.stack([k * _GRID_U ** max(k - 1, 0) for k in range(_KNOTS)], axis=1)
_P2 = np.stack([k * (k - 1) * _GRID_U ** max(k - 2, 0) for k in range(_KNOTS)], axis=1)


class MotionLimits(NamedTuple):
    """What a planned segment keeps."""

    velocity_rad_s: float = 1.25
    acceleration_rad_s2: float = 8.0
    gripper_velocity_m_s: float = 0.2
    knot_step_rad: float = 0.6  # a straight line whose joints jump further between knots is not followed


class Segment(NamedTuple):
    """The way to one waypoint: ``coefficients`` (8, 6) of the path polynomial, lowest power first."""

    waypoint: Waypoint
    start_ns: int
    move_ns: int
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
        move_ns = to_ns(self._duration_s(coefficients, waypoint.gripper_width_m - width_m) / waypoint.speed)
        end_ns = start_ns + move_ns + to_ns(waypoint.dwell_s)
        self.segments.append(Segment(waypoint, start_ns, move_ns, end_ns, coefficients, width_m))
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
            filled = max(first, int(np.searchsorted(times_ns, segment.start_ns + segment.move_ns)))
            if filled > first:
                u = minimum_jerk((times_ns[first:filled] - segment.start_ns) / segment.move_ns)
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

    def _duration_s(self, coefficients: Float64, opening_m: float) -> float:
        """The shortest minimum-jerk duration that keeps the limits [s]; at least one control period."""
        slope = _P1 @ coefficients
        velocity = np.abs(slope * _GRID_U1[:, None]).max()
        bend = (_P2 @ coefficients) * (_GRID_U1**2)[:, None]
        acceleration = np.abs(bend + slope * _GRID_U2[:, None]).max()
        return max(
            float(velocity) / self._limits.velocity_rad_s,
            math.sqrt(float(acceleration) / self._limits.acceleration_rad_s2),
            1.875 * abs(opening_m) / self._limits.gripper_velocity_m_s,
            0.005,
        )


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
