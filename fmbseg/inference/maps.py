"""Similarities on a grid of patches, brought to the image's own size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.inference.many import best_of_many

# Scores at full size held at once when pixels are decided: 64 MB in float32.
_BAND_ELEMENTS = 1 << 24
# Of more maps only those that can be the best are upsampled, and the sum of a softmax is that of
# the grid: at a photo's size 20,000 maps have ten thousand million values.
MANY_MAPS = 1024


class Similarities(ABC):
    """How similar one image is to words; with many words they are made part by part."""

    @abstractmethod
    def parts(self) -> Iterator[Maps]:
        """All maps, in the order of their classes."""

    @abstractmethod
    def of(self, classes: Tensor) -> Maps:
        """At least the maps of some classes; `classes` [n] int64 ascending."""

    @abstractmethod
    def without(self, unasked: int) -> Similarities:
        """Those of all classes but one."""

    @abstractmethod
    def only(self, classes: Tensor) -> Similarities:
        """With no class but some [n] int64 that could be the best anywhere."""


@dataclass(frozen=True)
class Maps(Similarities):
    """A map a class or a map a word, all in memory.

    Attributes:
        values: [M, h, w] float32 cosines.
        classes: [M] int64, the class of each map, on the device of `values`.
    """

    values: Tensor
    classes: Tensor

    def parts(self) -> Iterator[Maps]:
        """See `Similarities`; all at once."""
        if len(self.classes):
            yield self

    def of(self, classes: Tensor) -> Maps:
        """See `Similarities`; all there are."""
        return self

    def without(self, unasked: int) -> Maps:
        """See `Similarities`."""
        kept = self.classes != unasked
        return Maps(self.values[kept], self.classes[kept])

    def only(self, classes: Tensor) -> Maps:
        """See `Similarities`; the others are as dissimilar as can be."""
        asked = torch.isin(self.classes, classes.to(self.classes.device))
        return Maps(torch.where(asked[:, None, None], self.values, -1.0), self.classes)

    def by_class(self, num_classes: int, size: tuple[int, int]) -> Tensor:
        """[K, H, W] float32 at the image's size (H, W): of a class's maps the highest cosine."""
        scores = self.values.new_full((num_classes, *size), float("-inf"))
        for owner, value in zip(self.classes.tolist(), self.values, strict=True):
            torch.maximum(scores[owner], upsample(value[None], size)[0], out=scores[owner])
        return scores


@dataclass(frozen=True)
class ManyMaps(Similarities):
    """Maps of more words than memory should hold at once.

    Attributes:
        make: classes [n] int64 -> their maps.
        classes: [K] int64, ascending.
        at_once: classes in a part.
    """

    make: Callable[[Tensor], Maps]
    classes: Tensor
    at_once: int

    def parts(self) -> Iterator[Maps]:
        """See `Similarities`."""
        yield from map(self.make, torch.split(self.classes, self.at_once))

    def of(self, classes: Tensor) -> Maps:
        """See `Similarities`."""
        return self.make(classes.to(self.classes.device))

    def without(self, unasked: int) -> ManyMaps:
        """See `Similarities`."""
        return replace(self, classes=self.classes[self.classes != unasked])

    def only(self, classes: Tensor) -> ManyMaps:
        """See `Similarities`; the others are not made any more."""
        asked = torch.isin(self.classes, classes.to(self.classes.device))
        return replace(self, classes=self.classes[asked])


@dataclass(frozen=True)
class Best:
    """The best class of each pixel of an image.

    Attributes:
        classes: [H, W] int64.
        cosine: [H, W] float32, of it.
        log_sum: [H, W] float32, log of the sum over all maps of exp(logit_scale * cosine); None:
            it was not asked for.
    """

    classes: Tensor
    cosine: Tensor
    log_sum: Tensor | None

    def joined(self, other: Best) -> Best:
        """With the best of further classes; of equals this one's stay."""
        better = other.cosine > self.cosine
        both = None
        if self.log_sum is not None and other.log_sum is not None:
            both = torch.logaddexp(self.log_sum, other.log_sum)
        return Best(
            torch.where(better, other.classes, self.classes),
            torch.where(better, other.cosine, self.cosine),
            both,
        )

    def probability(self, logit_scale: float) -> Tensor:
        """[H, W] float32, of the best class's best map among all, by a softmax."""
        assert self.log_sum is not None
        return (logit_scale * self.cosine - self.log_sum).exp()


