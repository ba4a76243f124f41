"""The Piper arm with its two-finger gripper as MJCF: the vendor's DH table in primitive geometry.

Every body's frame is the modified DH frame of its joint, so that a site on the sixth agrees with the vendor's
forward kinematics. The fingers slide along the hand's y, each by half the gripper's width. Masses sum to the
vendor's 4.2 kg arm; armature, damping and servo gains are chosen, not measured: they make the servos lag by 30 ms.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from syvla.control.kinematics import (
    BASE_HEIGHT_M,
    ELBOW_OFFSET_M,
    ELBOW_ZERO_RAD,
    FLANGE_M,
    FOREARM_M,
    LIMITS,
    SHOULDER_ZERO_RAD,
    TCP_OFFSET_M,
    UPPER_ARM_M,
    Base,
)

GRIPPER_MAX_M = 0.07
ARM_DOF = 8  # six joints, two fingers: positions, velocities and controls alike

# Contact bits (contype); what each kind is touched by is its conaffinity.
BIT_WORLD, BIT_OBJECT, BIT_LEFT, BIT_RIGHT = 1, 2, 4, 8
_AFFINITY = {BIT_LEFT: BIT_WORLD | BIT_OBJECT | BIT_RIGHT, BIT_RIGHT: BIT_WORLD | BIT_OBJECT}

_WHITE = "0.93 0.94 0.96 1"
_GREY = "0.42 0.45 0.50 1"
_DARK = "0.16 0.17 0.20 1"
_PAD = "0.10 0.10 0.11 1"
_ACCENT = {"left": "0.20 0.52 0.90 1", "right": "0.95 0.48 0.16 1"}

# Fingers: a pad reaches from 18 mm before the grasp point to 12 mm beyond it.
FINGER_TIP_M = TCP_OFFSET_M + 0.012
_PAD_START_M = TCP_OFFSET_M - 0.028
_PAD_THICKNESS_M = 0.010
_PAD_WIDTH_M = 0.022


class _Joint(NamedTuple):
    """One row of the DH table with the link that it moves."""

    a_m: float
    alpha_rad: float
    theta_rad: float
    d_m: float
    mass_kg: float
    centre_m: tuple[float, float, float]
    inertia_kg_m2: tuple[float, float, float]
    armature_kg_m2: float
    damping_nm_s: float
    stiffness_nm_rad: float
    servo_damping_nm_s: float
    effort_nm: float


_QUARTER = math.pi / 2.0
_JOINTS = (
    _Joint(0.0, 0.0, 0.0, BASE_HEIGHT_M, 0.71, (0, 0, 0), (1e-3, 1e-3, 1e-3), 0.10, 2.0, 1500.0, 43.0, 60.0),
    _Joint(
        0.0, -_QUARTER, SHOULDER_ZERO_RAD, 0.0,
        1.17, (UPPER_ARM_M / 2, 0, 0), (1e-3, 8e-3, 8e-3), 0.10, 2.0, 1500.0, 43.0, 60.0,
    ),
    _Joint(
        UPPER_ARM_M, 0.0, ELBOW_ZERO_RAD, 0.0,
        0.50, (ELBOW_OFFSET_M / 2, -FOREARM_M / 2, 0), (3e-3, 5e-4, 3e-3), 0.06, 1.5, 900.0, 25.0, 40.0,
    ),
    _Joint(
        ELBOW_OFFSET_M, _QUARTER, 0.0, FOREARM_M,
        0.38, (0, 0, -0.03), (4e-4, 4e-4, 2e-4), 0.02, 0.5, 250.0, 6.5, 15.0,
    ),
    _Joint(0.0, -_QUARTER, 0.0, 0.0, 0.38, (0, 0, 0), (4e-4, 4e-4, 4e-4), 0.02, 0.5, 250.0, 6.5, 15.0),
    _Joint(0.0, _QUARTER, 0.0, FLANGE_M, 0.46, (0, 0, 0.03), (6e-4, 5e-4, 4e-4), 0.01, 0.3, 150.0, 3.9, 10.0),
)  # fmt: skip


class ArmXml(NamedTuple):
    """The parts of one arm that belong into a model's ``worldbody`` and ``actuator``."""

    body: str
    actuators: str


