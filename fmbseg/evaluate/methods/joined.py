"""CLIP's windows joined in its last block, over the whole image; nothing is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.maskclip import MaskClip
from fmbseg.models.backbone import Backbone, image_features, load_backbone
from fmbseg.models.dense import Grid
from fmbseg.models.last_block import LastBlock, proxy_attention


class Joined(MaskClip, ABC):
    """A method that gives the last block an attention over the whole image.

    The image is resized to `evaluate.short_side` and cut into the windows of the section `clip`,
    whatever the protocol: what a protocol's windows do is done in the last block.

    Args:
        config: all sections.
        checkpoint: not used, nothing is trained.
        encodings: see `load_predictor`.
    """

    def __init__(
        self, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
    ) -> None:
        section = config.evaluate.model_copy(update={"protocol": "fmbseg"})
        super().__init__(config.model_copy(update={"evaluate": section}), checkpoint, encodings)

    def whole(self, images: Sequence[Image.Image]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """See `PatchEmbedder`; one image at a time."""
        for index, image in enumerate(images):
            block = self._encodings.model.last_block(image, self._section)
            yield [index], block.attend(*self.attention(image, block))[None]

    @abstractmethod
    def attention(self, image: Image.Image, block: LastBlock) -> tuple[Tensor, Grid]:
        """Who looks at whom, and on which grid of patches; see `LastBlock.attend`."""

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        record = super().protocol(vocabulary)
        del record["dense"]  # said by the method's name
        return record | {"windows": "joined in the last block: evaluate.protocol does not apply"}


class Stitch(Joined):
    """Every patch looks at those of all windows, by CLIP alone.

    The windows are joined as in OV-Stitcher (Moon, Oh, Ro, arXiv 2604.08110), which takes its
    attention from DINO and SAM; here it is NACLIP's, so that CLIP is all that is used.
    """

    def attention(self, image: Image.Image, block: LastBlock) -> tuple[Tensor, Grid]:
        """See `Joined`."""
        return block.stitched(), block.grid


class ProxyClip(Joined):
    """The frozen encoder's patches say who looks at whom (Lan et al., ECCV 2024).

    The encoder sees the whole image at the size that CLIP's windows are cut from.
    """

    def attention(self, image: Image.Image, block: LastBlock) -> tuple[Tensor, Grid]:
        """See `Joined`."""
        features = self._features(image)
        return proxy_attention(features.flatten(0, 1)), (features.shape[0], features.shape[1])

    @property
    def _models(self) -> tuple[str, ...]:
        return (*super()._models, self._config.features.encoder)

    @torch.no_grad()
    def _features(self, image: Image.Image) -> Tensor:
        return image_features(image, self._config.evaluate.short_side, self._encoder)

    @cached_property
    def _encoder(self) -> Backbone:
        choice = self._device
        return load_backbone(self._config.features.encoder, choice.device, choice.dtype)
