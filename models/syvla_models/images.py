"""From a camera's image to what the planner sees: the one place where pixels are cropped, resized and normalised.

Training and the runtime call the same functions, so that a policy sees in the loop what it saw in training.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from syvla.errors import ConfigError
from syvla.message import UInt8
from syvla_models.spec import CameraView

# The normalisation of Qwen2-VL's image processor (CLIP's).
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def view_of(rgb: UInt8, view: CameraView) -> UInt8:
    """The part of ``rgb`` (H, W, 3) that ``view`` shows, (view.height, view.width, 3); bicubic, antialiased."""
    rows, columns = rgb.shape[:2]
    top, left, bottom, right = view.crop
    box = (round(left * columns), round(top * rows), round(right * columns), round(bottom * rows))
    if (box[2] - box[0], box[3] - box[1]) == (view.width, view.height):
        return np.ascontiguousarray(rgb[box[1] : box[3], box[0] : box[2]])
    resized = Image.fromarray(rgb).resize((view.width, view.height), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def patches(images: Sequence[UInt8], patch: int, merge: int, temporal: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """What Qwen2.5-VL's vision tower takes: ``pixel_values`` (P, 3 * temporal * patch^2) and ``image_grid_thw`` (N, 3).

    Patches are in the order of Qwen2VLImageProcessor (merge blocks together); each still image is repeated
    ``temporal`` times. ConfigError for an image that is not a whole number of merge blocks.
    """
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    rows, grids = [], []
    block = patch * merge
    for image in images:
        height, width = image.shape[:2]
        if height % block or width % block:
            raise ConfigError(f"an image of {height}x{width} pixels is not a whole number of {block}x{block} blocks")
        h, w = height // patch, width // patch
        x = (image.astype(np.float32) / 255.0 - mean) / deviation
        x = x.reshape(h // merge, merge, patch, w // merge, merge, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        x = np.broadcast_to(x[:, :, :, :, :, None], (*x.shape[:5], temporal, patch, patch))
        rows.append(x.reshape(h * w, 3 * temporal * patch * patch))
        grids.append((1, h, w))
    if not rows:
        return torch.empty(0, 3 * temporal * patch * patch), torch.empty(0, 3, dtype=torch.int64)
    return torch.from_numpy(np.concatenate(rows)), torch.tensor(grids, dtype=torch.int64)
