"""Patch features of the frozen encoder, made once and kept as float16 shards (stage 2).

At full scale they are hundreds of GB. The stage's out is therefore only an index of them, which
DVC can track; the shards lie in the workspace's feature store, and whoever opens them makes the
missing ones again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmbseg.align.feature_store import INDEX, INDEX_SCHEMA, VALUES, Float16, StoredFeatures
from fmbseg.align.numbers import named
from fmbseg.data.images import read_image
from fmbseg.data.manifest import ImageRecord
from fmbseg.errors import DataError
from fmbseg.stage.stage import ShardedStage
from fmbseg.stage.workplace import Workplace
from fmbseg.store.digest import file_digest
from fmbseg.store.shards import DIGEST, ShardStore

if TYPE_CHECKING:  # features that are there are found without torch
    from fmbseg.models.backbone import Backbone


class Features(ShardedStage):
    """Encode every image of the training set.

    Out: `index.parquet`, a row an image (image_id, height and width of its patch grid), and a
    manifest with the digests of the shards.
    """

    @cached_property
    def store(self) -> ShardStore:
        """In a place of its own: the shards are the features themselves and never published."""
        place = self.work.paths.feature_store
        return ShardStore(place.parent, place.name, self.key)

    def publish(self, count: int) -> None:
        """The index through a store of its own: of the shards only their digests go out."""
        out = ShardStore(self.work.paths.shards, self.row.name, self.key)
        shards = [self.store.shard_path(index) for index in range(count)]
        if not out.has(0):
            with out.write(0) as directory:
                parts = [pq.read_table(shard / INDEX) for shard in shards]
                index = pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts])
                pq.write_table(index, directory / INDEX)
        digests = [file_digest(shard / DIGEST) for shard in shards]
        header = {**self.work.header(), "feature_shards": digests}
        out.publish(self.place, count=1, manifest=header)

    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """See `ShardedStage`."""
        from fmbseg.machine.device import batches_with_backoff
        from fmbseg.models.backbone import encoder_size

        section = self.work.config.features
        encoded: dict[int, Float16] = {}
        # Images of one size share batches; within a shard the order is fixed.
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, record in enumerate(records):
            size = encoder_size((record.width, record.height), section.short_side, self._encoder)
            sizes.setdefault(size, []).append(index)
        for members in sizes.values():
            encode = partial(self._features, [records[i] for i in members])
            for part, features in batches_with_backoff(len(members), section.batch_size, encode):
                encoded.update(zip(members[part], features, strict=True))
        found = [encoded[i] for i in range(len(records))]
        rows = [
            {"image_id": record.image_id, "height": values.shape[0], "width": values.shape[1]}
            for record, values in zip(records, found, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), directory / INDEX)
        flat = [values.reshape(-1, values.shape[-1]) for values in found]
        np.save(directory / VALUES, np.concatenate(flat))

    @cached_property
    def _encoder(self) -> Backbone:
        # Loaded with the first shard that is missing, not before.
        from fmbseg.models.backbone import load_backbone

        name = self.work.config.features.encoder
        return load_backbone(name, self.device.device, self.device.dtype)

    def _features(self, records: Sequence[ImageRecord], part: slice) -> Float16:
        """[n, h, w, C] of some images of one size."""
        from fmbseg.models.backbone import resize_for_encoder

        short_side = self.work.config.features.short_side
        images = (read_image(record.path) for record in records[part])
        pixels = [resize_for_encoder(image, short_side, self._encoder) for image in images]
        features: Float16 = self._encoder.features(np.stack(pixels)).half().cpu().numpy()
        finite = np.isfinite(features).all(axis=(1, 2, 3))
        if not finite.all():
            names = [record.image_id for record in records[part]]
            unfit = named(names, np.flatnonzero(~finite).tolist())
            section, run = self.work.config.features, self.work.config.run
            raise DataError(
                f"features of {unfit} hold NaN, or numbers beyond "
                f"float16 (run.dtype={run.dtype}): look at `fmbseg models verify "
                f"{section.encoder}`, use --set run.dtype=float32, or another encoder"
            )
        return features


class PublishedFeatures:
    """Features whose index is published; their shards may be here or not.

    Args:
        index: folder of the published index.
        work: the workplace that it was made in.

    Attributes:
        image_ids: in the order of the images.
        grids: (h, w) patches of each image.
    """

    def __init__(self, index: Path, work: Workplace) -> None:
        rows = pq.read_table(index / INDEX).to_pylist()
        self.image_ids = tuple(str(row["image_id"]) for row in rows)
        self.grids = tuple((int(row["height"]), int(row["width"])) for row in rows)
        self._work = work

    def open(self) -> StoredFeatures:
        """Open the shards; those that are not here are made again.

        Raises:
            DataError: an image is gone or broken.
            WeightsError: the encoder's weights are missing or damaged.
        """
        sharded = Features(self._work.rows["features"], self._work).shards()
        sharded.run(self._work.progress, self._work.attempt)
        return StoredFeatures([sharded.store.shard_path(i) for i in range(sharded.count)])
