"""CLIP and SAM encodings of the stages: from the shared cache, or made and put there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.data.manifest import ImageRecord
from fmbseg.device import DeviceChoice
from fmbseg.models.clip import ClipEncoding, ClipModel, load_clip
from fmbseg.models.sam import SamEncoding, SamModel, load_sam
from fmbseg.models.weights import weights_digest
from fmbseg.paths import Paths
from fmbseg.store import EncodingCache, content_key

_log = logging.getLogger(__name__)
_SCHEMA = 1
_PACKAGE = Path(__file__).parents[1]
_MODELS = _PACKAGE / "models"
_READING = (_PACKAGE / "data" / "images.py", _MODELS / "build.py", _MODELS / "registry.yaml")

CLIP_SOURCES = (
    _MODELS / "clip.py",
    _MODELS / "dense.py",
    _MODELS / "tiny" / "clip.json",
    _PACKAGE / "data" / "windows.py",
    *_READING,
)
SAM_SOURCES = (_MODELS / "sam.py", _MODELS / "tiny" / "sam.json", *_READING)
TEXT_SOURCES = (
    _MODELS / "text.py",
    _PACKAGE / "data" / "vocabulary.py",
    _PACKAGE / "data" / "templates.py",
)


class ClipEncodings:
    """CLIP encodings by image; the model is loaded when an image has to be encoded.

    Attributes:
        made: images that were encoded because the cache did not hold them.
    """

    def __init__(self, config: Config, paths: Paths, choice: DeviceChoice) -> None:
        self.made = 0
        self._section = config.clip
        self._choice = choice
        self._cache = _cache(
            "clip-encoding",
            config,
            paths,
            choice,
            params=config.clip.model_dump(exclude={"templates", "model"}),
            weights=config.clip.model,
            sources=CLIP_SOURCES,
        )

    @cached_property
    def model(self) -> ClipModel:
        """The loaded model."""
        return load_clip(self._section.model, self._choice.device, self._choice.dtype)

    def encode(self, record: ImageRecord) -> ClipEncoding:
        """The encoding of an image; the same bits whether it was stored or is made now."""
        arrays = self._cache.get(record.sha256)
        if arrays is not None:
            return ClipEncoding(
                windows=arrays["windows"],
                dense=arrays["dense"],
                size=_pair(arrays["size"]),
                offsets=[_pair(offset) for offset in arrays["offsets"]],
            )
        encoding = self.model.encode_image_windows(read_image(record.path), self._section)
        self.made += 1
        self._cache.put(
            record.sha256,
            {
                "windows": encoding.windows,
                "dense": encoding.dense,
                "size": np.array(encoding.size, dtype=np.int32),
                "offsets": np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2),
            },
        )
        return encoding


class SamEncodings:
    """SAM encodings by image; the model is loaded when it is first needed.

    Attributes:
        made: images that were encoded because the cache did not hold them.
    """

    def __init__(self, config: Config, paths: Paths, choice: DeviceChoice) -> None:
        self.made = 0
        self._section = config.sam
        self._choice = choice
        self._cache = _cache(
            "sam-encoding",
            config,
            paths,
            choice,
            params={},
            weights=config.sam.model,
            sources=SAM_SOURCES,
        )

    @cached_property
    def model(self) -> SamModel:
        """The loaded model."""
        return load_sam(self._section.model, self._choice.device, self._choice.dtype)

    def encode(self, record: ImageRecord) -> SamEncoding:
        """The encoding of an image; the same bits whether it was stored or is made now."""
        arrays = self._cache.get(record.sha256)
        if arrays is not None:
            return SamEncoding(
                features=arrays["features"],
                input_size=_pair(arrays["input_size"]),
                original_size=_pair(arrays["original_size"]),
            )
        encoding = self.model.encode(np.asarray(read_image(record.path)))
        self.made += 1
        self._cache.put(
            record.sha256,
            {
                "features": encoding.features,
                "input_size": np.array(encoding.input_size, dtype=np.int32),
                "original_size": np.array(encoding.original_size, dtype=np.int32),
            },
        )
        return encoding


def say_made_again(stage: str, model: str, made: int) -> None:
    """One log line when a stage had to encode images that an earlier stage had encoded."""
    if made:
        _log.info(
            "%s: %d images encoded again by %s (not in the encoding cache)", stage, made, model
        )


def _cache(
    name: str,
    config: Config,
    paths: Paths,
    choice: DeviceChoice,
    *,
    params: Mapping[str, Any],
    weights: str,
    sources: tuple[Path, ...],
) -> EncodingCache:
    # Unlike an out, an encoding stays on this machine: what computed it is part of its key.
    computed_by = {"device": choice.device.type, "dtype": str(choice.dtype)}
    key = content_key(
        name,
        schema=_SCHEMA,
        params={**params, **computed_by},
        inputs={},
        weights={weights: weights_digest(weights)},
        sources=sources,
        threads=config.run.threads,
    )
    return EncodingCache(paths.encodings, key, int(config.run.cache_gb * 1e9))


def _pair(values: npt.NDArray[np.integer]) -> tuple[int, int]:
    return int(values[0]), int(values[1])
