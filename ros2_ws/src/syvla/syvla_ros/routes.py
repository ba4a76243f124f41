"""Which topics travel as standard ROS messages: their types, names, quality and conversions, in one table.

What is not listed (intents, splices, provenance) has no standard message and keeps to the bus, where a recorder
also reads all the rest exactly as it was sent.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from syvla.message import Message
from syvla.messages import ARMS, ActionChunk, ArmState, CameraFrame, JointCommand, SafetyState, Task, Thought
from syvla.topics import CAMERAS
from syvla_ros import conversions, qos
from syvla_ros.clock import RosClock
from syvla_ros.profiles import TopicProfile

TASK = "/syvla/task"  # where people say what they want; the robot's node says under .../current what is in force


class Route(NamedTuple):
    """One ROS topic beside a topic of ours.

    ``into`` makes the ROS message, or None where this one has nothing for it; ``back`` makes ours of what came at
    ``now_ns``. One that is None is not sent, or not read.
    """

    topic: str
    ros_name: str
    ros_type: type
    quality: QoSProfile
    into: Callable[[Message], Any] | None
    back: Callable[[Any, int], Message] | None = None


def routes(names: TopicProfile, clock: RosClock, jpeg_quality: int) -> list[Route]:
    """Every route, with the names of a profile."""
    found: list[Route] = []
    for camera in CAMERAS:
        found += [
            Route(
                f"camera/{camera}",
                f"{names.image[camera]}/compressed",
                CompressedImage,
                qos.SENSOR,
                lambda m: conversions.compressed_image_of(cast(CameraFrame, m), jpeg_quality, clock),
                partial(lambda camera, m, now_ns: conversions.frame_of_compressed(m, camera, clock), camera),
            ),
            Route(
                f"camera/{camera}",
                names.depth[camera],
                Image,
                qos.SENSOR,
                lambda m: None if cast(CameraFrame, m).depth_mm is None else conversions.depth_image_of(m, clock),
            ),
        ]
    for arm in ARMS:
        found += [
            Route(
                f"arm/{arm}",
                names.state[arm],
                JointState,
                qos.SENSOR,
                lambda m: conversions.joint_state_of(cast(ArmState, m), names, clock),
                partial(lambda arm, m, now_ns: conversions.arm_state_of(m, arm, names, clock), arm),
            ),
            Route(
                "command",
                names.command[arm],
                JointState,
                qos.COMMAND,
                partial(lambda arm, m: conversions.joint_command_of(cast(JointCommand, m), arm, names, clock), arm),
            ),
        ]
    return [
        *found,
        Route(
            "chunk",
            "/syvla/chunk",
            JointTrajectory,
            qos.COMMAND,
            lambda m: conversions.trajectory_of(cast(ActionChunk, m), clock),
            lambda m, now_ns: conversions.chunk_of(m, clock),
        ),
        Route(
            "task",
            TASK,
            String,
            qos.COMMAND,
            lambda m: conversions.string_of_task(cast(Task, m)),
        ),
        Route("task", f"{TASK}/current", String, qos.KEPT, None, conversions.task_of),
        Route(
            "thought", "/syvla/thought", String, qos.STATUS, lambda m: conversions.string_of_thought(cast(Thought, m))
        ),
        Route(
            "safety",
            "/diagnostics",
            DiagnosticArray,
            qos.STATUS,
            lambda m: conversions.diagnostics_of(cast(SafetyState, m), clock),
        ),
    ]
