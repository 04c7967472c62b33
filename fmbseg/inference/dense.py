"""Images asked with words under a protocol: one path for whatever embeds their patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.inference.decision import Decision, decide
from fmbseg.inference.maps import ManyMaps, Maps, Similarities
from fmbseg.inference.presence import of_present
from fmbseg.inference.protocol import Sizes, protocol_of
from fmbseg.inference.sliding import Pixels, Windows, scaled_image
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling, segment_tiles
from fmbseg.models.text import TextEmbeddings, class_similarity

# Similarities of one batch, or one image in windows, that are held at once; of more words they are
# made again part by part. 512 MB and 64 MB in float32.
_AT_ONCE = 1 << 27
_PART = 1 << 24


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
        smoothing: Smoothing | None = None,
    ) -> Iterator[tuple[Similarities, Decision]]:
        """Similarities and labels of RGB images.

        Args:
            images: of any sizes; whole images of one size share batches, windows those of one.
            vocabulary: what is looked for.
            text: its embeddings.
            benchmark: name of the benchmark whose sizes count, where the protocol has some for it;
                None: the one that the vocabulary is named after, if any.
            smoothing: over images that are frames in their order; None: each stands for itself.

        Yields:
            In the order of the images.
        """
        sizes = self.protocol.sizes_for(vocabulary.name if benchmark is None else benchmark)
        if sizes.window is None:
            maps: Iterator[Similarities] = iter(self._whole(images, text))
        else:
            maps = (self._slide(image, sizes, text) for image in images)
        for image, found in zip(images, maps, strict=True):
            if smoothing is not None:
                found = smoothing.smoothed(image, found)
            size = image.height, image.width
            found = of_present(found, self._section.min_region)
            yield found, decide(found, size, vocabulary, self._section)

    def tiled(
        self, image: Image.Image, vocabulary: Vocabulary, text: TextEmbeddings, tiling: Tiling
    ) -> Tiled:
        """Labels of one RGB image of any size, whose tiles are asked as whole images are.

        Raises:
            ConfigError: the protocol has windows of its own, or as `segment_tiles`.
        """
        if self.protocol.sizes_for(vocabulary.name).window is not None:
            raise ConfigError(
                f"the protocol {self.protocol.name} cuts pictures into windows of its own: leave "
                "out --tile, or --set evaluate.protocol=fmbseg"
            )
        compare = partial(self._whole, text=text)
        return segment_tiles(image, tiling, compare, vocabulary, self._section)

    @torch.no_grad()
    def _whole(self, images: Sequence[Image.Image], text: TextEmbeddings) -> list[Similarities]:
        """Cosines of patches with the classes that have words: the maximum over those."""
        classes, all_asked = text.worded, len(text.worded) == len(text)
        found: dict[int, Similarities] = {}
        for members, patches in self._embedder.whole(images):
            if patches[..., 0].numel() * len(text.queries) > _AT_ONCE:
                many = (
                    _many(partial(_compared, each, text), text, each[..., 0].numel())
                    for each in patches
                )
                found.update(zip(members, many, strict=True))
                continue
            values = class_similarity(patches, text)
            values = values if all_asked else values[..., classes]
            values = values.permute(0, 3, 1, 2).contiguous()
            found.update((i, Maps(v, classes)) for i, v in zip(members, values, strict=True))
        return [found[index] for index in range(len(images))]

    @torch.no_grad()
    def _slide(self, image: Image.Image, sizes: Sizes, text: TextEmbeddings) -> Similarities:
        """Cosines of pixels of the resized image with words, averaged over windows."""
        pixels = scaled_image(image, sizes.short_side, self.protocol.long_side)
        windows = Windows(pixels, sizes, self._batch_size)
        pixel_count = windows.size[0] * windows.size[1]
        if pixel_count * len(text.queries) > _AT_ONCE:
            # Each window through the model once, whatever the parts.
            patches = windows.each(self._embedder.windows)
            make = partial(_averaged, windows, patches, text)
            return _many(make, text, pixel_count)

        def score(part: slice) -> Tensor:
            return _logits(self._embedder.windows(windows.crops(part)), text)

        return Maps(windows.mean(score), text.query_class)


def _many(make: Callable[[Tensor], Maps], text: TextEmbeddings, size: int) -> ManyMaps:
    """Maps of `size` elements each, in parts of some classes."""
    words_a_class = len(text.queries) / len(text)
    at_once = max(1, int(_PART / (size * words_a_class)))
    return ManyMaps(make, text.worded, at_once)


def _compared(patches: Tensor, text: TextEmbeddings, classes: Tensor) -> Maps:
    """Of patches [h, w, D] with some classes, a map a class."""
    values = class_similarity(patches, text.of(classes)).permute(2, 0, 1).contiguous()
    return Maps(values, classes)


def _averaged(windows: Windows, patches: Tensor, text: TextEmbeddings, classes: Tensor) -> Maps:
    """Of windows' patches [N, h, w, D] with some classes, a map a word."""
    some = text.of(classes)
    values = windows.mean(lambda part: _logits(patches[part], some))
    return Maps(values, classes[some.query_class])


def _logits(patches: Tensor, text: TextEmbeddings) -> Tensor:
    """Patches [N, h, w, D] with Q words: [N, Q, h, w]."""
    return (patches @ text.queries.to(patches.dtype).T).permute(0, 3, 1, 2).contiguous()
