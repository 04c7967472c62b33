"""Patch features of the frozen encoder, made once and kept as float16 shards (stage 2).

At full scale they are hundreds of GB. The stage's out is therefore only an index of them, which
DVC can track; the shards lie in the workspace's feature store, and whoever opens them makes the
missing ones again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fmbseg.align import feature_store
from fmbseg.align.feature_store import (
    INDEX,
    INDEX_SCHEMA,
    VALUES,
    FeatureSource,
    Float16,
    StoredFeatures,
)
from fmbseg.config import Config
from fmbseg.data import windows
from fmbseg.data.manifest import ImageRecord, Manifest, build_manifest, read_image
from fmbseg.errors import StoreError
from fmbseg.machine.device import DeviceChoice, choose_device, with_oom_backoff
from fmbseg.machine.progress import Progress
from fmbseg.models import backbone as backbone_module
from fmbseg.models import build, timm_features, tiny
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.weights import model_digest
from fmbseg.store.digest import content_key, file_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import (
    ShardedWork,
    ShardReport,
    ShardStore,
    StageReport,
    StageState,
    is_published,
    published_key,
)

__all__ = [
    "FeatureSource",
    "PublishedFeatures",
    "StoredFeatures",
    "features",
    "published_features",
    "resize_for_encoder",
]

STAGE = "features"
_SCHEMA = 1
_SOURCES = (
    Path(__file__),
    Path(feature_store.__file__),
    Path(backbone_module.__file__),
    Path(timm_features.__file__),
    Path(build.__file__),
    tiny.FOLDER / "encoder.json",
    Path(windows.__file__),
    Path(windows.__file__).with_name("images.py"),
)


def features(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """Encode every image of the training set.

    Out: `index.parquet`, a row an image (image_id, height and width of its patch grid), and a
    manifest with the digests of the shards.

    Raises:
        DataError: the images are not as the data set's layout demands, or one is broken.
        WeightsError: the encoder's weights are missing or damaged.
    """
    plan = _Plan(config, paths, progress)
    if is_published(paths.features, plan.key):
        return StageReport(STAGE, plan.key, computed=0, taken_over=plan.shards)
    report = plan.make_shards()
    # The index is published through a store of its own: of the shards only their digests go out.
    out = ShardStore(paths.shards, STAGE, plan.key)
    if not out.has(0):
        with out.write(0) as directory:
            parts = [pq.read_table(plan.store.shard_path(i) / INDEX) for i in range(plan.shards)]
            index = pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts])
            pq.write_table(index, directory / INDEX)
    digests = [file_digest(plan.store.shard_path(i) / "digest.json") for i in range(plan.shards)]
    header = {"images_digest": plan.manifest.digest, "feature_shards": digests}
    out.publish(paths.features, count=1, manifest=header)
    return StageReport(STAGE, plan.key, report.computed, report.taken_over, report.records)


def features_state(config: Config, paths: Paths, progress: Progress) -> StageState:
    """The content key of the features, and whether their index is there; computes nothing.

    Raises:
        DataError, WeightsError: as `features`.
    """
    plan = _Plan(config, paths, progress)
    return StageState(plan.key, is_published(paths.features, plan.key))


def features_shards(config: Config, paths: Paths, progress: Progress) -> ShardedWork[ImageRecord]:
    """The shards of the features, for processes that share them out; computes nothing.

    Raises:
        DataError, WeightsError: as `features`.
    """
    return _Plan(config, paths, progress).sharded


class PublishedFeatures:
    """Features whose index is published; their shards may be here or not.

    Attributes:
        image_ids: in the order of the images.
        grids: (h, w) patches of each image.
    """

    def __init__(self, index: Path, plan: _Plan) -> None:
        rows = pq.read_table(index).to_pylist()
        self.image_ids = tuple(str(row["image_id"]) for row in rows)
        self.grids = tuple((int(row["height"]), int(row["width"])) for row in rows)
        self._plan = plan

    def open(self) -> StoredFeatures:
        """Open the shards; those that are not here are made again.

        Raises:
            DataError: an image is gone or broken.
            WeightsError: the encoder's weights are missing or damaged.
        """
        self._plan.make_shards()
        return StoredFeatures([self._plan.store.shard_path(i) for i in range(self._plan.shards)])


def published_features(
    config: Config, paths: Paths, progress: Progress, manifest: Manifest | None = None
) -> PublishedFeatures:
    """What `features` has published.

    Args:
        config: the sections run, data and features count.
        paths: the workspace.
        progress: where progress is shown.
        manifest: the training set's images, where they have been digested already.

    Raises:
        StoreError: the out is missing, damaged or of another configuration.
        DataError, WeightsError: as `features`.
    """
    plan = _Plan(config, paths, progress, manifest)
    if published_key(paths.features) is None:
        raise StoreError(f"{paths.features} does not exist: run `fmbseg run features` first")
    if not is_published(paths.features, plan.key):
        raise StoreError(
            f"{paths.features} is damaged or was made with other images, parameters, weights or "
            "code: run `fmbseg run features` again first"
        )
    return PublishedFeatures(paths.features / INDEX, plan)


class _Plan:
    """Images, key and shards of one configuration."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        progress: Progress,
        manifest: Manifest | None = None,
    ) -> None:
        self._config = config
        self._progress = progress
        self._choice: DeviceChoice = choose_device(config.run)
        data = config.data
        self.manifest = manifest or build_manifest(
            data.name, paths.root / data.root, data.split, data.limit, progress
        )
        section = config.features
        self.key = content_key(
            STAGE,
            schema=_SCHEMA,
            params={
                # Batches never cross shards, so the shards' size decides what is in a batch.
                "shard_size": config.run.shard_size,
                "dtype": config.run.dtype,
                "features": section.model_dump(exclude={"encoder"}),
            },
            inputs={"images": self.manifest.digest},
            weights={section.encoder: model_digest(section.encoder)},
            sources=_SOURCES,
            threads=config.run.threads,
        )
        store = paths.feature_store
        self.store = ShardStore(store.parent, store.name, self.key)
        records, size = self.manifest.records, config.run.shard_size
        self.sharded = ShardedWork(self.store, records, size, self._encode)
        self.shards = self.sharded.count

    def make_shards(self) -> ShardReport:
        return self.sharded.run(self._progress)

    @cached_property
    def _encoder(self) -> Backbone:
        # Loaded with the first shard that is missing, not before.
        name = self._config.features.encoder
        return load_backbone(name, self._choice.device, self._choice.dtype)

    def _encode(self, records: Sequence[ImageRecord], directory: Path) -> None:
        section = self._config.features
        encoded: dict[int, Float16] = {}
        # Images of one size share batches; within a shard the order is fixed.
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, record in enumerate(records):
            size = _encoder_size((record.width, record.height), section.short_side, self._encoder)
            sizes.setdefault(size, []).append(index)
        for members in sizes.values():
            for start in range(0, len(members), section.batch_size):
                part = members[start : start + section.batch_size]
                pixels = np.stack(
                    [
                        resize_for_encoder(
                            read_image(records[i].path), section.short_side, self._encoder
                        )
                        for i in part
                    ]
                )
                encoded.update(zip(part, self._features(pixels), strict=True))
        rows = [
            {"image_id": record.image_id, "height": values.shape[0], "width": values.shape[1]}
            for record, values in ((records[i], encoded[i]) for i in range(len(records)))
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), directory / INDEX)
        flat = [encoded[i].reshape(-1, encoded[i].shape[-1]) for i in range(len(records))]
        np.save(directory / VALUES, np.concatenate(flat))

    def _features(self, pixels: npt.NDArray[np.uint8]) -> Float16:
        def encode(batch: int) -> Float16:
            parts = [
                self._encoder.features(pixels[start : start + batch]).half().cpu()
                for start in range(0, len(pixels), batch)
            ]
            return torch.cat(parts).numpy()

        return with_oom_backoff(len(pixels), encode)


def resize_for_encoder(
    image: Image.Image, short_side: int, encoder: Backbone
) -> npt.NDArray[np.uint8]:
    """The image as the encoder takes it: bicubic, both sides a multiple of its patch.

    Args:
        image: RGB.
        short_side: wanted length of the shorter side, pixels.
        encoder: whose patch size counts.

    Returns:
        [H, W, 3] uint8.
    """
    size = _encoder_size(image.size, short_side, encoder)
    return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _encoder_size(size: tuple[int, int], short_side: int, encoder: Backbone) -> tuple[int, int]:
    return windows.resize_to_short_side(*size, short_side, encoder.patch_size)
