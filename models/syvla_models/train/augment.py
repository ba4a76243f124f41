"""Small changes to what the planner sees in training: light that varies, a camera that is not quite where it was."""

import numpy as np

from syvla.message import UInt8

BRIGHTNESS = 0.1  # of the full range, up or down
CONTRAST = 0.15  # of the contrast, up or down
SHIFT_PX = 2


def augment(image: UInt8, rng: np.random.Generator) -> UInt8:
    """``image`` (H, W, 3) with other brightness and contrast, moved by up to 2 pixels (its edges are continued)."""
    gain, offset = 1.0 + CONTRAST * rng.uniform(-1.0, 1.0), 255.0 * BRIGHTNESS * rng.uniform(-1.0, 1.0)
    levels = np.clip(gain * (np.arange(256) - 127.5) + 127.5 + offset, 0.0, 255.0).round().astype(np.uint8)
    down, right = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2)
    height, width = image.shape[:2]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    moved: UInt8 = levels[image[rows[:, None], columns]]
    return moved
