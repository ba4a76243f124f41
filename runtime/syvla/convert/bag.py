"""Reads a ROS 2 bag of anybody, .db3 or .mcap, by a topic profile.

Messages are decoded as the standard types they must be; the definitions that a bag carries are never looked at, because
decoders are made from them.
"""

import re
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import apsw
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from syvla.clock import NS_PER_S
from syvla.convert.bag_command import Commands, provenance
from syvla.convert.bag_files import mcap_messages, refuse_strange_tables
from syvla.convert.files import identity, safe_name
from syvla.convert.rows import FIRST_NS, Facts, Frame, Grid, Row, Stamped, aligned, begun_topics
from syvla.errors import MessageError, RecordingError
from syvla.messages import (
    CAMERAS,
    ArmName,
    ArmState,
    CameraFrame,
    CompressedFrame,
    Task,
)
from syvla.profiles import profile
from syvla.standard_messages import (
    CompressedImageLike,
    ImageLike,
    Joints,
    JointStateLike,
    joints_of,
    jpeg_of,
    rgb_of,
)

OURS = "syvla"  # the profile of our own nodes, which say more than the standard messages have fields for
TASK = "/syvla/task/current"
MAX_MESSAGE_BYTES = 64 * 2**20
COMPRESSED = "/compressed"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PROVOKED = (
    apsw.Error, ReaderError, SerdeError, MessageError, struct.error, ValueError, IndexError, KeyError, AssertionError,
    TypeError, OverflowError,
)  # fmt: skip


class Raw(NamedTuple):
    """One message, still packed."""

    topic: str
    type: str
    log_ns: int
    data: bytes


class _Stamp(Protocol):
    sec: int
    nanosec: int


class _Header(Protocol):
    stamp: _Stamp
    frame_id: str


class _String(Protocol):
    data: str


class _Stamped(Protocol):
    header: _Header


class _Use(NamedTuple):
    """What a topic is to us."""

    what: str  # arm, command, image, jpeg or task
    which: str  # the arm or the camera
    type: str


