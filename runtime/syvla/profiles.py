"""What topics and joints are called, and in what units grippers are told: one profile for each convention in use."""

from collections.abc import Mapping
from typing import NamedTuple

from syvla.errors import ConfigError
from syvla.messages import ARMS, ArmName

ARM_JOINTS = 6


class TopicProfile(NamedTuple):
    """Names and units of one convention. Names of topics are absolute.

    ``joints`` are the six joints of an arm and then its gripper. ``gripper_unit_m`` is what one unit of the gripper's
    position is, in metres between the fingers.
    """

    state: Mapping[ArmName, str]
    command: Mapping[ArmName, str]
    image: Mapping[str, str]  # of each camera: raw, and with /compressed behind it, as JPEG
    depth: Mapping[str, str]
    camera_info: Mapping[str, str]
    joints: tuple[str, ...]
    gripper_unit_m: float = 1.0


def _cameras(names: Mapping[str, str], path: str) -> dict[str, str]:
    return {camera: f"/{folder}/{path}" for camera, folder in names.items()}


_OURS = {camera: f"syvla/{camera}" for camera in ("cam_high", "cam_left_wrist", "cam_right_wrist")}
_REALSENSE = {"cam_high": "camera_f", "cam_left_wrist": "camera_l", "cam_right_wrist": "camera_r"}

PROFILES: dict[str, TopicProfile] = {
    # Ours: everything under one namespace, radians and metres.
    "syvla": TopicProfile(
        state={arm: f"/syvla/{arm}/joint_states" for arm in ARMS},
        command={arm: f"/syvla/{arm}/joint_command" for arm in ARMS},
        image=_cameras(_OURS, "color/image_raw"),
        depth=_cameras(_OURS, "aligned_depth_to_color/image_raw"),
        camera_info=_cameras(_OURS, "color/camera_info"),
        joints=("joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "gripper"),
    ),
    # AgileX's ROS 2 driver for two arms, with realsense2_camera.
    "piper_ros2": TopicProfile(
        state={"left": "/joint_states_single_l", "right": "/joint_states_single_r"},
        command={"left": "/joint_states_l", "right": "/joint_states_r"},
        image=_cameras(_REALSENSE, "color/image_raw"),
        depth=_cameras(_REALSENSE, "aligned_depth_to_color/image_raw"),
        camera_info=_cameras(_REALSENSE, "color/camera_info"),
        joints=tuple(f"joint{i}" for i in range(1, 8)),
    ),
    # The names that Cobot Magic had under ROS 1 and that its recordings still carry.
    "cobot_magic_ros1_names": TopicProfile(
        state={"left": "/puppet/joint_left", "right": "/puppet/joint_right"},
        command={"left": "/master/joint_left", "right": "/master/joint_right"},
        image=_cameras(_REALSENSE, "color/image_raw"),
        depth=_cameras(_REALSENSE, "depth/image_raw"),
        camera_info=_cameras(_REALSENSE, "color/camera_info"),
        joints=tuple(f"joint{i}" for i in range(7)),
    ),
}


def profile(name: str) -> TopicProfile:
    """The profile called ``name``; ConfigError with the valid names otherwise."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigError(f"no topic profile {name!r}; there are {', '.join(PROFILES)}") from None
