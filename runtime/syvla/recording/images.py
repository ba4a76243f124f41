"""Colour images as JPEG: what the recorder does to a CameraFrame, and how it is undone."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from syvla.errors import RecordingError
from syvla.messages import CameraFrame, CompressedFrame


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


def decompress(frame: CompressedFrame) -> CameraFrame:
    """The frame with its pixels again; RecordingError if the JPEG is not what the frame says it is.

    The size is compared before a pixel is decoded, so a small file cannot ask for a large memory.
    """
    where = f"frame {frame.frame_id} of {frame.camera}"
    try:
        with Image.open(io.BytesIO(frame.jpeg.tobytes()), formats=("JPEG",)) as image:
            if image.size != (frame.width, frame.height):
                raise RecordingError(
                    f"{where}: the JPEG is {image.width}x{image.height}, not {frame.width}x{frame.height}"
                )
            rgb = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecordingError(f"{where}: the JPEG cannot be read: {error}") from error
    return CameraFrame(
        camera=frame.camera,
        frame_id=frame.frame_id,
        exposure_ns=frame.exposure_ns,
        rgb=rgb,
        depth_mm=frame.depth_mm,
    )
