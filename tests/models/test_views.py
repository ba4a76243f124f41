"""Pixels: the patches are those of transformers' own image processor; a view shows the part that it names."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from syvla.errors import ConfigError
from syvla.message import UInt8
from syvla_models.images import patches, view_of
from syvla_models.spec import CameraView


def picture(height: int, width: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("patch", "merge", "temporal"), [(16, 2, 2), (14, 2, 2), (16, 1, 1)])
def test_patches_are_those_of_transformers(patch: int, merge: int, temporal: int) -> None:
    block = patch * merge
    images = [picture(2 * block, 5 * block), picture(4 * block, block, 1)]
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=merge, temporal_patch_size=temporal, do_resize=False
    )
    expected = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    pixel_values, grids = patches(images, patch, merge, temporal)
    assert torch.equal(grids, expected["image_grid_thw"])
    assert pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values, expected["pixel_values"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_an_image_of_broken_blocks_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} pixels is not a whole number of 32x32 blocks"):
        patches([picture(*size)], 16, 2)


def test_a_view_is_the_part_that_it_names() -> None:
    image = picture(240, 320)
    view = CameraView(camera="cam_high", crop=(44 / 240, 0.0, 172 / 240, 1.0), height=128, width=320)
    shown = view_of(image, view)
    assert np.array_equal(shown, image[44:172])
    assert shown.flags.c_contiguous


def test_a_view_shows_the_same_of_a_larger_image() -> None:
    """The real cameras give 640x480, the twin may render less: the crop is in fractions."""
    small = np.kron(picture(12, 16), np.ones((20, 20, 1), np.uint8))  # 240x320 in even tiles
    large = np.kron(picture(12, 16), np.ones((40, 40, 1), np.uint8))
    view = CameraView(camera="cam_high", crop=(0.25, 0.0, 0.75, 1.0), height=96, width=256)
    assert view_of(small, view).shape == view_of(large, view).shape == (96, 256, 3)
    difference = np.abs(view_of(small, view).astype(int) - view_of(large, view).astype(int))
    assert difference.mean() < 6.0


def test_resizing_is_pillows_antialiased_bicubic() -> None:
    image = picture(480, 640)
    view = CameraView(camera="cam_high", crop=(0.5, 0.25, 1.0, 0.75), height=64, width=96)
    expected = Image.fromarray(image[240:, 160:480]).resize((96, 64), Image.Resampling.BICUBIC)
    # Pillow with a box looks past its edge; inside it is the same.
    difference = np.abs(view_of(image, view).astype(int) - np.asarray(expected).astype(int))
    assert difference[8:-8, 8:-8].max() <= 1