class BagEpisode:
    """One bag: a folder with metadata.yaml, or one of its files.

    Raises:
        RecordingError: It is none, is compressed as a whole, or is not what it says.
        ConfigError: There is no such profile.
    """

    def __init__(self, path: Path, profile_name: str, gripper_unit_m: float | None = None) -> None:
        self._path = path
        self._files = _files(path)
        self._names = profile(profile_name)
        if gripper_unit_m is not None:
            self._names = self._names._replace(gripper_unit_m=gripper_unit_m)
        self.origin = " ".join(identity(file) for file in self._files)
        self.name = safe_name(path.name.removesuffix(".mcap").removesuffix(".db3"))
        self.fps: int | None = None
        joint_state = "sensor_msgs/msg/JointState"
        self._uses = {
            **{topic: _Use("arm", arm, joint_state) for arm, topic in self._names.state.items()},
            **{topic: _Use("command", arm, joint_state) for arm, topic in self._names.command.items()},
        }
        for camera, topic in self._names.image.items():
            self._uses[topic] = _Use("image", camera, "sensor_msgs/msg/Image")
            self._uses[topic + COMPRESSED] = _Use("jpeg", camera, "sensor_msgs/msg/CompressedImage")
        self._ours = profile_name == OURS
        if self._ours:
            self._uses[TASK] = _Use("task", "", "std_msgs/msg/String")
        self._store = get_typestore(Stores.ROS2_HUMBLE)

    @cached_property
    def _cameras(self) -> dict[str, str]:
        """Of each camera the topic that is read: the compressed one if there is one."""
        found = begun_topics((raw.topic, raw.log_ns) for raw in self._raw())
        cameras: dict[str, str] = {}
        for camera in CAMERAS:
            raw_topic = self._names.image[camera]
            for topic in (raw_topic + COMPRESSED, raw_topic):
                if topic in found:
                    cameras.setdefault(camera, topic)
        return cameras

    @cached_property
    def facts(self) -> Facts:
        """Nobody says how it ended."""
        return Facts(tuple(self._cameras))

    def rows(self, grid: Grid) -> Iterator[Row]:
        """Rows laid over the messages."""
        return aligned(self.messages(grid), tuple(self._cameras), grid, str(self._path))

    def messages(self, grid: Grid) -> Iterator[Stamped]:
        """Its messages by the stamps of their headers, which are shifted so that they begin at a second."""
        if not grid.instruction and not self._ours:
            raise RecordingError(f"{self._path}: it does not say what was asked for; give --instruction")
        images = set(self._cameras.values())
        shift_ns: int | None = None
        count = 0
        commands = Commands()
        for raw in self._raw():
            use = self._uses[raw.topic]
            if use.what in ("image", "jpeg") and raw.topic not in images:
                if use.which in self._cameras:  # the same images, in the form that is not read
                    continue
                raise RecordingError(f"{self._path}: {raw.topic} begins late; a camera must be there from the start")
            message = self._decoded(raw, use)
            own_ns = raw.log_ns if use.what == "task" else _stamp_ns(message) or raw.log_ns
            if shift_ns is None:
                shift_ns = FIRST_NS - own_ns
                if grid.instruction:
                    yield Stamped("task", FIRST_NS, Task(task_id=1, instruction=grid.instruction, issued_ns=FIRST_NS))
            at_ns = own_ns + shift_ns
            if at_ns < 0:
                raise RecordingError(f"{self._path}: {raw.topic} is stamped {-at_ns / NS_PER_S:.1f} s before the rest")
            if use.what == "task":
                yield Stamped("task", at_ns, self._task(message, count, at_ns))
            elif use.what != "command":
                yield self._stamped(use, count, at_ns, message)
            else:
                who = provenance(cast("_Stamped", message).header.frame_id if self._ours else "")
                yield from commands.add(use.which, at_ns, self._joints(message, raw), who)
            count += 1
        yield from commands.rest()

    # ------------------------------------------------------------ inside

    def _raw(self) -> Iterator[Raw]:
        """The messages of our topics in the order received."""
        for file in self._files:
            if file.suffix == ".mcap":
                for topic, kind, log_ns, data in mcap_messages(file, self._uses):
                    yield Raw(topic, kind, log_ns, data)
                continue
            refuse_strange_tables(file)
            try:
                with Reader(file) as reader:
                    mine: list[Connection] = [each for each in reader.connections if each.topic in self._uses]
                    for connection, log_ns, data in reader.messages(mine) if mine else ():
                        if not isinstance(data, bytes) or len(data) > MAX_MESSAGE_BYTES:
                            raise RecordingError(f"{file}: a message of {connection.topic} is no message")
                        yield Raw(connection.topic, connection.msgtype, log_ns, data)
            except (*_PROVOKED, OSError) as error:
                raise RecordingError(f"{file}: it cannot be read as a ROS 2 bag: {error}") from error

    def _decoded(self, raw: Raw, use: _Use) -> object:
        if raw.type != use.type:
            raise RecordingError(f"{self._path}: {raw.topic} holds {raw.type[:64]}, not {use.type}")
        if raw.data[:4] == _ZSTD:
            raise RecordingError(f"{self._path}: its messages are compressed; `ros2 bag convert` can undo that")
        try:
            return self._store.deserialize_cdr(raw.data, use.type)
        except _PROVOKED as error:
            raise RecordingError(f"{self._path}: a message of {raw.topic} cannot be read: {error}") from error

    def _stamped(self, use: _Use, number: int, at_ns: int, message: object) -> Stamped:
        try:
            if use.what == "arm":
                arm = cast("ArmName", use.which)
                joints = joints_of(cast("JointStateLike", message), self._names)
                state = ArmState(
                    arm=arm, measured_ns=at_ns, position_rad=joints.position_rad, velocity_rad_s=joints.velocity_rad_s,
                    effort_nm=joints.effort_nm, gripper_width_m=joints.gripper_width_m, enabled=True,
                )  # fmt: skip
                return Stamped(f"arm/{arm}", at_ns, state)
            return Stamped(f"camera/{use.which}", at_ns, _frame(use, number, at_ns, message))
        except MessageError as error:
            raise RecordingError(f"{self._path}: {use.which}: {error}") from error

    def _task(self, message: object, number: int, at_ns: int) -> Task:
        try:
            return Task(task_id=number, instruction=cast("_String", message).data.strip(), issued_ns=at_ns)
        except MessageError as error:
            raise RecordingError(f"{self._path}: {TASK}: {error}") from error

    def _joints(self, message: object, raw: Raw) -> Joints:
        try:
            return joints_of(cast("JointStateLike", message), self._names)
        except MessageError as error:
            raise RecordingError(f"{self._path}: {raw.topic}: {error}") from error


def _frame(use: _Use, number: int, at_ns: int, message: object) -> Frame:
    if use.what == "image":
        rgb = rgb_of(cast("ImageLike", message))
        return CameraFrame(camera=use.which, frame_id=number, exposure_ns=at_ns, rgb=rgb)
    jpeg, height, width = jpeg_of(cast("CompressedImageLike", message))
    return CompressedFrame(camera=use.which, frame_id=number, exposure_ns=at_ns, width=width, height=height, jpeg=jpeg)


def _stamp_ns(message: object) -> int:
    stamp = cast("_Stamped", message).header.stamp
    return stamp.sec * NS_PER_S + stamp.nanosec


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.suffix in (".db3", ".mcap")]
    if not found:
        packed = any(file.suffix == ".zstd" for file in path.iterdir())
        undo = "its files are compressed; `ros2 bag convert` can undo that"
        raise RecordingError(f"{path}: {undo if packed else 'there is no .db3 or .mcap in it'}")
    return sorted(found, key=lambda file: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", file.name)])
