"""JPEG in recordings: close to the original, the same bytes every time, nothing believed about a foreign one."""

import msgspec
import numpy as np
import pytest

from syvla import messages as m
from syvla.errors import RecordingError
from syvla.recording.images import compress, decompress

Y, X = np.mgrid[0:120, 0:160].astype(np.float64)
RGB = np.stack([127 + 120 * np.sin(X / 20), 127 + 120 * np.cos(Y / 15), 0.8 * (X + Y)], -1).astype(np.uint8)
DEPTH = (X * 30 + Y).astype(np.uint16)
FRAME = m.CameraFrame(camera="cam_high", frame_id=3, exposure_ns=9, rgb=RGB, depth_mm=DEPTH)


def test_image_survives_within_a_few_levels_and_depth_exactly() -> None:
    small = compress(FRAME, 90)
    assert small.jpeg.nbytes < RGB.nbytes / 5
    back = decompress(small)
    assert (back.camera, back.frame_id, back.exposure_ns) == ("cam_high", 3, 9)
    assert np.abs(back.rgb.astype(int) - RGB.astype(int)).mean() < 3
    assert back.depth_mm is not None
    assert np.array_equal(back.depth_mm, DEPTH)


def test_same_image_gives_the_same_bytes() -> None:
    assert np.array_equal(compress(FRAME, 90).jpeg, compress(FRAME, 90).jpeg)


def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded() -> None:
    lie = msgspec.structs.replace(compress(FRAME, 90), width=16, height=16)
    with pytest.raises(RecordingError, match="160x120, not 16x16"):
        decompress(lie)


@pytest.mark.parametrize("content", [b"GIF89a" + bytes(100), b"\xff\xd8\xff" + bytes(100), b"x"])
def test_what_is_no_jpeg_is_refused(content: bytes) -> None:
    lie = msgspec.structs.replace(compress(FRAME, 90), jpeg=np.frombuffer(content, np.uint8))
    with pytest.raises(RecordingError, match="frame 3 of cam_high"):
        decompress(lie)


def test_a_jpeg_that_is_cut_is_refused() -> None:
    small = compress(FRAME, 90)
    with pytest.raises(RecordingError, match="cannot be read"):
        decompress(msgspec.structs.replace(small, jpeg=small.jpeg[: small.jpeg.size // 2]))
