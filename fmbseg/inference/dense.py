"""Images asked with words under a protocol: one path for whatever embeds their patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.inference.decision import Decision, decide
from fmbseg.inference.maps import Maps
from fmbseg.inference.protocol import Sizes, protocol_of
from fmbseg.inference.sliding import Pixels, scaled_image, window_logits
from fmbseg.models.text import TextEmbeddings, class_similarity


class PatchEmbedder(Protocol):
    """What puts the patches of pictures into CLIP's text space, as unit vectors."""

    def whole(self, images: Sequence[Image.Image]) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Whole RGB images, resized as the protocol `fmbseg` says.

        Yields:
            Positions of images of one size, and their patches [n, h, w, D].
        """

    def windows(self, crops: Pixels) -> Tensor:
        """[N, a, b, 3] uint8 RGB windows of any size -> [N, h, w, D]."""


class DenseInference:
    """The way from images to label maps that predictions, pictures and scores share.

    Args:
        embedder: of the patches.
        section: the protocol and the background rule.
        batch_size: windows embedded at once.

    Attributes:
        protocol: the record of the protocol.
    """

    def __init__(self, embedder: PatchEmbedder, section: InferenceSection, batch_size: int) -> None:
        self.protocol = protocol_of(section)
        self._embedder = embedder
        self._section = section
        self._batch_size = batch_size

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        text: TextEmbeddings,
        benchmark: str | None = None,
    ) -> Iterator[tuple[Maps, Decision]]:
        """Similarities and labels of RGB images.

        Args:
            images: of any sizes; whole images of one size share batches, windows those of one.
            vocabulary: what is looked for.
            text: its embeddings.
            benchmark: name of the benchmark whose sizes count, where the protocol has some for it;
                None: the one that the vocabulary is named after, if any.

        Yields:
            In the order of the images.
        """
        sizes = self.protocol.sizes_for(vocabulary.name if benchmark is None else benchmark)
        if sizes.window is None:
            maps = iter(self._whole(images, text))
        else:
            maps = (self._slide(image, sizes, text) for image in images)
        for image, found in zip(images, maps, strict=True):
            size = image.height, image.width
            yield found, decide(found, size, vocabulary.background, self._section)

    @torch.no_grad()
    def _whole(self, images: Sequence[Image.Image], text: TextEmbeddings) -> list[Maps]:
        """Cosines of patches with classes: the maximum over a class's words."""
        classes = torch.arange(len(text), device=text.queries.device)
        found: dict[int, Maps] = {}
        for members, patches in self._embedder.whole(images):
            values = class_similarity(patches, text).permute(0, 3, 1, 2).contiguous()
            found.update((i, Maps(v, classes)) for i, v in zip(members, values, strict=True))
        return [found[index] for index in range(len(images))]

    @torch.no_grad()
    def _slide(self, image: Image.Image, sizes: Sizes, text: TextEmbeddings) -> Maps:
        """Cosines of pixels of the resized image with words, averaged over windows."""

        def score(crops: Pixels) -> Tensor:
            patches = self._embedder.windows(crops)
            return (patches @ text.queries.to(patches.dtype).T).permute(0, 3, 1, 2).contiguous()

        pixels = scaled_image(image, sizes.short_side, self.protocol.long_side)
        return Maps(window_logits(pixels, sizes, score, self._batch_size), text.query_class)
