"""A recording as a rosbag2 bag: what has a standard message, with ROS 2 schemas, for rosbag2, Foxglove and ``rosbags``.

The recording stays as it is, and stays the whole: intents, splices and provenance have no standard message.
"""

import array
import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

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
MISSING = "bags are written by rosbags, which is missing: pip install 'syvla[ros]'"


def bag_folder(recording: Path) -> Path:
    """Where the bag of a recording lies: beside it."""
    return recording.with_name(recording.name.split(".mcap")[0] + ".rosbag2")


def can_write() -> bool:
    """Whether the package that writes bags is installed."""
    return importlib.util.find_spec("rosbags") is not None


def write_bag(path: Path, out: Path | None = None) -> tuple[Path, int]:
    """Write the recording at ``path`` as a bag to ``out``; the bag's folder, and how many messages are in it.

    It is there when it is whole; several may be written at a time, of the same recording too.

    Raises:
        RecordingError: it is damaged, or none.
        ConfigError: ``out`` exists, the disk has no room for it, or the package ``rosbags`` is missing.
    """
    if not can_write():
        raise ConfigError(MISSING)
    out = bag_folder(path) if out is None else out
    if os.path.lexists(out):
        raise ConfigError(f"{out}: exists already and is not overwritten")
    recording = Recording(path)
    try:
        if shutil.disk_usage(out.parent).free < 2 * path.stat().st_size:
            raise ConfigError(f"{out.parent}: the disk has no room for a bag of {path.name}")
        half = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            count = _write(recording, half / out.name)
            (half / out.name).rename(out)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{out}: {error.strerror}") from error
    return out, count


def _write(recording: Recording, folder: Path) -> int:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    run = configuration(recording)
    names, clock = run_profile(run), RosClock(run.wall_offset_ns)
    table = routes(names, clock, run.rig.ros.jpeg_quality)
    types = get_typestore(Stores.ROS2_HUMBLE)
    connections: dict[str, Any] = {}
    count = 0
    with Writer(folder, version=VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        for recorded in recording.messages():
            at_ns = recorded.log_time_ns + clock.offset_ns
            if not 0 <= at_ns < 2**63:
                raise RecordingError(f"{recording.path}: its wall clock makes no sense: {at_ns} ns since 1970")
            for ros_name, message in ros_messages(recorded, table, names, clock):
                if ros_name not in connections:
                    connections[ros_name] = writer.add_connection(ros_name, ros_type(message), typestore=types)
                writer.write(connections[ros_name], at_ns, serialised(message, types))
                count += 1
    if count == 0:
        raise RecordingError(f"{recording.path}: holds nothing that has a standard message")
    return count


def ros_messages(recorded: Recorded, table: list[Route], names: TopicProfile, clock: RosClock) -> list[tuple[str, Any]]:
    """What ROS is told of one message, with the topics' names: images as they were recorded, the rest as it travels.

    What ROS cannot say did not travel either, and is left out.
    """
    message = recorded.message
    with contextlib.suppress(MessageError):
        if isinstance(message, CompressedFrame | CameraFrame):
            return _images(message, names, clock)
        made = [
            (route.ros_name, route.into(message))
            for route in table
            if route.topic == recorded.topic and route.into is not None
        ]
        return [(name, told) for name, told in made if told is not None]
    return []


def _images(frame: CompressedFrame | CameraFrame, names: TopicProfile, clock: RosClock) -> list[tuple[str, Any]]:
    if frame.camera not in names.image:
        raise MessageError(f"no camera {frame.camera!r}")
    if isinstance(frame, CompressedFrame):
        return [(f"{names.image[frame.camera]}/compressed", jpeg_image_of(frame, clock))]
    depth = depth_image_of(frame, clock)
    found = [(names.image[frame.camera], image_of(frame, clock))]
    return found if depth is None else [*found, (names.depth[frame.camera], depth)]


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
