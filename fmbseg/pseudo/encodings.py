"""What CLIP and SAM see in an image whatever the classes: from a cache, or made and put there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import ClipSection, Config
from fmbseg.data.images import read_image
from fmbseg.data.manifest import ImageRecord
from fmbseg.machine.device import DeviceChoice
from fmbseg.models.clip import ClipEncoding, ClipModel, load_clip
from fmbseg.models.sam import AutomaticMasks, SamEncoding, SamModel, load_sam
from fmbseg.stage.depends import Depends, content_key
from fmbseg.store.encoding_cache import EncodingCache

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


class ClipEncodings:
    """CLIP encodings by image; the model is loaded when an image has to be encoded.

    Args:
        config: the sections clip and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the model runs.

    Attributes:
        made: images that were encoded because the cache did not hold them.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        self.made = 0
        self._section = config.clip
        self._choice = choice
        self._cache = _cache("clip-encoding", _CLIP, config, root, choice)

    @cached_property
    def model(self) -> ClipModel:
        """The loaded model."""
        return load_clip(self._section.model, self._choice.device, self._choice.dtype)

    def encode(self, record: ImageRecord) -> ClipEncoding:
        """The encoding of an image; the same bits whether it was stored or is made now."""
        return self._encode(record.sha256, lambda: read_image(record.path))

    def encode_image(self, image: Image.Image, sha256: str) -> ClipEncoding:
        """The same of an image in memory, known by the sha256 of its pixels."""
        return self._encode(sha256, lambda: image)

    def say_made_again(self, stage: str) -> None:
        """One log line when a stage had to encode images that an earlier stage had encoded."""
        _say_made_again(stage, self._section.model, self.made)

    def _encode(self, sha256: str, read: Callable[[], Image.Image]) -> ClipEncoding:
        arrays = self._cache.get(sha256) if self._cache else None
        if arrays is not None:
            return ClipEncoding(
                windows=arrays["windows"],
                dense=arrays["dense"],
                size=_pair(arrays["size"]),
                offsets=[_pair(offset) for offset in arrays["offsets"]],
            )
        encoding = self.model.encode_image_windows(read(), self._section)
        self.made += 1
        if self._cache:
            arrays = {
                "windows": encoding.windows,
                "dense": encoding.dense,
                "size": np.array(encoding.size, dtype=np.int32),
                "offsets": np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2),
            }
            self._cache.put(sha256, arrays)
        return encoding


class SamEncodings:
    """SAM encodings and automatic masks by image; the model is loaded when it is first needed.

    Args:
        config: the sections sam, masks and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the model runs.

    Attributes:
        made: images that were encoded because the cache did not hold them.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        self.made = 0
        self._config = config
        self._section = config.sam
        self._root = root
        self._choice = choice
        self._cache = _cache("sam-encoding", _SAM, config, root, choice)

    @cached_property
    def model(self) -> SamModel:
        """The loaded model."""
        return load_sam(self._section.model, self._choice.device, self._choice.dtype)

    def encode(self, record: ImageRecord) -> SamEncoding:
        """The encoding of an image; the same bits whether it was stored or is made now."""
        return self._encode(record.sha256, lambda: read_image(record.path))

    def encode_image(self, image: Image.Image, sha256: str) -> SamEncoding:
        """The same of an image in memory, known by the sha256 of its pixels."""
        return self._encode(sha256, lambda: image)

    def automatic_masks(
        self, image: Image.Image, sha256: str, encoding: SamEncoding
    ) -> AutomaticMasks:
        """The automatic masks of an image in memory; the same bits, stored or made now."""
        pixels = image.width * image.height
        arrays = self._masks_cache.get(sha256) if self._masks_cache else None
        if arrays is not None:
            count = len(arrays["bits"])
            bits = np.unpackbits(arrays["bits"], axis=1, count=pixels).view(np.bool_)
            return AutomaticMasks(
                masks=bits.reshape(count, image.height, image.width),
                predicted_iou=arrays["predicted_iou"].view(np.float32),
                stability=arrays["stability"].view(np.float32),
                area=arrays["area"],
            )
        found = self.model.automatic_masks(encoding, self._config.masks, self._section.batch_size)
        if self._masks_cache:
            arrays = {
                "bits": np.packbits(found.masks.reshape(len(found.masks), pixels), axis=1),
                # As bits: the cache takes no rounded numbers.
                "predicted_iou": found.predicted_iou.view(np.int32),
                "stability": found.stability.view(np.int32),
                "area": found.area,
            }
            self._masks_cache.put(sha256, arrays)
        return found

    def say_made_again(self, stage: str) -> None:
        """One log line when a stage had to encode images that an earlier stage had encoded."""
        _say_made_again(stage, self._section.model, self.made)

    @cached_property
    def _masks_cache(self) -> EncodingCache | None:
        return _cache("automatic-masks", _MASKS, self._config, self._root, self._choice)

    def _encode(self, sha256: str, read: Callable[[], Image.Image]) -> SamEncoding:
        arrays = self._cache.get(sha256) if self._cache else None
        if arrays is not None:
            return SamEncoding(
                features=arrays["features"],
                input_size=_pair(arrays["input_size"]),
                original_size=_pair(arrays["original_size"]),
            )
        encoding = self.model.encode(np.asarray(read()))
        self.made += 1
        if self._cache:
            arrays = {
                "features": encoding.features,
                "input_size": np.array(encoding.input_size, dtype=np.int32),
                "original_size": np.array(encoding.original_size, dtype=np.int32),
            }
            self._cache.put(sha256, arrays)
        return encoding


@dataclass(frozen=True)
class ImageEncodings:
    """What CLIP and SAM see in one image, whatever the classes; the costly part of stage 1.

    Attributes:
        clip: windows and dense features.
        sam: features that prompts are decoded against.
        automatic: SAM's automatic masks (1.2).
    """

    clip: ClipEncoding
    sam: SamEncoding
    automatic: AutomaticMasks


class ImageEncoder:
    """Both models over images in memory; CLIP sees each window once and SAM the image once.

    Args:
        config: the sections clip, sam, masks and run are read.
        root: folder of the cache; None: nothing is kept.
        choice: where the models run.

    Attributes:
        clip: CLIP's part.
        sam: SAM's part.
    """

    def __init__(self, config: Config, root: Path | None, choice: DeviceChoice) -> None:
        self.clip = ClipEncodings(config, root, choice)
        self.sam = SamEncodings(config, root, choice)

    def encode(self, image: Image.Image) -> ImageEncodings:
        """Encode one RGB image."""
        sha256 = pixels_digest(image)
        sam = self.sam.encode_image(image, sha256)
        return ImageEncodings(
            clip=self.clip.encode_image(image, sha256),
            sam=sam,
            automatic=self.sam.automatic_masks(image, sha256, sam),
        )


def _say_made_again(stage: str, model: str, made: int) -> None:
    if made:
        _log.info(
            "%s: %d images encoded again by %s (not in the encoding cache)", stage, made, model
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


def _pair(values: npt.NDArray[np.integer]) -> tuple[int, int]:
    return int(values[0]), int(values[1])
