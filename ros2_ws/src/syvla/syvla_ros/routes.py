"""Which topics travel as standard ROS messages: their types, names, quality and conversions, in one table.

What is not listed (intents, splices, provenance) has no standard message and keeps to the bus, where a recorder
also reads all the rest exactly as it was sent.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from syvla.message import Message
from syvla.messages import ARMS
from syvla.profiles import TopicProfile
from syvla.topics import CAMERAS
from syvla_ros import conversions, qos
from syvla_ros.clock import RosClock

TASK = "/syvla/task"  # where people say what they want; the robot's node says under .../current what is in force
CHUNK = "/syvla/chunk"
THOUGHT = "/syvla/thought"
DIAGNOSTICS = "/diagnostics"


class Route(NamedTuple):
    """One ROS topic beside a topic of ours.

    ``into`` makes the ROS message of ours, ``back`` ours of a ROS message that came at ``now_ns``. One that is None
    is not sent, or not read.
    """

    topic: str
    ros_name: str
    ros_type: type
    quality: QoSProfile
    into: Callable[[Any], Any] | None
    back: Callable[[Any, int], Message] | None = None


def routes(names: TopicProfile, clock: RosClock, jpeg_quality: int) -> list[Route]:
    """Every route, with the names of a profile."""
    found: list[Route] = []
    for camera in CAMERAS:
        into = partial(conversions.compressed_image_of, quality=jpeg_quality, clock=clock)
        depth = partial(conversions.depth_image_of, clock=clock)
        found += [
            Route(f"camera/{camera}", f"{names.image[camera]}/compressed", CompressedImage, qos.SENSOR, into),
            Route(f"camera/{camera}", names.depth[camera], Image, qos.SENSOR, depth),
        ]
    for arm in ARMS:
        into = partial(conversions.joint_state_of, names=names, clock=clock)
        back = _back(partial(conversions.arm_state_of, arm=arm, names=names, clock=clock))
        command = partial(conversions.joint_command_of, arm=arm, names=names, clock=clock)
        found += [
            Route(f"arm/{arm}", names.state[arm], JointState, qos.SENSOR, into, back),
            Route("command", names.command[arm], JointState, qos.COMMAND, command),
        ]
    trajectory = partial(conversions.trajectory_of, clock=clock)
    chunk = _back(partial(conversions.chunk_of, clock=clock))
    diagnostics = partial(conversions.diagnostics_of, clock=clock)
    return [
        *found,
        Route("chunk", CHUNK, JointTrajectory, qos.COMMAND, trajectory, chunk),
        Route("task", TASK, String, qos.COMMAND, conversions.string_of_task),
        Route("task", f"{TASK}/current", String, qos.KEPT, None, conversions.task_of),
        Route("thought", THOUGHT, String, qos.STATUS, conversions.string_of_thought),
        Route("safety", DIAGNOSTICS, DiagnosticArray, qos.STATUS, diagnostics),
    ]


def _back(convert: Callable[[Any], Message]) -> Callable[[Any, int], Message]:
    """A conversion of a message that carries its own time."""
    return lambda message, now_ns: convert(message)
