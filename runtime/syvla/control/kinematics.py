"""Kinematics of the Piper arm: forward, closed-form inverse, and the distance between two arms.

Modified Denavit-Hartenberg parameters (Craig, Introduction to Robotics, 3rd ed., eq. 3.6) as the vendor gives
them: ``a = [0, 0, 285.03, -21.98, 0, 0]`` mm, ``alpha = [0, -90, 0, 90, -90, 90]`` deg,
``theta0 = [0, -172.22, -102.78, 0, 0, 0]`` deg, ``d = [123, 0, 0, 250.75, 0, 91]`` mm. Multiplied out, with
``t2 = q2 - 172.22 deg`` and ``t23 = q2 + q3 - 275 deg``:

    rotation = Rz(q1) Ry(t23) Rz(q4) Ry(q5) Rz(q6)
    wrist    = Rz(q1) (L2 cos t2 + A cos t23 + D sin t23,  0,  H - L2 sin t2 - A sin t23 + D cos t23)
    flange   = wrist + F rotation z

Axes 4, 5 and 6 meet in the wrist centre, so position and rotation separate. Frames: x forward and z up in an
arm's base frame; the flange's z points out of the hand, its y is the line along which the fingers open.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from syvla.config import ArmConfig, SafetyLimits, Six
from syvla.message import Float64

BASE_HEIGHT_M = 0.123  # H
UPPER_ARM_M = 0.28503  # L2
ELBOW_OFFSET_M = -0.02198  # A
FOREARM_M = 0.25075  # D
FLANGE_M = 0.091  # F, wrist centre to flange
TCP_OFFSET_M = 0.1358  # flange to the midpoint between the finger pads
SHOULDER_ZERO_RAD = math.radians(-172.22)
ELBOW_ZERO_RAD = math.radians(-102.78)

HOME_RAD: Six = (0.0, 1.05, -0.93, 0.0, 1.05, 0.0)  # hand in front of its own base, tilted 27 deg, grasp point 0.2 m up

_FOREARM_LENGTH_M = math.hypot(ELBOW_OFFSET_M, FOREARM_M)
_FOREARM_ANGLE_RAD = math.atan2(FOREARM_M, ELBOW_OFFSET_M)
_SINGULAR = 1e-7  # below this sine of q5, axes 4 and 6 are one line
_LIMIT_SLACK_RAD = 1e-7  # near the straight wrist, q4 is no better known than rounding / _SINGULAR
_LARGEST_RAD = 1e6


class JointLimits(NamedTuple):
    """Joint limits of one arm [rad]."""

    lower_rad: Six = SafetyLimits().position_min_rad
    upper_rad: Six = SafetyLimits().position_max_rad


LIMITS = JointLimits()


class Base(NamedTuple):
    """Where an arm's base stands in the world: its origin [m] and the direction of its x axis."""

    x_m: float = 0.0
    y_m: float = 0.0
    z_m: float = 0.0
    yaw_rad: float = 0.0

    @classmethod
    def of(cls, arm: ArmConfig) -> "Base":
        """The base of a configured arm."""
        return cls(*arm.base_position_m, arm.base_yaw_rad)

    @property
    def rotation(self) -> Float64:
        """world_from_base, (3, 3)."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def to_world(self, position: npt.ArrayLike, rotation: npt.ArrayLike) -> tuple[Float64, Float64]:
        """A pose (..., 3), (..., 3, 3) of this base's frame, in the world."""
        turn = self.rotation
        return np.asarray(position, np.float64) @ turn.T + self[:3], turn @ np.asarray(rotation, np.float64)

    def from_world(self, position: npt.ArrayLike, rotation: npt.ArrayLike) -> tuple[Float64, Float64]:
        """A pose (..., 3), (..., 3, 3) of the world, in this base's frame."""
        turn = self.rotation
        return (np.asarray(position, np.float64) - self[:3]) @ turn, turn.T @ np.asarray(rotation, np.float64)


def forward(q_rad: npt.ArrayLike) -> tuple[Float64, Float64]:
    """The flange in the base frame: position (..., 3) [m] and rotation (..., 3, 3), for joints (..., 6) [rad]."""
    q = np.asarray(q_rad, dtype=np.float64)
    if q.ndim == 1:
        wrist, rotation = _wrist_and_rotation(_angles(*q.tolist()), math)
        matrix = np.array(rotation).reshape(3, 3)
        return np.array(wrist) + FLANGE_M * matrix[:, 2], matrix
    wrist, rotation = _wrist_and_rotation(_angles(*np.moveaxis(q, -1, 0)), np)
    matrix = np.stack(np.broadcast_arrays(*rotation), axis=-1).reshape(*q.shape[:-1], 3, 3)
    return np.stack(wrist, axis=-1) + FLANGE_M * matrix[..., 2], matrix