def piper(name: str, base: Base, bit: int, camera: str) -> ArmXml:
    """One arm, standing at ``base``; every name in it starts with ``name/``.

    Args:
        name: "left" or "right".
        base: Where it stands.
        bit: BIT_LEFT or BIT_RIGHT.
        camera: Name of the camera on its hand.
    """
    accent = _ACCENT[name]
    contact = f'contype="{bit}" conaffinity="{_AFFINITY[bit]}"'
    links = [
        _ball_joint_housing((0, -0.048, 0), (0, 0.048, 0), 0.046, _WHITE),
        _capsule((0, 0, 0), (UPPER_ARM_M, 0, 0), 0.036, _WHITE)
        + _cylinder((UPPER_ARM_M, 0, -0.046), (UPPER_ARM_M, 0, 0.046), 0.042, _GREY)
        + _cylinder((0.10, 0, 0), (0.12, 0, 0), 0.0375, accent),
        _capsule((0, 0, 0), (ELBOW_OFFSET_M, -0.15, 0), 0.033, _WHITE)
        + _capsule((ELBOW_OFFSET_M, -0.15, 0), (ELBOW_OFFSET_M, -0.20, 0), 0.033, _WHITE, contact),
        _cylinder((0, 0, -0.065), (0, 0, -0.03), 0.034, _GREY),
        _capsule((0, 0, -0.030), (0, 0, 0.030), 0.034, _WHITE),
        _hand(name, contact, accent, camera),
    ]
    text = ""
    for number in range(len(_JOINTS), 0, -1):
        text = _link(name, number, _JOINTS[number - 1], links[number - 1] + text)
    x, y, z, yaw = base
    body = (
        f'<body name="{name}/base" pos="{_text(x, y, z)}" quat="{_text(math.cos(yaw / 2), 0, 0, math.sin(yaw / 2))}">'
        + _cylinder((0, 0, 0), (0, 0, 0.012), 0.075, _DARK)
        + _cylinder((0, 0, 0.012), (0, 0, 0.075), 0.052, _GREY)
        + _cylinder((0, 0, 0.060), (0, 0, 0.066), 0.0535, accent)
        + text
        + "</body>"
    )
    return ArmXml(body, _actuators(name))


def _link(name: str, number: int, joint: _Joint, inner: str) -> str:
    ca, sa = math.cos(joint.alpha_rad), math.sin(joint.alpha_rad)
    half_alpha, half_theta = joint.alpha_rad / 2, joint.theta_rad / 2
    # Rx(alpha) Rz(theta) as a quaternion
    quat = (
        math.cos(half_alpha) * math.cos(half_theta),
        math.sin(half_alpha) * math.cos(half_theta),
        -math.sin(half_alpha) * math.sin(half_theta),
        math.cos(half_alpha) * math.sin(half_theta),
    )
    low, high = LIMITS.lower_rad[number - 1], LIMITS.upper_rad[number - 1]
    return (
        f'<body name="{name}/link{number}" pos="{_text(joint.a_m, -sa * joint.d_m, ca * joint.d_m)}"'
        f' quat="{_text(*quat)}" gravcomp="1">'
        f'<inertial mass="{joint.mass_kg}" pos="{_text(*joint.centre_m)}" diaginertia="{_text(*joint.inertia_kg_m2)}"/>'
        f'<joint name="{name}/joint{number}" axis="0 0 1" range="{_text(low, high)}"'
        f' armature="{joint.armature_kg_m2}" damping="{joint.damping_nm_s}"/>'
        f"{inner}</body>"
    )


