"""What CLIP and the mask model see in an image whatever the classes: from a cache, or made."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

import numpy as np
from PIL import Image

from fmbseg.config import ClipSection, Config
from fmbseg.data.images import read_image
from fmbseg.data.manifest import ImageRecord
from fmbseg.machine.device import DeviceChoice
from fmbseg.models.clip import ClipEncoding, ClipModel, load_clip
from fmbseg.models.mask_model import (
    AutomaticMasks,
    MaskEncoding,
    MaskModel,
    load_mask_model,
    mask_model_class,
)
from fmbseg.stage.depends import Depends, content_key
from fmbseg.store.encoding_cache import EncodingCache, Kept, cached

_log = logging.getLogger(__name__)
_SOURCES = ("data", "models", "pseudo/encodings.py")
_RUN = ("run.threads",)
_CLIP = Depends(
    (*(f"clip.{name}" for name in ClipSection.model_fields if name != "templates"), *_RUN),
    _SOURCES,
    ("open_clip_torch", "pillow", "torch"),
)
_SAM = Depends(
    ("sam.model", *_RUN), _SOURCES, ("pillow", "segment-anything", "torch", "torchvision")
)
_MASKS = _SAM + Depends(("masks", "sam.batch_size"))


class Encodings(Generic[Kept]):
    """Encodings of one model by image, made where the cache does not hold them.

    Attributes:
        made: images that were encoded because the cache did not hold them.
    """

    def __init__(
        self, cache: EncodingCache | None, kind: type[Kept], make: Callable[[Image.Image], Kept]
    ) -> None:
        self.made = 0
        self._cache, self._kind, self._make = cache, kind, make

    def encode(self, record: ImageRecord) -> Kept:
        """The encoding of an image; the same bits whether it was stored or is made now."""
        return self._encode(record.sha256, lambda: read_image(record.path))

    def encode_image(self, image: Image.Image, sha256: str) -> Kept:
        """The same of an image in memory, known by the sha256 of its pixels."""
        return self._encode(sha256, lambda: image)

    def say_made_again(self, stage: str, model: str) -> None:
        """One log line when a stage had to encode images that an earlier stage had encoded."""
        if self.made:
            told = "%s: %d images encoded again by %s (not in the encoding cache)"
            _log.info(told, stage, self.made, model)

    def _encode(self, sha256: str, read: Callable[[], Image.Image]) -> Kept:
        def make() -> Kept:
            self.made += 1
            return self._make(read())

        return cached(self._cache, sha256, self._kind, make)


class ClipEncodings(Encodings[ClipEncoding]):
    """CLIP encodings by image; the model is loaded when an image has to be encoded.

    Args:
        config: the sections clip and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the model runs.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        section = config.clip
        self._name, self._root, self._choice = section.model, root, choice
        cache = _cache("clip-encoding", _CLIP, config, root, choice)
        super().__init__(
            cache, ClipEncoding, lambda image: self.model.encode_image_windows(image, section)
        )

    @cached_property
    def model(self) -> ClipModel:
        """The loaded model."""
        choice = self._choice
        return load_clip(self._name, choice.device, choice.dtype, text_cache=self._root)


class MaskEncodings(Encodings[MaskEncoding]):
    """Encodings and automatic masks of a mask model; it is loaded when it is first needed.

    Args:
        config: the sections sam, masks and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the model runs.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        self._config, self._root, self._choice = config, root, choice
        super().__init__(
            _cache("sam-encoding", _SAM, config, root, choice),
            mask_model_class(config.sam.model).encoding_class(),
            lambda image: self.model.encode(np.asarray(image)),
        )

    @cached_property
    def model(self) -> MaskModel[Any]:
        """The loaded model."""
        return load_mask_model(self._config.sam.model, self._choice.device, self._choice.dtype)

    def automatic_masks(self, sha256: str, encoding: MaskEncoding) -> AutomaticMasks:
        """The automatic masks of an encoded image; the same bits, stored or made now."""
        return self._automatic(sha256, lambda: encoding)

    def masks_of(self, image: Image.Image, sha256: str) -> AutomaticMasks:
        """The automatic masks of an image in memory; it is encoded only where they are not kept."""
        return self._automatic(sha256, lambda: self.encode_image(image, sha256))

    def _automatic(self, sha256: str, encoding: Callable[[], MaskEncoding]) -> AutomaticMasks:
        section, batch_size = self._config.masks, self._config.sam.batch_size
        return cached(
            self._masks_cache,
            sha256,
            AutomaticMasks,
            lambda: self.model.automatic_masks(encoding(), section, batch_size),
        )

    @cached_property
    def _masks_cache(self) -> EncodingCache | None:
        return _cache("automatic-masks", _MASKS, self._config, self._root, self._choice)


@dataclass(frozen=True)
class ImageEncodings:
    """What both models see in one image, whatever the classes; the costly part of stage 1.

    Attributes:
        clip: windows and dense features.
        sam: what the mask model's prompts are decoded against.
        automatic: its automatic masks (1.2).
    """

    clip: ClipEncoding
    sam: MaskEncoding
    automatic: AutomaticMasks


class ImageEncoder:
    """Both models over images in memory; CLIP sees each window once, the mask model the image once.

    Args:
        config: the sections clip, sam, masks and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the models run.

    Attributes:
        clip: CLIP's part.
        sam: the mask model's part.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        self.clip = ClipEncodings(config, root, choice)
        self.sam = MaskEncodings(config, root, choice)

    def encode(self, image: Image.Image) -> ImageEncodings:
        """Encode one RGB image."""
        sha256 = pixels_digest(image)
        sam = self.sam.encode_image(image, sha256)
        return ImageEncodings(
            clip=self.clip.encode_image(image, sha256),
            sam=sam,
            automatic=self.sam.automatic_masks(sha256, sam),
        )


def _cache(
    name: str, depends: Depends, config: Config, root: Path | None, choice: DeviceChoice
) -> EncodingCache | None:
    if root is None:
        return None
    # Unlike an out, an encoding stays on this machine: what computed it is part of its key.
    computed_by = {"device": choice.device.type, "dtype": str(choice.dtype)}
    key = content_key(name, depends, config, computed_by)
    return EncodingCache(root, name, key, int(config.run.cache_gb * 1e9))


def pixels_digest(image: Image.Image) -> str:
    """Digest of an RGB image's pixels: equal pictures of two data sets are encoded once."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