def forward_tcp(q_rad: npt.ArrayLike) -> tuple[Float64, Float64]:
    """The grasp point between the finger pads; otherwise as :func:`forward`."""
    position, rotation = forward(q_rad)
    return position + TCP_OFFSET_M * rotation[..., 2], rotation


def _angles(q1: Any, q2: Any, q3: Any, q4: Any, q5: Any, q6: Any) -> tuple[Any, ...]:
    """Joint values to (q1, t2, t23, q4, q5, q6); floats or arrays."""
    t2 = q2 + SHOULDER_ZERO_RAD
    return q1, t2, t2 + q3 + ELBOW_ZERO_RAD, q4, q5, q6


def _wrist_and_rotation(angles: tuple[Any, ...], m: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The wrist centre (x, y, z) and the flange's rotation, row by row; ``m`` is math for floats, numpy for arrays."""
    c1, c2, c23, c4, c5, c6 = (m.cos(a) for a in angles)
    s1, s2, s23, s4, s5, s6 = (m.sin(a) for a in angles)
    reach = UPPER_ARM_M * c2 + ELBOW_OFFSET_M * c23 + FOREARM_M * s23
    height = BASE_HEIGHT_M - UPPER_ARM_M * s2 - ELBOW_OFFSET_M * s23 + FOREARM_M * c23
    # W = Rz(q4) Ry(q5) Rz(q6)
    u, v = c4 * c5, s4 * c5
    wxx, wxy, wxz = u * c6 - s4 * s6, -u * s6 - s4 * c6, c4 * s5
    wyx, wyy, wyz = v * c6 + c4 * s6, -v * s6 + c4 * c6, s4 * s5
    wzx, wzy, wzz = -s5 * c6, s5 * s6, c5
    # P = Ry(t23) W, of which the second row is that of W
    pxx, pxy, pxz = c23 * wxx + s23 * wzx, c23 * wxy + s23 * wzy, c23 * wxz + s23 * wzz
    pzx, pzy, pzz = c23 * wzx - s23 * wxx, c23 * wzy - s23 * wxy, c23 * wzz - s23 * wxz
    return (c1 * reach, s1 * reach, height), (
        c1 * pxx - s1 * wyx,
        c1 * pxy - s1 * wyy,
        c1 * pxz - s1 * wyz,
        s1 * pxx + c1 * wyx,
        s1 * pxy + c1 * wyy,
        s1 * pxz + c1 * wyz,
        pzx,
        pzy,
        pzz,
    )


# ---------------------------------------------------------------- inverse


def inverse(
    position: npt.ArrayLike,
    rotation: npt.ArrayLike,
    reference_q_rad: npt.ArrayLike,
    limits: JointLimits = LIMITS,
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Joints that put the flange at a pose of the base frame: of all solutions within limits the one nearest.

    Closed form: two shoulders times two elbows from the wrist centre, times two wrists from the ZYZ Euler
    angles of what rotation is left. Leading dimensions broadcast.

    Args:
        position: Flange position (..., 3) [m]. NaN counts as unreachable.
        rotation: Flange rotation (..., 3, 3).
        reference_q_rad: Joints (..., 6) from which nearness is measured (sum of squares); where the wrist is
            straight, q4 is taken from here if q6 can make up for it.
        limits: Joint limits.

    Returns:
        Joints (..., 6) [rad] and whether the pose can be reached (...,). Where it cannot, the joints are the
        reference.
    """
    return solutions(position, rotation, reference_q_rad, limits).nearest(reference_q_rad)


class Solutions(NamedTuple):
    """All joints that put the flange, or the grasp point, at each of the N poses of an array of ``shape``."""

    joints_rad: Float64  # (8, N, 6), clamped to the limits
    within: npt.NDArray[np.bool_]  # (8, N): whether there is such a solution, within limits
    straight: bool  # of some pose the wrist is straight, so that its q4 is the reference's
    shape: tuple[int, ...]

    def nearest(self, reference_q_rad: npt.ArrayLike) -> tuple[Float64, npt.NDArray[np.bool_]]:
        """Those nearest to joints (..., 6), as :func:`inverse` gives them."""
        reference = np.broadcast_to(np.asarray(reference_q_rad, np.float64), (*self.shape, 6)).reshape(-1, 6)
        away = self.joints_rad - reference
        cost = np.where(self.within, np.einsum("kni,kni->kn", away, away), np.inf)
        rows = np.arange(len(reference))
        best = cost.argmin(axis=0)
        reachable = self.within[best, rows]
        q = np.where(reachable[:, None], self.joints_rad[best, rows], reference)
        return q.reshape(*self.shape, 6), reachable.reshape(self.shape)

    def after(self, first: int) -> "Solutions":
        """Without those of the first so many poses along the leading dimension."""
        skipped = first * math.prod(self.shape[1:])
        return Solutions(
            self.joints_rad[:, skipped:],
            self.within[:, skipped:],
            self.straight,
            (self.shape[0] - first, *self.shape[1:]),
        )


def solutions(
    position: npt.ArrayLike, rotation: npt.ArrayLike, reference_q_rad: npt.ArrayLike, limits: JointLimits = LIMITS
) -> Solutions:
    """What :func:`inverse` chooses from; the reference matters only for wrists that are straight."""
    r = np.asarray(rotation, dtype=np.float64)
    p = np.asarray(position, dtype=np.float64)
    reference = np.asarray(reference_q_rad, dtype=np.float64)
    shape = np.broadcast_shapes(p.shape[:-1], r.shape[:-2], reference.shape[:-1])
    r = np.broadcast_to(r, (*shape, 3, 3)).reshape(-1, 3, 3)
    p = np.broadcast_to(p, (*shape, 3)).reshape(-1, 3)
    reference = np.broadcast_to(reference, (*shape, 6)).reshape(-1, 6)
    candidates, straight = _candidates(p - FLANGE_M * r[:, :, 2], r, reference)
    lower, upper = np.array(limits.lower_rad), np.array(limits.upper_rad)
    middle = (lower + upper) / 2.0
    # Every range is narrower than a turn, so at most one of the equivalent angles is within it.
    candidates -= 2.0 * math.pi * np.rint((candidates - middle) / (2.0 * math.pi))
    with np.errstate(invalid="ignore"):
        within = (np.abs(candidates - middle) <= (upper - lower) / 2.0 + _LIMIT_SLACK_RAD).all(axis=-1)
    return Solutions(np.minimum(np.maximum(candidates, lower), upper), within, straight, shape)


def inverse_tcp(
    position: npt.ArrayLike,
    rotation: npt.ArrayLike,
    reference_q_rad: npt.ArrayLike,
    limits: JointLimits = LIMITS,
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """As :func:`inverse`, for the pose of the grasp point."""
    return solutions_tcp(position, rotation, reference_q_rad, limits).nearest(reference_q_rad)


def solutions_tcp(
    position: npt.ArrayLike, rotation: npt.ArrayLike, reference_q_rad: npt.ArrayLike, limits: JointLimits = LIMITS
) -> Solutions:
    """As :func:`solutions`, for poses of the grasp point."""
    r = np.asarray(rotation, dtype=np.float64)
    return solutions(np.asarray(position, dtype=np.float64) - TCP_OFFSET_M * r[..., 2], r, reference_q_rad, limits)


def _candidates(wrist: Float64, rotation: Float64, reference: Float64) -> tuple[Float64, bool]:
    """All eight solutions (8, N, 6) for wrist centres (N, 3), without limits, and whether any wrist is straight.

    NaN where there is no solution.
    """
    x, y, z = wrist.T
    front = np.arctan2(y, x)
    radius = np.hypot(x, y)
    q1 = np.stack((front, front, front + math.pi, front + math.pi))  # (4, N): shoulder, elbow
    c1, s1 = (np.stack((v, v, -v, -v))[..., None] for v in (np.cos(front), np.sin(front)))
    reach = np.stack((radius, radius, -radius, -radius))
    drop = BASE_HEIGHT_M - z
    cosine = (radius * radius + drop * drop - UPPER_ARM_M**2 - _FOREARM_LENGTH_M**2) / (
        2.0 * UPPER_ARM_M * _FOREARM_LENGTH_M
    )
    with np.errstate(invalid="ignore"):
        bend = np.arccos(np.where(np.abs(cosine) < 1.0 + 1e-12, np.clip(cosine, -1.0, 1.0), np.nan))
    t3 = _FOREARM_ANGLE_RAD + np.stack((bend, -bend, bend, -bend))
    c3, s3 = np.cos(t3), np.sin(t3)
    along = UPPER_ARM_M + ELBOW_OFFSET_M * c3 + FOREARM_M * s3
    across = ELBOW_OFFSET_M * s3 - FOREARM_M * c3
    t2 = np.arctan2(drop, reach) - np.arctan2(across, along)
    # W = Rz(q4) Ry(q5) Rz(q6) = Ry(-t23) Rz(-q1) rotation
    t23 = t2 + t3
    c23, s23 = np.cos(t23)[..., None], np.sin(t23)[..., None]
    turned_x = c1 * rotation[:, 0] + s1 * rotation[:, 1]
    w_y = c1 * rotation[:, 1] - s1 * rotation[:, 0]
    w_x = c23 * turned_x - s23 * rotation[:, 2]
    w_z = s23 * turned_x + c23 * rotation[:, 2]
    sine = np.hypot(w_x[..., 2], w_y[..., 2])
    straight = sine < _SINGULAR
    q5 = np.arctan2(sine, w_z[..., 2])
    q4 = np.where(straight, reference[:, 3], np.arctan2(w_y[..., 2], w_x[..., 2]))
    # The first column of Rz(-q4) W is (cos q5 cos q6, sin q6, -sin q5 cos q6), the second's middle is cos q6.
    c4, s4 = np.cos(q4), np.sin(q4)
    q6 = np.arctan2(c4 * w_y[..., 0] - s4 * w_x[..., 0], c4 * w_y[..., 1] - s4 * w_x[..., 1])
    arm = (q1, t2 - SHOULDER_ZERO_RAD, t3 - ELBOW_ZERO_RAD)
    plain = np.stack((*arm, q4, q5, q6), axis=-1)
    # The other wrist. Where it is straight only q4 + q6 matters, and this solution shares that turn evenly.
    shared = np.arctan2(w_y[..., 0], w_x[..., 0]) / 2.0
    other = (np.where(straight, shared, q4 + math.pi), -q5, np.where(straight, shared, q6 + math.pi))
    flipped = np.stack((*arm, *other), axis=-1)
    return np.concatenate((plain, flipped)), bool(straight.any())


def hand_rotation(yaw_rad: npt.ArrayLike, tilt_rad: npt.ArrayLike = 0.0, azimuth_rad: npt.ArrayLike = 0.0) -> Float64:
    """The rotation (..., 3, 3) of a hand that points down, tilted outwards.

    Args:
        yaw_rad: Direction of the line along which the fingers open (the hand's y), seen from above without the tilt.
            The gripper is symmetric: yaw and yaw + pi grasp alike.
        tilt_rad: Angle of the hand from straight down; pi / 2 points it horizontally along the azimuth.
        azimuth_rad: Horizontal direction towards which the fingertips are tilted. The arm's own plane, that is
            atan2(y, x) of the target seen from its base, asks least of the joints.
    """
    yaw, tilt, azimuth = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (yaw_rad, tilt_rad, azimuth_rad)))
    turn = azimuth + math.pi / 2.0 - yaw
    # Rz(azimuth) Ry(pi - tilt) Rz(turn)
    ca, sa, ct, st, cr, sr = (f(v) for v in (azimuth, tilt, turn) for f in (np.cos, np.sin))
    rows = (
        -ca * ct * cr - sa * sr, ca * ct * sr - sa * cr, ca * st,
        -sa * ct * cr + ca * sr, sa * ct * sr + ca * cr, sa * st,
        -st * cr, st * sr, -ct,
    )  # fmt: skip
    return np.stack(rows, axis=-1).reshape(*yaw.shape, 3, 3)


# ---------------------------------------------------------------- the distance between the arms


class Capsule(NamedTuple):
    """A round link of an arm: between two of its link points, with a radius [m]."""

    name: str
    start: int
    end: int
    radius_m: float


FINGER_HALF_SPAN_M = 0.042  # the middle of a finger of the open gripper, from the hand's axis
# Link points: 0 shoulder, 1 elbow, 2 wrist centre, 3 palm, 4 and 5 roots of the open fingers, 6 and 7 their tips.
CAPSULES: tuple[Capsule, ...] = (
    Capsule("upper_arm", 0, 1, 0.045),
    Capsule("forearm", 1, 2, 0.040),
    Capsule("hand", 2, 3, 0.040),
    Capsule("palm", 4, 5, 0.025),
    Capsule("finger_a", 4, 6, 0.015),
    Capsule("finger_b", 5, 7, 0.015),
)
_PALM_M = FLANGE_M + 0.06
_TIP_M = FLANGE_M + TCP_OFFSET_M


def link_points(q_rad: npt.ArrayLike) -> Float64:
    """The points (8, 3) [m] of the base frame between which an arm's capsules lie, for joints (6,)."""
    return np.array(_link_points(np.asarray(q_rad, np.float64).tolist(), Base()))


def _link_points(q: list[float], base: Base) -> list[tuple[float, float, float]]:
    """Plain floats: an order of magnitude faster than numpy for one arm."""
    x0, y0, z0, yaw = base
    angles = _angles(q[0] + yaw, q[1], q[2], q[3], q[4], q[5])
    (x, y, z), (_, yx, zx, _, yy, zy, _, yz, zz) = _wrist_and_rotation(angles, math)
    x, y, z = x + x0, y + y0, z + z0
    reach = UPPER_ARM_M * math.cos(angles[1])
    h, t, s = _PALM_M, _TIP_M, FINGER_HALF_SPAN_M
    palm_x, palm_y, palm_z = x + h * zx, y + h * zy, z + h * zz
    tip_x, tip_y, tip_z = x + t * zx, y + t * zy, z + t * zz
    side_x, side_y, side_z = s * yx, s * yy, s * yz
    return [
        (x0, y0, z0 + BASE_HEIGHT_M),
        (
            x0 + reach * math.cos(angles[0]),
            y0 + reach * math.sin(angles[0]),
            z0 + BASE_HEIGHT_M - UPPER_ARM_M * math.sin(angles[1]),
        ),
        (x, y, z),
        (palm_x, palm_y, palm_z),
        (palm_x + side_x, palm_y + side_y, palm_z + side_z),
        (palm_x - side_x, palm_y - side_y, palm_z - side_z),
        (tip_x + side_x, tip_y + side_y, tip_z + side_z),
        (tip_x - side_x, tip_y - side_y, tip_z - side_z),
    ]


_STARTS = [capsule.start for capsule in CAPSULES]
_ENDS = [capsule.end for capsule in CAPSULES]
_COUNT = len(CAPSULES)
# A capsule's length does not depend on the joints.
_LENGTHS_SQ = np.array(
    [math.dist(p[c.start], p[c.end]) ** 2 for p in (_link_points([0.0] * 6, Base()),) for c in CAPSULES]
)
_A = np.ascontiguousarray(np.broadcast_to(_LENGTHS_SQ[:, None], (_COUNT, _COUNT)))
_E = np.ascontiguousarray(_A.T)
_AE = _A * _E
_RADII = np.array([capsule.radius_m for capsule in CAPSULES])
_RADII_SUM = _RADII[:, None] + _RADII[None, :]


def arm_distance_m(q_left_rad: npt.ArrayLike, q_right_rad: npt.ArrayLike, left: Base, right: Base) -> float:
    """The smallest distance between the surfaces of the two arms [m]; negative where they overlap.

    Closest points of all pairs of segments at once (Ericson, Real-Time Collision Detection, 2005, section
    5.1.9). The grippers count as open. Joints that are not
    finite, or beyond a million radians, give NaN.
    """
    ql, qr = np.asarray(q_left_rad, np.float64).tolist(), np.asarray(q_right_rad, np.float64).tolist()
    if not all(-_LARGEST_RAD <= q <= _LARGEST_RAD for q in ql + qr):  # NaN fails the comparison
        return math.nan
    points_l, points_r = np.array(_link_points(ql, left)), np.array(_link_points(qr, right))
    p_l, p_r = points_l[_STARTS], points_r[_STARTS]
    d_l, d_r = points_l[_ENDS] - p_l, points_r[_ENDS] - p_r
    apart = p_l[:, None, :] - p_r[None, :, :]  # (K, K, 3)
    b = d_l @ d_r.T
    c = (apart @ d_l[:, :, None])[..., 0]
    f = np.einsum("ijk,jk->ij", apart, d_r)
    s = (b * f - c * _E) / np.maximum(_AE - b * b, 1e-12)
    s = np.minimum(np.maximum(s, 0.0), 1.0)
    t = np.minimum(np.maximum((b * s + f) / _E, 0.0), 1.0)
    s = np.minimum(np.maximum((b * t - c) / _A, 0.0), 1.0)
    gap = apart + s[..., None] * d_l[:, None, :] - t[..., None] * d_r[None, :, :]
    return float((np.sqrt(np.einsum("ijk,ijk->ij", gap, gap)) - _RADII_SUM).min())
