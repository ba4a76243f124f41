"""A recording as a rosbag2 bag: what has a standard message, with ROS 2 schemas, for rosbag2, Foxglove and ``rosbags``.

The recording stays as it is, and stays the whole: intents, splices and provenance have no standard message.
"""

import array
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from syvla.apps.replay_verify import configuration
from syvla.errors import ConfigError, MessageError, RecordingError
from syvla.messages import CameraFrame, CompressedFrame
from syvla.profiles import TopicProfile
from syvla.recording.mcap_read import Recorded, Recording
from syvla_ros.clock import RosClock
from syvla_ros.conversions import depth_image_of, image_of, jpeg_image_of
from syvla_ros.node import run_profile
from syvla_ros.routes import Route, routes

VERSION: Literal[8] = 8  # of the bag's metadata: what Humble reads too
PARTIAL = ".partial"


def bag_folder(recording: Path) -> Path:
    """Where the bag of a recording lies: beside it."""
    return recording.with_name(recording.name.split(".mcap")[0] + ".rosbag2")


def write_bag(path: Path, out: Path | None = None) -> tuple[Path, int]:
    """Write the recording at ``path`` as a bag to ``out``; the bag's folder, and how many messages are in it.

    Raises:
        RecordingError: it is damaged, or none.
        ConfigError: ``out`` exists, or the package ``rosbags`` is missing.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise ConfigError("a bag is written by rosbags, which is missing: pip install 'syvla[convert]'") from None
    recording = Recording(path)
    run = configuration(recording)
    names, clock = run_profile(run), RosClock(run.wall_offset_ns)
    out = bag_folder(path) if out is None else out
    half = out.with_name(out.name + PARTIAL)
    if out.exists():
        raise ConfigError(f"{out}: exists already and is not overwritten")
    if half.exists():
        shutil.rmtree(half)  # of one that was cut short
    table = routes(names, clock, run.rig.ros.jpeg_quality)
    types = get_typestore(Stores.ROS2_HUMBLE)
    connections: dict[str, Any] = {}
    count = 0
    with Writer(half, version=VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        for recorded in recording.messages():
            for ros_name, message in ros_messages(recorded, table, names, clock):
                if ros_name not in connections:
                    connections[ros_name] = writer.add_connection(ros_name, ros_type(message), typestore=types)
                at_ns = recorded.log_time_ns + clock.offset_ns
                writer.write(connections[ros_name], at_ns, serialised(message, types))
                count += 1
    if count == 0:
        shutil.rmtree(half)
        raise RecordingError(f"{path}: holds nothing that has a standard message")
    half.rename(out)
    return out, count


def ros_messages(recorded: Recorded, table: list[Route], names: TopicProfile, clock: RosClock) -> list[tuple[str, Any]]:
    """What ROS is told of one message, with the topics' names: images as they were recorded, the rest as it travels."""
    message = recorded.message
    if isinstance(message, CompressedFrame):
        return [(f"{names.image[message.camera]}/compressed", jpeg_image_of(message, clock))]
    if isinstance(message, CameraFrame):
        depth = depth_image_of(message, clock)
        found = [(names.image[message.camera], image_of(message, clock))]
        return found if depth is None else [*found, (names.depth[message.camera], depth)]
    told = []
    for route in table:
        if route.topic != recorded.topic or route.into is None or route.ros_type in (Image, CompressedImage):
            continue
        try:
            made = route.into(message)
        except MessageError:  # what ROS cannot say did not travel either
            continue
        if made is not None:
            told.append((route.ros_name, made))
    return told


def serialised(message: Any, types: Any) -> bytes:
    """The CDR of a message; rclpy's own ends with whatever stood in memory, which strict readers refuse."""
    return bytes(types.serialize_cdr(_plain(message, types), ros_type(message)))


def _plain(value: Any, types: Any) -> Any:
    """A ROS message as the one of ``rosbags``."""
    if hasattr(value, "get_fields_and_field_types"):
        fields = value.get_fields_and_field_types()
        return types.types[ros_type(value)](**{name: _plain(getattr(value, name), types) for name in fields})
    if isinstance(value, array.array):
        return np.array(value, value.typecode)
    if isinstance(value, list):
        return [_plain(each, types) for each in value]
    return ord(value) if isinstance(value, bytes) else value  # ROS's type byte


def ros_type(message: Any) -> str:
    """The name of a message's type as ROS writes it."""
    kind = type(message)
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