def best_class(
    similarities: Similarities, size: tuple[int, int], logit_scale: float | None = None
) -> Best | None:
    """Upsample maps and take the best class of each pixel, in bands of rows.

    The equal of an argmax over all upsampled maps, without holding them.

    Args:
        similarities: of the image.
        size: (H, W) of the image, pixels.
        logit_scale: of the softmax over the maps; None: no softmax.

    Returns:
        None where there are no maps.
    """
    found: Best | None = None
    for maps in similarities.parts():
        part = _best_class(maps, size, logit_scale)
        found = part if found is None else found.joined(part)
    return found


def _best_class(maps: Maps, size: tuple[int, int], logit_scale: float | None) -> Best:
    if len(maps.classes) > MANY_MAPS:
        index, cosine = best_of_many(maps.values, size)
        log_sum = None if logit_scale is None else _grid_log_sum(maps, size, logit_scale)
        return Best(maps.classes[index], cosine, log_sum)
    classes = torch.empty(size, dtype=torch.int64, device=maps.values.device)
    cosine = torch.empty(size, dtype=maps.values.dtype, device=maps.values.device)
    log_sum = None if logit_scale is None else torch.empty_like(cosine)
    for rows, scores in _bands(maps.values, size):
        best, index = scores.max(dim=0)
        cosine[rows], classes[rows] = best, maps.classes[index]
        if log_sum is not None and logit_scale is not None:
            log_sum[rows] = (logit_scale * scores).logsumexp(dim=0)
    return Best(classes, cosine, log_sum)


def _grid_log_sum(maps: Maps, size: tuple[int, int], logit_scale: float) -> Tensor:
    """[H, W] of the grid's own log sums, at least as high as those of upsampled maps."""
    return upsample((logit_scale * maps.values).logsumexp(dim=0)[None], size)[0]


def probability_of(
    similarities: Similarities, labels: Tensor, size: tuple[int, int], logit_scale: float
) -> Tensor:
    """How probable some label of each pixel is, by a softmax over the maps.

    Args:
        similarities: of the image.
        labels: [H, W] int64 classes, on the device of the maps.
        size: (H, W) of the image, pixels.
        logit_scale: of the softmax.

    Returns:
        [H, W] float32, of the label's best map; 0 for a label that is no class.
    """
    own = torch.full(size, float("-inf"), device=labels.device)
    log_sum = own.clone()
    for maps in similarities.parts():
        if many := len(maps.classes) > MANY_MAPS:
            log_sum = torch.logaddexp(log_sum, _grid_log_sum(maps, size, logit_scale))
            present = torch.isin(maps.classes, labels)
            maps = Maps(maps.values[present], maps.classes[present])
        for rows, scores in _bands(maps.values, size):
            if not many:
                part = (logit_scale * scores).logsumexp(dim=0)
                log_sum[rows] = torch.logaddexp(log_sum[rows], part)
            others = maps.classes[:, None, None] != labels[rows]
            best = scores.masked_fill_(others, float("-inf")).amax(dim=0)
            own[rows] = torch.maximum(own[rows], best)
    return (logit_scale * own - log_sum).exp().clamp_max(1)


def _bands(values: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the image, and the maps [M, rows, W] there."""
    height, width = size
    band = max(1, _BAND_ELEMENTS // (max(1, len(values)) * width))
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        yield rows, upsample(values, size, rows)


def upsample(values: Tensor, size: tuple[int, int], rows: slice | None = None) -> Tensor:
    """Maps at the image's size, bilinear with align_corners=False.

    Args:
        values: [M, h, w].
        size: (H, W), pixels.
        rows: those that are wanted; None: all.

    Returns:
        [M, rows, W].
    """
    height, width = size
    start, stop = (0, height) if rows is None else (rows.start, rows.stop)
    if values.shape[1:] == size:
        return values[:, start:stop].clone()  # callers write into it
    count = values.shape[1]
    # Rows first, so that a band is not more work than its share.
    centre = (torch.arange(start, stop, device=values.device) + 0.5) * (count / height) - 0.5
    centre = centre.clamp_min(0.0)
    upper = centre.long().clamp_max(count - 1)
    lower = (upper + 1).clamp_max(count - 1)
    lines = torch.lerp(values[:, upper], values[:, lower], (centre - upper)[None, :, None])
    return F.interpolate(lines[None], (stop - start, width), mode="bilinear")[0]
