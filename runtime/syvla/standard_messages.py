"""Standard ROS messages as values, whichever library decoded them: pure functions over their fields.

Whatever comes in is hostile until checked: :class:`~syvla.errors.MessageError` names the field.
"""

from array import array
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple, Protocol

import numpy as np

from syvla.errors import MessageError
from syvla.message import Array, Float64, UInt8
from syvla.messages import ARM_JOINTS
from syvla.profiles import TopicProfile

MAX_JPEG = 2 * 1024 * 1024
MAX_SIDE = (2160, 3840)


class JointStateLike(Protocol):
    """sensor_msgs/JointState."""

    name: Sequence[str]
    position: Sequence[float]
    velocity: Sequence[float]
    effort: Sequence[float]


class ImageLike(Protocol):
    """sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: "array[int] | UInt8"  # bytes, in the array of either library


class CompressedImageLike(Protocol):
    """sensor_msgs/CompressedImage."""

    format: str
    data: "array[int] | UInt8"  # bytes, in the array of either library


class Joints(NamedTuple):
    """Of one arm: joints (6,) and metres between the fingers."""

    position_rad: Float64
    velocity_rad_s: Float64
    effort_nm: Float64
    gripper_width_m: float


def joints_of(message: JointStateLike, names: TopicProfile) -> Joints:
    """An arm's joints, in any order. Velocities and efforts that are not told are 0."""
    index = {name: i for i, name in enumerate(message.name)}
    if len(index) != len(message.name):
        raise MessageError("JointState.name: a joint is named twice")
    missing = [name for name in names.joints if name not in index]
    if missing:
        raise MessageError(f"JointState.name: {missing[0]} is missing; it must have {', '.join(names.joints)}")
    order = [index[name] for name in names.joints]
    position = _by_joint("position", message.position, order, len(index))
    width_m = position[-1] * names.gripper_unit_m
    if not isfinite(width_m):
        raise MessageError("JointState.position: the gripper's must be finite")
    return Joints(
        np.array(position[:ARM_JOINTS]),
        np.array(_by_joint("velocity", message.velocity, order, len(index))[:ARM_JOINTS]),
        np.array(_by_joint("effort", message.effort, order, len(index))[:ARM_JOINTS]),
        width_m,
    )


def _by_joint(field: str, values: Sequence[float], order: Sequence[int], count: int) -> list[float]:
    if len(values) == 0 and field != "position":
        return [0.0] * len(order)
    if len(values) != count:
        raise MessageError(f"JointState.{field} must have one value for each of the {count} names, not {len(values)}")
    return [float(values[i]) for i in order]


def rgb_of(message: ImageLike) -> UInt8:
    """The colour image (H, W, 3) of a raw one, rgb8 or bgr8."""
    found = pixels(message, {"rgb8": 3, "bgr8": 3}, np.dtype("u1"))
    return (found if message.encoding == "rgb8" else found[..., ::-1]).astype(np.uint8, order="C")


def jpeg_of(message: CompressedImageLike) -> tuple[UInt8, int, int]:
    """The JPEG of a compressed image, with the height and width that it says it has."""
    if "jpeg" not in message.format and "jpg" not in message.format:
        raise MessageError(f"CompressedImage.format must be jpeg, not {message.format[:32]!r}")
    if not 0 < len(message.data) <= MAX_JPEG:
        raise MessageError(f"CompressedImage.data must be 1..{MAX_JPEG} bytes, not {len(message.data)}")
    jpeg = np.frombuffer(message.data, np.uint8)
    return jpeg, *_jpeg_size(jpeg)


def pixels(message: ImageLike, channels: Mapping[str, int], dtype: np.dtype[np.generic]) -> Array:
    """Pixels (H, W, C) of an image, without the padding at the end of its rows."""
    if message.encoding not in channels:
        raise MessageError(f"Image.encoding must be {' or '.join(channels)}, not {message.encoding[:32]!r}")
    height, width, n = message.height, message.width, channels[message.encoding]
    if not (1 <= height <= MAX_SIDE[0] and 1 <= width <= MAX_SIDE[1]):
        raise MessageError(f"Image must be up to {MAX_SIDE[1]}x{MAX_SIDE[0]}, not {width}x{height}")
    row = width * n * dtype.itemsize
    if message.step < row or message.step % dtype.itemsize or len(message.data) != message.step * height:
        raise MessageError(
            f"Image.data must be height x step bytes and step at least {row}, "
            f"not {len(message.data)} bytes with step {message.step}"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, message.step)[:, :row]
    return np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder("=")).reshape(height, width, n)


def _jpeg_size(jpeg: Array) -> tuple[int, int]:
    """Height and width as the JPEG's frame header says, looked up without decoding anything."""
    data = jpeg.tobytes()
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            if 1 <= height <= MAX_SIDE[0] and 1 <= width <= MAX_SIDE[1]:
                return height, width
            break
        at += 2 + size
    raise MessageError(f"CompressedImage.data must be a JPEG of up to {MAX_SIDE[1]}x{MAX_SIDE[0]}")
