"""Real cameras as a cameras' stage sees them, under a clock that the test turns."""

from collections.abc import Sequence

import numpy as np

from syvla.messages import CameraFrame

MS = 1_000_000
PERIOD = 33_333_333


class PluggedCameras:
    """Real cameras, each with noise of its own, that can be unplugged and frozen."""

    def __init__(self, *cameras: str) -> None:
        self.cameras = list(cameras)
        self.frozen: set[str] = set()
        self._next_ns: int | None = None
        self._noise = np.random.default_rng(0)

    def read(self, now_ns: int) -> Sequence[CameraFrame]:
        due_ns = now_ns if self._next_ns is None else self._next_ns
        if now_ns < due_ns:
            return ()
        self._next_ns = due_ns + PERIOD
        return [self._frame(camera, now_ns) for camera in self.cameras]

    def _frame(self, camera: str, now_ns: int) -> CameraFrame:
        rgb = np.zeros((16, 16, 3), np.uint8)
        rgb[0, 0, 0] = 0 if camera in self.frozen else self._noise.integers(1, 255)
        return CameraFrame(camera=camera, frame_id=0, exposure_ns=now_ns - 10 * MS, rgb=rgb)

    def close(self) -> None:
        """Nothing to stop."""
