"""The stage bank: what the encoder and CLIP see in the automatic masks of the training pictures.

Made for the peers that have no words in their training: each region of the pictures is known by its
mean feature of both models. No class and no annotation is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fmbseg.align.feature_store import StoredFeatures
from fmbseg.align.features import PublishedFeatures
from fmbseg.config import Config
from fmbseg.data.manifest import ImageRecord
from fmbseg.errors import StoreError
from fmbseg.models.weights import model_digest
from fmbseg.pseudo.classification import mask_features
from fmbseg.pseudo.encodings import ClipEncodings
from fmbseg.pseudo.tables import MASKS, StoredMasks, rows_by_image, write_table
from fmbseg.stage.stage import ShardedStage
from fmbseg.store.atomic import read_listing
from fmbseg.store.shards import MANIFEST, published_digest

REGIONS = "regions.parquet"
MODELS = "models"
_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("mask_id", pa.int32(), nullable=False),
        # Unit vectors, float16, little-endian.
        pa.field("encoder", pa.binary(), nullable=False),
        pa.field("clip", pa.binary(), nullable=False),
    ]
)


class Bank(ShardedStage):
    """Describe every automatic mask by its mean patch feature of the encoder and of CLIP.

    Out: `regions.parquet`, a row a mask.
    """

    def publish(self, count: int) -> None:
        """See `ShardedStage`; the manifest also names the models."""
        header = self.work.header() | {MODELS: models_of(self.work.config)}
        self.store.publish(self.place, count=count, manifest=header)

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        masks = rows_by_image(self._masks, [record.image_id for record in records])
        rows = []
        for record in records:
            own = masks[record.image_id]
            if not own:
                continue
            features, place = self._features
            stored = StoredMasks(own)
            by_model = (
                mask_features(features.load(place[record.image_id]), stored),
                mask_features(self._clip.encode(record).dense, stored),
            )
            for row, encoder, clip in zip(own, *by_model, strict=True):
                rows.append(
                    {
                        "image_id": record.image_id,
                        "mask_id": row["mask_id"],
                        "encoder": encoder.astype("<f2").tobytes(),
                        "clip": clip.astype("<f2").tobytes(),
                    }
                )
        write_table(directory / REGIONS, rows, _SCHEMA)

    @cached_property
    def _masks(self) -> Path:
        return self.require("masks") / MASKS

    @cached_property
    def _features(self) -> tuple[StoredFeatures, dict[str, int]]:
        """The encoder's features, and the place of each image in them."""
        features = PublishedFeatures(self.require("features"), self.work).open()
        return features, {name: index for index, name in enumerate(features.image_ids)}

    @cached_property
    def _clip(self) -> ClipEncodings:
        return ClipEncodings(self.work.config, self.work.paths.encodings, self.device)


@dataclass(frozen=True)
class RegionBank:
    """R regions of the training pictures.

    Attributes:
        image_ids: whose region each is; those of an image follow each other.
        encoder: [R, C] float16, unit mean features of the frozen encoder.
        clip: [R, D] float16, unit mean features of CLIP's patches.
        sha256: digest of the whole bank, hex.
    """

    image_ids: tuple[str, ...]
    encoder: npt.NDArray[np.float16]
    clip: npt.NDArray[np.float16]
    sha256: str


def read_bank(folder: Path, config: Config) -> RegionBank:
    """Read what the stage bank has made.

    Args:
        folder: its out.
        config: whose models are to be the bank's.

    Raises:
        StoreError: it is not there, damaged, of other models, or holds no region.
        WeightsError: the weights of a model are missing.
    """
    try:
        digest = published_digest(folder)
        table = pq.read_table(folder / REGIONS)
    except (OSError, pa.ArrowInvalid, StoreError) as error:
        raise StoreError(f"{folder} holds no bank of regions: run `fmbseg run bank`") from error
    require_models(folder, (read_listing(folder, MANIFEST) or {}).get(MODELS), config, "bank")
    if not len(table):
        raise StoreError(f"{folder} holds no region: lower the limits of masks, see params.yaml")

    def vectors(name: str) -> npt.NDArray[np.float16]:
        values = b"".join(table[name].to_pylist())
        return np.frombuffer(bytearray(values), dtype="<f2").reshape(len(table), -1)

    ids = tuple(table["image_id"].to_pylist())
    return RegionBank(ids, vectors("encoder"), vectors("clip"), digest)


def models_of(config: Config) -> dict[str, str]:
    """What an out says of the two models whose spaces it joins: parameter -> digest."""
    return {
        "features.encoder": model_digest(config.features.encoder),
        "clip.model": model_digest(config.clip.model),
    }


def require_models(folder: Path, found: Any, config: Config, stage: str) -> None:
    """Check that an out was made with the models of a configuration.

    Args:
        folder: of the out.
        found: what it says of its models, see `models_of`.
        config: all sections.
        stage: that makes it.

    Raises:
        StoreError: it was made with others.
    """
    wanted = models_of(config)
    other = [name for name, value in wanted.items() if (found or {}).get(name) != value]
    if other:
        raise StoreError(
            f"{folder} was made with another {' and '.join(other)}: run `fmbseg run {stage}`"
        )
