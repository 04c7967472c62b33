"""Masks say who looks at whom in CLIP's last block, and vote on the labels; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.methods.joined import ProxyClip
from fmbseg.evaluate.methods.predictor import no_tiles
from fmbseg.evaluate.regions import Regions, paint, vote
from fmbseg.inference.decision import Decision
from fmbseg.inference.maps import Similarities
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling
from fmbseg.models.dense import Grid
from fmbseg.models.last_block import LastBlock, scoped_attention
from fmbseg.pseudo.encodings import MaskEncodings, pixels_digest


class CorrClip(ProxyClip):
    """CorrCLIP's main branch and its map correction (Zhang et al., arXiv 2411.10086).

    Within a mask patches look at each other by the encoder's cosines, and in the end a mask takes
    the label of most of its pixels. Its two further branches (lower layers of CLIP, a class token a
    mask) and its merging of masks are left out. Small masks lie over large ones, as everywhere in
    this project; CorrCLIP's own code lays the large ones on top.
    """

    def __init__(
        self, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
    ) -> None:
        # It votes in any case: a second refinement would be another method.
        section = config.evaluate.model_copy(update={"refine": "none"})
        super().__init__(config.model_copy(update={"evaluate": section}), checkpoint, encodings)
        self._masks = MaskEncodings(config, encodings, self._device)

    def compare(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None,
        smoothing: Smoothing | None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """See `Comparison`."""
        for image in images:
            ((similarities, decision),) = super().compare([image], vocabulary, benchmark, smoothing)
            yield similarities, Decision(vote(decision.labels, self._regions))

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """See `Predictor`."""
        raise no_tiles("the vote of its masks")

    def attention(self, image: Image.Image, block: LastBlock) -> tuple[Tensor, Grid]:
        """See `Joined`."""
        features = self._features(image)
        grid = features.shape[0], features.shape[1]
        masks = self._masks.masks_of(image, pixels_digest(image)).masks
        self._regions: Regions = paint(masks)  # the vote's, too
        regions = torch.from_numpy(self._regions).to(features.device)
        # Nearest neighbour: a patch belongs to one region.
        patches = F.interpolate(regions[None, None].float(), grid, mode="nearest")
        return scoped_attention(features.flatten(0, 1), patches.flatten().long()), grid

    @property
    def _models(self) -> tuple[str, ...]:
        return (*super()._models, self._config.sam.model)
