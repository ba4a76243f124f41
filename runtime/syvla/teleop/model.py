"""Both arms as a MuJoCo model of joints, grasp points and capsules, from the numbers of ``control.kinematics``.

The bodies' frames are those of the modified DH table, so that the grasp points are those of ``forward_tcp``; the
capsules are those of ``arm_distance_m``.
"""

import math
from typing import Any

import mujoco

from syvla.config import SafetyLimits
from syvla.control.kinematics import (
    BASE_HEIGHT_M,
    CAPSULES,
    ELBOW_OFFSET_M,
    ELBOW_ZERO_RAD,
    FINGER_HALF_SPAN_M,
    FLANGE_M,
    FOREARM_M,
    SHOULDER_ZERO_RAD,
    TCP_OFFSET_M,
    UPPER_ARM_M,
    Base,
)
from syvla.messages import ARM_JOINTS, ARMS, ArmName

_QUARTER = math.pi / 2
_DH = (  # a [m], alpha, theta0 [rad], d [m] of joints 1 to 6
    (0.0, 0.0, 0.0, BASE_HEIGHT_M),
    (0.0, -_QUARTER, SHOULDER_ZERO_RAD, 0.0),
    (UPPER_ARM_M, 0.0, ELBOW_ZERO_RAD, 0.0),
    (ELBOW_OFFSET_M, _QUARTER, 0.0, FOREARM_M),
    (0.0, -_QUARTER, 0.0, 0.0),
    (0.0, _QUARTER, 0.0, FLANGE_M),
)
_PALM_M = 0.06  # from the flange
_ENDS = {  # of each capsule: the joint that moves it, and its ends in that joint's frame
    "upper_arm": (2, (0.0, 0.0, 0.0), (UPPER_ARM_M, 0.0, 0.0)),
    "forearm": (3, (0.0, 0.0, 0.0), (ELBOW_OFFSET_M, -FOREARM_M, 0.0)),
    "hand": (6, (0.0, 0.0, -FLANGE_M), (0.0, 0.0, _PALM_M)),
    "palm": (6, (0.0, FINGER_HALF_SPAN_M, _PALM_M), (0.0, -FINGER_HALF_SPAN_M, _PALM_M)),
    "finger_a": (6, (0.0, FINGER_HALF_SPAN_M, _PALM_M), (0.0, FINGER_HALF_SPAN_M, TCP_OFFSET_M)),
    "finger_b": (6, (0.0, -FINGER_HALF_SPAN_M, _PALM_M), (0.0, -FINGER_HALF_SPAN_M, TCP_OFFSET_M)),
}


def two_arms(left: Base, right: Base, limits: SafetyLimits) -> Any:
    """The compiled model: 12 joints in the order of a JointCommand, sites ``left/tcp`` and ``right/tcp``."""
    arms = "".join(_arm(arm, base, limits) for arm, base in zip(ARMS, (left, right), strict=True))
    return mujoco.MjModel.from_xml_string(
        f'<mujoco><compiler angle="radian" autolimits="true"/><worldbody>{arms}</worldbody></mujoco>'
    )


def capsules(arm: ArmName) -> list[str]:
    """The names of an arm's geoms."""
    return [f"{arm}/{capsule.name}" for capsule in CAPSULES]


def _arm(arm: ArmName, base: Base, limits: SafetyLimits) -> str:
    inner = f'<site name="{arm}/tcp" pos="0 0 {TCP_OFFSET_M!r}"/>'
    for number in range(ARM_JOINTS, 0, -1):
        a, alpha, theta, d = _DH[number - 1]
        low, high = limits.position_min_rad[number - 1], limits.position_max_rad[number - 1]
        inner = (
            f'<body pos="{_text(a, -math.sin(alpha) * d, math.cos(alpha) * d)}" quat="{_turn(alpha, theta)}">'
            '<inertial mass="1" pos="0 0 0" diaginertia="1 1 1"/>'
            f'<joint name="{arm}/joint{number}" axis="0 0 1" range="{_text(low, high)}"/>'
            f"{_capsules(arm, number)}{inner}</body>"
        )
    half = base.yaw_rad / 2
    return (
        f'<body pos="{_text(base.x_m, base.y_m, base.z_m)}" quat="{_text(math.cos(half), 0, 0, math.sin(half))}">'
        f"{inner}</body>"
    )


def _capsules(arm: ArmName, joint: int) -> str:
    return "".join(
        f'<geom name="{arm}/{capsule.name}" type="capsule" size="{capsule.radius_m!r}" fromto="{_text(*start, *end)}"/>'
        for capsule in CAPSULES
        for moved_by, start, end in (_ENDS[capsule.name],)
        if moved_by == joint
    )


def _turn(alpha: float, theta: float) -> str:
    """Rx(alpha) Rz(theta) as a quaternion."""
    ca, sa, ct, st = (f(angle / 2) for angle in (alpha, theta) for f in (math.cos, math.sin))
    return _text(ca * ct, sa * ct, -sa * st, ca * st)


def _text(*numbers: float) -> str:
    """Numbers as MJCF wants them, with every digit they have."""
    return " ".join(repr(float(n)) for n in numbers)
