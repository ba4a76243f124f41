"""Image files inside other formats: decoded only if they are as large as they are said to be."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from syvla.convert.rows import Frame
from syvla.errors import MessageError, RecordingError
from syvla.messages import CameraFrame, CompressedFrame
from syvla.standard_messages import MAX_JPEG, MAX_SIDE

MAX_PNG_BYTES = 32 * 2**20


def image_size(content: bytes, where: str) -> tuple[int, int]:
    """Height and width that an image file says it has, undecoded; RecordingError beyond what a frame may be."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{where}: the image cannot be read: {error}") from error
    if not (1 <= height <= MAX_SIDE[0] and 1 <= width <= MAX_SIDE[1]):
        raise RecordingError(f"{where}: the image is {width}x{height}; up to {MAX_SIDE[1]}x{MAX_SIDE[0]} are read")
    return height, width


def jpeg_or_pixels(
    camera: str, number: int, exposure_ns: int, content: object, size: tuple[int, int], where: str
) -> Frame:
    """The frame of a JPEG (kept as it is) or PNG of ``size`` (height, width)."""
    if not isinstance(content, bytes) or not 0 < len(content) <= MAX_PNG_BYTES:
        raise RecordingError(f"{where}: must be an image file of up to {MAX_PNG_BYTES} bytes")
    height, width = size
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if image.size != (width, height):
                raise RecordingError(f"{where}: the image is {image.size[0]}x{image.size[1]}, not {width}x{height}")
            if image.format == "JPEG" and len(content) <= MAX_JPEG:
                return CompressedFrame(
                    camera=camera, frame_id=number, exposure_ns=exposure_ns, width=width, height=height,
                    jpeg=np.frombuffer(content, np.uint8),
                )  # fmt: skip
            rgb = np.asarray(image.convert("RGB"))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        MessageError,
    ) as error:
        raise RecordingError(f"{where}: the image cannot be read: {error}") from error
    return CameraFrame(camera=camera, frame_id=number, exposure_ns=exposure_ns, rgb=rgb)
