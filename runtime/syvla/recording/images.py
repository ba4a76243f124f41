"""Colour images as JPEG: what the recorder does to a CameraFrame, and how it is undone."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from syvla.errors import RecordingError
from syvla.messages import CameraFrame, CompressedFrame

_END = b"\xff\xd9"


def compress(frame: CameraFrame, quality: int) -> CompressedFrame:
    """The frame with its colour image as a JPEG of ``quality`` (1..95), 4:2:0, the same bytes every time."""
    height, width = frame.rgb.shape[:2]
    buffer = io.BytesIO()
    Image.fromarray(frame.rgb).save(buffer, "JPEG", quality=quality)
    return CompressedFrame(
        camera=frame.camera,
        frame_id=frame.frame_id,
        exposure_ns=frame.exposure_ns,
        width=width,
        height=height,
        jpeg=np.frombuffer(buffer.getvalue(), np.uint8),
        depth_mm=frame.depth_mm,
    )


def check_compressed(frame: CompressedFrame) -> None:
    """RecordingError if the JPEG does not begin, end and say its size as it must; no pixel is decoded."""
    where, data = f"frame {frame.frame_id} of {frame.camera}", frame.jpeg.tobytes()
    with _opened(frame, data):
        pass
    if not data.rstrip(b"\0").endswith(_END):  # cameras pad with zeros
        raise RecordingError(f"{where}: the JPEG does not end as one: it was cut off")


def decompress(frame: CompressedFrame) -> CameraFrame:
    """The frame with its pixels again; RecordingError if the JPEG is not what the frame says it is.

    The size is compared before a pixel is decoded, so a small file cannot ask for a large memory.
    """
    with _opened(frame, frame.jpeg.tobytes()) as image:
        rgb = np.asarray(image.convert("RGB"))
    return CameraFrame(
        camera=frame.camera,
        frame_id=frame.frame_id,
        exposure_ns=frame.exposure_ns,
        rgb=rgb,
        depth_mm=frame.depth_mm,
    )


@contextlib.contextmanager
def _opened(frame: CompressedFrame, data: bytes) -> Iterator[Image.Image]:
    """The image by its head, of the size that the frame says; RecordingError also for what fails inside."""
    where = f"frame {frame.frame_id} of {frame.camera}"
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (frame.width, frame.height):
                raise RecordingError(
                    f"{where}: the JPEG is {image.width}x{image.height}, not {frame.width}x{frame.height}"
                )
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{where}: the JPEG cannot be read: {error}") from error
