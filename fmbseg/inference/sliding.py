"""Sliding-window inference: logits of overlapping windows, averaged pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.data.windows import sliding_windows
from fmbseg.inference.protocol import Sizes
from fmbseg.machine.device import batches_with_backoff

Pixels = npt.NDArray[np.uint8]


def scaled_size(width: int, height: int, short_side: int, long_side: int | None) -> tuple[int, int]:
    """(width, height) with the aspect ratio kept: the largest that fits both limits.

    Each side is int(length * scale + 0.5), as in the resize that the peers' code uses
    (`scale=(long_side, short_side)` with `keep_ratio`).
    """
    scale = short_side / min(width, height)
    if long_side is not None:
        scale = min(scale, long_side / max(width, height))
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def scaled_image(image: Image.Image, short_side: int, long_side: int | None) -> Pixels:
    """The image resized to `scaled_size`, bilinear without smoothing.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    size = scaled_size(image.width, image.height, short_side, long_side)
    pixels = np.asarray(image.convert("RGB"))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


class Windows:
    """The sliding windows of an image.

    Args:
        pixels: [H, W, 3] uint8, the resized image.
        sizes: with window and stride.
        batch_size: windows computed at once; fewer where memory runs out (see
            `batches_with_backoff` on the last bit).
    """

    def __init__(self, pixels: Pixels, sizes: Sizes, batch_size: int) -> None:
        if sizes.window is None or sizes.stride is None:
            raise ValueError("these sizes have no window")
        height, width = pixels.shape[:2]
        self.size = height, width
        self._pixels = pixels
        self._window = min(sizes.window, height), min(sizes.window, width)
        self._offsets = sliding_windows(height, width, sizes.window, sizes.stride)
        self._batch_size = batch_size

    def crops(self, part: slice) -> Pixels:
        """[N, a, b, 3] uint8, some of the windows."""
        a, b = self._window
        return np.stack(
            [self._pixels[top : top + a, left : left + b] for top, left in self._offsets[part]]
        )

    def each(self, embed: Callable[[Pixels], Tensor]) -> Tensor:
        """What `embed` gives for each of them: [N, a, b, 3] uint8 -> [N, ...]."""
        return torch.cat(
            [
                found
                for _, found in batches_with_backoff(
                    len(self._offsets), self._batch_size, lambda part: embed(self.crops(part))
                )
            ]
        )

    def mean(self, score: Callable[[slice], Tensor]) -> Tensor:
        """Mean over the windows of their upsampled logits.

        Args:
            score: some of the N windows -> their logits [n, Q, h, w] on any grid of patches.

        Returns:
            [Q, H, W] float32 on the device of the scores.
        """
        a, b = self._window
        total: Tensor | None = None
        count = torch.zeros(self.size)

        def logits_of(part: slice) -> Tensor:
            return F.interpolate(score(part).float(), (a, b), mode="bilinear")

        for part, logits in batches_with_backoff(len(self._offsets), self._batch_size, logits_of):
            if total is None:
                total = logits.new_zeros((logits.shape[1], *self.size))
            for (top, left), one in zip(self._offsets[part], logits, strict=True):
                total[:, top : top + a, left : left + b] += one
                count[top : top + a, left : left + b] += 1
            del logits, one  # the largest there is: not held while the next ones are made
        assert total is not None  # at least one window covers every image
        return total.div_(count.to(total.device))


def fitted(crops: Pixels, height: int, width: int) -> Pixels:
    """Windows resized to the size a model takes, bicubic; those that fit stay as they are."""
    if crops.shape[1:3] == (height, width):
        return crops
    resized = [
        Image.fromarray(crop).resize((width, height), Image.Resampling.BICUBIC) for crop in crops
    ]
    return np.stack([np.asarray(image) for image in resized])