def _hand(name: str, contact: str, accent: str, camera: str) -> str:
    pad = (_PAD_WIDTH_M / 2, _PAD_THICKNESS_M / 2, (FINGER_TIP_M - _PAD_START_M) / 2)
    pad_z = (FINGER_TIP_M + _PAD_START_M) / 2
    fingers = ""
    for finger, side in (("a", 1), ("b", -1)):
        fingers += (
            f'<body name="{name}/finger_{finger}" gravcomp="1">'
            f'<inertial mass="0.03" pos="{_text(0, side * 0.01, 0.1)}" diaginertia="2e-5 2e-5 1e-5"/>'
            f'<joint name="{name}/finger_{finger}" type="slide" axis="0 {side} 0" armature="0.03" damping="5"'
            f' range="-0.001 {GRIPPER_MAX_M / 2 + 0.001}"/>'
            + _box((0, side * 0.011, 0.087), (0.011, 0.006, 0.022), _GREY)
            + f'<geom name="{name}/pad_{finger}" type="box" pos="{_text(0, side * pad[1], pad_z)}" size="{_text(*pad)}"'
            f' rgba="{_PAD}" {contact} condim="4" friction="1.5 0.02 0.002" solref="0.005 1" priority="1"/>'
            "</body>"
        )
    return (
        _cylinder((0, 0, -0.050), (0, 0, 0.004), 0.031, _GREY)
        + _cylinder((0, 0, 0.004), (0, 0, 0.012), 0.033, accent)
        + _box((0, 0, 0.038), (0.020, 0.045, 0.026), _DARK, contact)
        + _box((-0.078, 0, 0.014), (0.010, 0.042, 0.011), _DARK)
        + _box((-0.048, 0, 0.012), (0.024, 0.012, 0.004), accent)
        + fingers
        + f'<site name="{name}/flange" size="0.002" group="4"/>'
        + f'<site name="{name}/tcp" pos="0 0 {TCP_OFFSET_M!r}" size="0.002" group="4"/>'
        + _wrist_camera(camera)
    )


def _wrist_camera(camera: str) -> str:
    """On the outer side of the hand, looking along the fingers at the grasp point and a little beyond it."""
    eye = (-0.085, 0.0, 0.030)
    beyond = TCP_OFFSET_M + 0.02
    length = math.hypot(eye[0], beyond - eye[2])
    # The camera looks along its -z; its x is the hand's y and its y points away from the fingers.
    back = (eye[0] / length, 0.0, -(beyond - eye[2]) / length)
    up = (back[2], 0.0, -back[0])
    # right = up x back
    right_y = up[2] * back[0] - up[0] * back[2]
    return f'<camera name="{camera}" pos="{_text(*eye)}" xyaxes="0 {right_y!r} 0 {_text(*up)}" fovy="70"/>'


def _actuators(name: str) -> str:
    text = "".join(
        f'<position name="{name}/joint{number}" joint="{name}/joint{number}" kp="{j.stiffness_nm_rad}"'
        f' kv="{j.servo_damping_nm_s}" forcerange="{-j.effort_nm} {j.effort_nm}"'
        f' ctrlrange="{_text(LIMITS.lower_rad[number - 1], LIMITS.upper_rad[number - 1])}"/>'
        for number, j in enumerate(_JOINTS, start=1)
    )
    return text + "".join(
        f'<position name="{name}/finger_{finger}" joint="{name}/finger_{finger}" kp="3000" kv="40"'
        f' forcerange="-30 30" ctrlrange="0 {GRIPPER_MAX_M / 2}"/>'
        for finger in "ab"
    )


# ---------------------------------------------------------------- primitives


_SEEN = 'contype="0" conaffinity="0"'


def _capsule(start: Sequence[float], end: Sequence[float], radius: float, rgba: str, contact: str = _SEEN) -> str:
    return f'<geom type="capsule" fromto="{_text(*start, *end)}" size="{radius}" rgba="{rgba}" {contact}/>'


def _cylinder(start: Sequence[float], end: Sequence[float], radius: float, rgba: str) -> str:
    return f'<geom type="cylinder" fromto="{_text(*start, *end)}" size="{radius}" rgba="{rgba}" {_SEEN}/>'


def _ball_joint_housing(start: Sequence[float], end: Sequence[float], radius: float, rgba: str) -> str:
    return _cylinder(start, end, radius, _GREY) + _capsule((0, 0, -0.05), (0, 0, 0), radius, rgba)


def _box(centre: Sequence[float], half: Sequence[float], rgba: str, contact: str = _SEEN) -> str:
    return f'<geom type="box" pos="{_text(*centre)}" size="{_text(*half)}" rgba="{rgba}" {contact}/>'


def _text(*numbers: float) -> str:
    """Numbers as MJCF wants them, with every digit they have."""
    return " ".join(repr(float(n)) for n in numbers)
