"""Observation alignment: senses of different stamps brought to one instant."""

from collections.abc import Sequence

import numpy as np

from syvla.clock import NS_PER_S
from syvla.message import Float64
from syvla.messages import ArmState, CameraFrame, Observation

MAX_CARRY_S = 0.1  # a measured velocity says little about times further away


def proprioception(left: ArmState, right: ArmState, at_ns: int) -> Float64:
    """Joints [rad] and gripper width [m] of the left arm, then of the right (14,), as they were at ``at_ns``.

    Each arm is carried from its stamp to ``at_ns`` with its measured velocity, by 0.1 s at most.
    """
    parts: list[float] = []
    for state in (left, right):
        dt_s = min(max((at_ns - state.measured_ns) / NS_PER_S, -MAX_CARRY_S), MAX_CARRY_S)
        parts += (state.position_rad + state.velocity_rad_s * dt_s).tolist()
        parts.append(state.gripper_width_m)
    return np.array(parts)


def observe(left: ArmState, right: ArmState, frames: Sequence[CameraFrame]) -> Observation:
    """Both arms and any number of frames at the instant of the oldest of them; how old they may be is not judged."""
    stamps = {"left": left.measured_ns, "right": right.measured_ns, **{f.camera: f.exposure_ns for f in frames}}
    observation_ns = min(stamps.values())
    return Observation(
        observation_ns=observation_ns,
        proprioception=proprioception(left, right, observation_ns),
        frames=tuple(frames),
        source_age_s={name: (observation_ns - stamp_ns) / NS_PER_S for name, stamp_ns in stamps.items()},
    )
