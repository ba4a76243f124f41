"""The videos of a LeRobotDataset: written one frame a row, read within bounds, each frame at its due time."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from syvla.convert.making import WriteError
from syvla.convert.rows import Frame, pixels, size
from syvla.convert.statistics import Pixels
from syvla.errors import RecordingError
from syvla.message import Float64, UInt8
from syvla.recording.mcap_walk import open_regular

CODECS = ("h264", "hevc", "av1", "libdav1d", "libaom-av1", "vp9", "mpeg4")
ENCODER = {"crf": "18", "preset": "veryfast", "g": "2", "bf": "0"}  # every second frame can be sought, as LeRobot's own
_SMALL = (32, 24)
_MOST_SAMPLES = 64
_LOSS = 4.0  # mean difference that H.264 may make to a small picture, of 255
_TOLD_APART = 3.0  # a picture that differs more from the one beside it must not be taken for that


class Film:
    """One camera's video, a frame at each row."""

    def __init__(self, path: Path, fps: int) -> None:
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream("libx264", rate=fps, options=ENCODER)
        self._stream.pix_fmt = "yuv420p"
        self._fps = fps
        self._frames = 0
        self._shown: tuple[Frame, UInt8] | None = None
        self._path = path
        self.size = (0, 0)
        self.pixels = Pixels()
        self.samples = Samples()

    def add(self, frame: Frame) -> None:
        """The image of the next row."""
        if not self._frames:
            self.size = size(frame)
            self._stream.height, self._stream.width = self.size
            if self.size[0] % 2 or self.size[1] % 2:
                raise RecordingError(
                    f"{self._path}: images of {self.size[1]}x{self.size[0]} are not even, as video must be"
                )
        elif size(frame) != self.size:
            raise RecordingError(f"{self._path}: the images change their size")
        if self._shown is None or self._shown[0] is not frame:
            self._shown = frame, pixels(frame)
        rgb = self._shown[1]
        if self.pixels.wants():
            self.pixels.add(rgb)
        self.samples.add(self._frames, rgb)
        picture = av.VideoFrame.from_ndarray(rgb, "rgb24")
        picture.pts, picture.time_base = self._frames, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(picture))
        self._frames += 1

    def close(self) -> None:
        """Write what the encoder still has."""
        if self._frames:
            self._container.mux(self._stream.encode())
        self._container.close()


def video_frames(path: Path, from_s: float, fps: int, shape: Sequence[int]) -> Iterator[UInt8]:
    """The frames (H, W, 3) of a video from ``from_s`` on, each at its due time to half a period."""
    with open_regular(path) as file:
        try:
            with av.open(file, "r", format="mp4") as container:
                stream = container.streams.video[0]
                _check_stream(stream, shape, path)
                if from_s > 0.0:
                    container.seek(max(0, round((from_s - 1.0 / fps) / stream.time_base)), stream=stream)
                count = 0
                for frame in container.decode(stream):
                    late_s = float(frame.pts * stream.time_base) - (from_s + count / fps)
                    if late_s < -0.5 / fps:
                        continue
                    if late_s > 0.5 / fps:
                        raise RecordingError(f"{path}: the frame at {from_s + count / fps:.3f} s is missing")
                    if (frame.height, frame.width) != tuple(shape[:2]):
                        raise RecordingError(
                            f"{path}: a frame is {frame.width}x{frame.height}, not {shape[1]}x{shape[0]}"
                        )
                    yield frame.to_ndarray(format="rgb24")
                    count += 1
        except (av.FFmpegError, IndexError, ValueError, TypeError) as error:
            raise RecordingError(f"{path}: it cannot be read as a video: {error}") from error


def _check_stream(stream: Any, shape: Sequence[int], path: Path) -> None:
    codec = getattr(stream.codec_context, "name", "unknown")  # None where libav does not know it
    if codec not in CODECS:
        raise RecordingError(f"{path}: its codec is {codec}; there are {', '.join(CODECS)}")
    if (stream.height, stream.width) != tuple(shape[:2]):
        raise RecordingError(f"{path}: it is {stream.width}x{stream.height}, not {shape[1]}x{shape[0]}")


def check_video(path: Path, count: int, shape: tuple[int, int], samples: Mapping[int, Float64]) -> None:
    """WriteError if the video at ``path`` does not have ``count`` frames, or others than ``samples``, small, by row."""
    try:
        with av.open(str(path), "r", format="mp4") as container:
            stream = container.streams.video[0]
            _check_stream(stream, shape, path)
            packets = sum(packet.size > 0 for packet in container.demux(stream))
            if packets != count:
                raise WriteError(f"{path}: was read back with {packets} frames instead of {count}")
            for row, ours in samples.items():
                container.seek(round(row / float(stream.average_rate) / stream.time_base), stream=stream)
                frames = (f for f in container.decode(stream) if float(f.time * stream.average_rate) > row - 0.5)
                shown = small(next(frames).to_ndarray(format="rgb24"))
                others = [samples[n] for n in (row - 1, row + 1) if n in samples]
                told_apart = [other for other in others if difference(ours, other) > _TOLD_APART]
                if difference(shown, ours) > _LOSS or any(
                    difference(shown, other) < difference(shown, ours) for other in told_apart
                ):
                    raise WriteError(f"{path}: was read back with another picture in row {row}")
    except (av.FFmpegError, IndexError, StopIteration) as error:
        raise WriteError(f"{path}: it cannot be read back: {error}") from error


class Samples:
    """Small versions of a film's pictures: of some rows and of those right behind them, not more for a longer film."""

    def __init__(self) -> None:
        self._step = 4
        self._kept: dict[int, Float64] = {}
        self._last = -1, np.zeros((0, 0, 3), np.uint8)

    def add(self, row: int, rgb: UInt8) -> None:
        """The picture of the next row."""
        self._last = row, rgb
        if row % self._step > 1:
            return
        self._kept[row] = small(rgb)
        if len(self._kept) > _MOST_SAMPLES:
            self._step *= 2
            self._kept = {n: kept for n, kept in self._kept.items() if n % self._step <= 1}

    def result(self) -> dict[int, Float64]:
        """Those kept and the last, by row."""
        row, rgb = self._last
        return {**self._kept, row: small(rgb)} if row >= 0 else {}


def small(rgb: UInt8) -> Float64:
    """A picture as a video hardly changes it: the means of its parts, of which every picture has as many."""
    return np.asarray(Image.fromarray(rgb).resize(_SMALL, Image.Resampling.BOX), np.float64)


def difference(ours: Float64, theirs: Float64) -> float:
    """How much two small pictures differ, of 255."""
    return float(np.abs(ours - theirs).mean())
