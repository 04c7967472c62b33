"""The frozen encoder and a map of its patches: pictures in, patches beside the words out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmbseg.inference.shifts import shifted
from fmbseg.inference.sliding import Pixels, fitted
from fmbseg.machine.device import DeviceChoice, batches_with_backoff
from fmbseg.models.backbone import Backbone, resize_for_encoder
from fmbseg.models.finite import require_finite


class AlignedEncoder:
    """A `PatchEmbedder`.

    Args:
        backbone: the encoder.
        align: features [N, h, w, C] on the device -> unit vectors [N, h, w, D] in the space of the
            words, such as a trained head.
        short_side: of whole images, pixels.
        shifts: how many times as fine as the encoder's the grid is, see `shifted`.
        batch_size: whole images embedded at once.
        device: where it computes.
    """

    def __init__(
        self,
        backbone: Backbone,
        align: Callable[[Tensor], Tensor],
        short_side: int,
        shifts: int,
        batch_size: int,
        device: DeviceChoice,
    ) -> None:
        self._backbone = backbone
        self._align = align
        self._short_side = short_side
        self._shifts = shifts
        self._batch_size = batch_size
        self._device = device

    def whole(self, images: Sequence[Image.Image]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """See `PatchEmbedder`; images of one size share batches."""
        pixels = [resize_for_encoder(image, self._short_side, self._backbone) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, array in enumerate(pixels):
            groups.setdefault(array.shape, []).append(index)
        for members in groups.values():

            def embed(part: slice, members: list[int] = members) -> Tensor:
                return self.embed(np.stack([pixels[index] for index in members[part]]))

            for part, patches in batches_with_backoff(len(members), self._batch_size, embed):
                yield members[part], patches

    def windows(self, crops: Pixels) -> Tensor:
        """See `PatchEmbedder`; windows that do not fit the patch are resized."""
        patch = self._backbone.patch_size
        height, width = (max(1, int(n / patch + 0.5)) * patch for n in crops.shape[1:3])
        return self.embed(fitted(crops, height, width))

    @torch.no_grad()
    def embed(self, pixels: Pixels) -> Tensor:
        """Patches of equally large images.

        Args:
            pixels: [N, H, W, 3] uint8 RGB, H and W multiples of the encoder's patch.

        Returns:
            [N, h, w, D] float32 unit vectors on the device; `shifts` of them a patch's side.

        Raises:
            ConfigError: a value is NaN or infinite.
        """
        patch = self._backbone.patch_size
        return shifted(self._aligned, torch.from_numpy(pixels), patch, self._shifts)

    def _aligned(self, pixels: Tensor) -> Tensor:
        # As in training: float16 is for the encoder only.
        mixed = self._device.dtype == torch.bfloat16
        features = self._backbone.features(pixels)
        with torch.autocast(self._device.device.type, torch.bfloat16, enabled=mixed):
            patches = self._align(features)
        return require_finite(patches, "aligned features", self._device.dtype)
