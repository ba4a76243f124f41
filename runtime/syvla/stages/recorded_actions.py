"""The joint commands of a recording as actions that may be played to a robot again, or why not."""

import msgspec
import numpy as np

from syvla.clock import NS_PER_S
from syvla.config import RigConfig, RunConfig
from syvla.control.playback import Actions
from syvla.errors import ConfigError, RecordingError
from syvla.message import Float64
from syvla.messages import BOTH_ARMS_JOINTS, JointCommand
from syvla.recording.mcap_read import CONFIG_ATTACHMENT, Recording

LONGEST_GAP_S = 0.5  # without commands; what was meant in it nobody knows
BEYOND_RAD, BEYOND_M = 0.02, 0.002  # of a limit: rounding, and a rig whose limits were drawn in a little since
FASTER = 1.5  # than the rig allows: then they are not this robot's, or in other units


def load_actions(recording: Recording, rig: RigConfig) -> Actions:
    """What was commanded in ``recording``, checked against ``rig``.

    Raises:
        RecordingError: there are no commands, they are damaged, or they are not in this robot's units or limits.
        ConfigError: they are another robot's.
    """
    path = recording.path
    _same_robot(recording, rig)
    commands = [r.message for r in recording.messages({"command"}) if isinstance(r.message, JointCommand)]
    if len(commands) < 2:
        raise RecordingError(f"{path}: holds {len(commands)} joint commands: there is nothing to play")
    at_ns = np.array([command.commanded_ns for command in commands], np.int64)
    gaps_s = np.diff(at_ns) / NS_PER_S
    if gaps_s.min() <= 0:
        raise RecordingError(f"{path}: its commands are not in the order of their stamps")
    if gaps_s.max() > LONGEST_GAP_S:
        raise RecordingError(f"{path}: no command for {gaps_s.max():.2f} s; what was meant there nobody knows")
    set_point = np.array([[*command.position_rad, *command.gripper_width_m] for command in commands])
    _in_limits(path.name, set_point, gaps_s, rig)
    return Actions((at_ns - at_ns[0]) / NS_PER_S, set_point)


def _same_robot(recording: Recording, rig: RigConfig) -> None:
    try:
        theirs = msgspec.json.decode(recording.attachments[CONFIG_ATTACHMENT], type=RunConfig).rig
    except (KeyError, msgspec.MsgspecError):
        raise RecordingError(f"{recording.path}: does not say of which robot it is") from None
    if theirs.name != rig.name or theirs.kind != rig.kind:
        raise ConfigError(
            f"{recording.path} is of rig {theirs.name!r} ({theirs.kind}), this one is {rig.name!r} ({rig.kind}): "
            "actions are only played to the robot that they were recorded of"
        )
    for arm in ("left", "right"):
        for key in ("base_position_m", "base_yaw_rad"):
            was, now = getattr(getattr(theirs, arm), key), getattr(getattr(rig, arm), key)
            if not np.allclose(was, now, atol=1e-3):
                raise ConfigError(f"{arm}.{key} was {was} when {recording.path} was recorded and is {now} now")


def _in_limits(name: str, set_point: Float64, gaps_s: Float64, rig: RigConfig) -> None:
    if not np.isfinite(set_point).all():
        raise RecordingError(f"{name}: a command is not finite")
    safety = rig.safety
    least = np.array([*safety.position_min_rad * 2, *[safety.gripper_min_m] * 2])
    most = np.array([*safety.position_max_rad * 2, *[safety.gripper_max_m] * 2])
    slack = np.array([BEYOND_RAD] * BOTH_ARMS_JOINTS + [BEYOND_M] * 2)
    beyond = np.maximum(least - set_point, set_point - most).max(axis=0) - slack
    if beyond.max() > 0:
        j = int(beyond.argmax())
        worst = set_point[np.abs(set_point[:, j]).argmax(), j]
        unit = "rad" if j < BOTH_ARMS_JOINTS else "m"
        raise RecordingError(
            f"{name}: {_named(j)} is commanded to {worst:.3f}, allowed are {least[j]:g} to {most[j]:g} {unit}: "
            "it is of another robot, or in other units"
        )
    fastest = np.abs(np.diff(set_point, axis=0) / gaps_s[:, None]).max(axis=0)
    allowed = np.array([*safety.velocity_rad_s * 2, *[safety.gripper_velocity_m_s] * 2]) * FASTER
    if (fastest > allowed).any():
        j = int((fastest / allowed).argmax())
        raise RecordingError(
            f"{name}: {_named(j)} is commanded at {fastest[j]:.2f} a second, this robot does {allowed[j] / FASTER:g}: "
            "it is of another robot, or in other units"
        )


def _named(j: int) -> str:
    if j >= BOTH_ARMS_JOINTS:
        return f"the {('left', 'right')[j - BOTH_ARMS_JOINTS]} gripper"
    return f"{('left', 'right')[j // 6]} joint {j % 6 + 1}"
