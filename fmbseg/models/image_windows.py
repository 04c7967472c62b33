"""An image cut into CLIP's sliding windows, and what their patches say put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.config import ClipSection
from fmbseg.data.windows import resize_to_short_side, sliding_windows
from fmbseg.errors import ConfigError


@dataclass(frozen=True)
class ImageWindows:
    """One image resized, and where its windows lie; lengths in pixels.

    Attributes:
        image: resized RGB, both sides multiples of `patch`.
        offsets: (top, left) of each window, multiples of `patch` or at a border.
        window: (height, width) of every window.
        side: of the square that CLIP takes; crops of another size are resized to it.
        patch: side of a patch.
    """

    image: Image.Image
    offsets: list[tuple[int, int]]
    window: tuple[int, int]
    side: int
    patch: int

    @classmethod
    def cut(cls, image: Image.Image, section: ClipSection, side: int, patch: int) -> Self:
        """Cut an RGB image as `section` says, for a CLIP of input `side` and patches of `patch`.

        Raises:
            ConfigError: window or stride is not a multiple of the patch.
        """
        for name in ("window", "stride"):
            if (length := getattr(section, name)) % patch:
                raise ConfigError(
                    f"clip.{name} is {length}: take a multiple of the model's patch, {patch} px"
                )
        width, height = resize_to_short_side(*image.size, section.short_side, patch)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        offsets = sliding_windows(height, width, section.window, section.stride)
        window = (min(section.window, height), min(section.window, width))
        return cls(resized, offsets, window, side, patch)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) patches of the image."""
        return self.image.height // self.patch, self.image.width // self.patch

    def pixels(self, part: slice) -> npt.NDArray[np.uint8]:
        """Some windows as CLIP takes them, [n, side, side, 3] uint8 RGB."""
        return np.stack([self._crop(top, left) for top, left in self.offsets[part]])

    def _crop(self, top: int, left: int) -> npt.NDArray[np.uint8]:
        height, width = self.window
        crop = self.image.crop((left, top, left + width, top + height))
        if self.window != (self.side, self.side):
            crop = crop.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return np.asarray(crop)

    def regridded(self, maps: Tensor) -> Tensor:
        """What CLIP says of windows on its own grid [n, a, b, C], on the windows' patches."""
        rows, columns = (length // self.patch for length in self.window)
        if maps.shape[1:3] == (rows, columns):
            return maps
        moved = F.interpolate(maps.permute(0, 3, 1, 2), (rows, columns), mode="bilinear")
        return moved.permute(0, 2, 3, 1)

    def add(self, total: Tensor, part: slice, maps: Tensor) -> None:
        """Add what some windows' patches say, [n, rows, columns, C], to the image's `total`."""
        rows, columns = maps.shape[1:3]
        for (top, left), one in zip(self.offsets[part], maps, strict=True):
            i, j = top // self.patch, left // self.patch
            total[i : i + rows, j : j + columns] += one

    def counts(self, device: torch.device) -> Tensor:
        """How many windows see each patch, [h, w, 1] float32."""
        rows, columns = (length // self.patch for length in self.window)
        total = torch.zeros(*self.grid, 1, device=device)
        count = len(self.offsets)
        self.add(total, slice(count), total.new_ones(count, rows, columns, 1))
        return total
