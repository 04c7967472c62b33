"""CLIP over an image: sliding windows, stitched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch.nn.functional as F
from PIL import Image

from fmbseg.config import ClipSection
from fmbseg.data.windows import sliding_windows
from fmbseg.errors import ConfigError
from fmbseg.models.clip import ClipModel

Array = npt.NDArray[np.float64]
SECTION = ClipSection(short_side=128, window=64, stride=32)


def test_stitching_is_the_mean_over_the_windows_of_a_patch(
    clip: ClipModel, picture: Image.Image
) -> None:
    encoding = clip.encode_image_windows(picture, SECTION)
    resized = np.asarray(picture.resize((216, 128), Image.Resampling.BICUBIC))
    total = np.zeros((16, 27, clip.embed_dim))
    count = np.zeros((16, 27))
    offsets = sliding_windows(128, 216, SECTION.window, SECTION.stride)
    for (top, left), window in zip(offsets, encoding.windows, strict=True):
        image, dense = clip.encode_windows(resized[None, top : top + 64, left : left + 64].copy())
        np.testing.assert_allclose(window, image[0].numpy(), atol=1e-3)
        for i in range(8):
            for j in range(8):
                total[top // 8 + i, left // 8 + j] += dense[0, i, j].numpy()
                count[top // 8 + i, left // 8 + j] += 1
    assert count.min() == 1 and count.max() >= 4
    mean = total / count[..., None]
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    assert encoding.dense.dtype == encoding.windows.dtype == np.float16
    np.testing.assert_allclose(encoding.dense, mean, atol=1e-3)


def test_an_encoding_does_not_depend_on_what_was_encoded_before(
    clip: ClipModel, picture: Image.Image
) -> None:
    first = clip.encode_image_windows(picture, SECTION)
    clip.encode_image_windows(picture.transpose(Image.Transpose.ROTATE_90), SECTION)
    again = clip.encode_image_windows(picture, SECTION)
    assert first.windows.tobytes() == again.windows.tobytes()
    assert first.dense.tobytes() == again.dense.tobytes()


def test_the_batch_size_changes_no_more_than_the_last_digit(
    clip: ClipModel, picture: Image.Image
) -> None:
    one = clip.encode_image_windows(picture, SECTION.model_copy(update={"batch_size": 1}))
    many = clip.encode_image_windows(picture, SECTION)
    np.testing.assert_allclose(one.dense, many.dense, atol=5e-4)
    np.testing.assert_allclose(one.windows, many.windows, atol=5e-4)


def test_windows_that_are_not_the_models_size_are_resized(
    clip: ClipModel, picture: Image.Image
) -> None:
    section = ClipSection(short_side=128, window=96, stride=32)
    encoding = clip.encode_image_windows(picture, section)
    assert encoding.dense.shape == (16, 27, clip.embed_dim)
    resized = picture.resize((216, 128), Image.Resampling.BICUBIC)
    crop = resized.crop((0, 0, 96, 96)).resize((64, 64), Image.Resampling.BICUBIC)
    image, dense = clip.encode_windows(np.asarray(crop)[None].copy())
    np.testing.assert_allclose(encoding.windows[0], image[0].numpy(), atol=1e-3)
    # The corner patch is seen by the first window alone: patch (0, 0) of 12 x 12 over its 8 x 8.
    moved = F.interpolate(dense.permute(0, 3, 1, 2), (12, 12), mode="bilinear")[0, :, 0, 0]
    np.testing.assert_allclose(encoding.dense[0, 0], F.normalize(moved, dim=0), atol=1e-3)


def test_an_image_smaller_than_the_window_gives_one_window(clip: ClipModel) -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    encoding = clip.encode_image_windows(small, ClipSection(short_side=40, window=64, stride=32))
    assert encoding.windows.shape == (1, clip.embed_dim)
    assert encoding.dense.shape == (5, 6, clip.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(encoding.dense.astype(float), axis=-1), 1, atol=1e-3)


def test_a_grey_image_is_taken_as_rgb(clip: ClipModel, picture: Image.Image) -> None:
    grey = picture.convert("L")
    encoding = clip.encode_image_windows(grey, SECTION)
    expected = clip.encode_image_windows(grey.convert("RGB"), SECTION)
    np.testing.assert_array_equal(encoding.dense, expected.dense)


@pytest.mark.parametrize("change", [{"window": 60}, {"stride": 20}])
def test_lengths_that_cut_patches_are_refused(
    clip: ClipModel, picture: Image.Image, change: dict[str, int]
) -> None:
    name = next(iter(change))
    with pytest.raises(ConfigError, match=f"clip.{name} is .*multiple of the model's patch, 8 px"):
        clip.encode_image_windows(picture, SECTION.model_copy(update=change))
