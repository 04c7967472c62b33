"""What figures are drawn from: a run's models, its pictures, its results; loaded when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import pyarrow.parquet as pq
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.datasets import SegmentationDataset, load_dataset
from fmbseg.data.images import read_image
from fmbseg.data.manifest import ImageRecord
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.evaluate.methods.predictor import Predictor, load_predictor
from fmbseg.evaluate.results import EXAMPLES, Result, read_result
from fmbseg.inference.segmenter import Segmenter, load_segmenter
from fmbseg.machine.device import DeviceChoice, choose_device
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.tables import DETECTIONS, Row
from fmbseg.stage.workplace import Workplace
from fmbseg.store.paths import Paths


class Studio:
    """A run to draw figures of.

    Args:
        work: its workspace.

    Attributes:
        work: the same.
    """

    def __init__(self, work: Workplace) -> None:
        self.work = work

    @property
    def config(self) -> Config:
        """All sections."""
        return self.work.config

    @property
    def paths(self) -> Paths:
        """The workspace's folders."""
        return self.work.paths

    @property
    def words(self) -> Vocabulary:
        """The first vocabulary of the training."""
        return self.work.vocabularies[0]

    @cached_property
    def device(self) -> DeviceChoice:
        """Where models run."""
        return choose_device(self.config.run)

    @cached_property
    def encoder(self) -> ImageEncoder:
        """CLIP and the mask model."""
        return ImageEncoder(self.config, None, self.device)

    @cached_property
    def text(self) -> TextEmbeddings:
        """Embeddings of `words`."""
        return self.text_of(self.words)

    def text_of(self, words: Vocabulary) -> TextEmbeddings:
        """Embeddings of any vocabulary."""
        templates = words.templates or self.config.clip.templates
        return self.encoder.clip.model.text_embeddings(words, templates)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The trained head, asked as its checkpoint says."""
        return load_segmenter(self.paths.align, run=self.config.run)

    def predictor(self, method: str) -> Predictor:
        """A method without a head, or the trained one."""
        return load_predictor(method, self.config, self.paths.align)

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks."""
        return [*self.config.evaluate.benchmarks]

    def benchmark(self, name: str) -> SegmentationDataset:
        """A benchmark's split."""
        entry = self.config.evaluate.benchmarks[name]
        return load_dataset(name, self.paths.root / entry.root, entry.split)

    def result(self, benchmark: str) -> Result:
        """What the trained head scores on a benchmark.

        Raises:
            DataError: it is missing, damaged, or of a version that named no examples.
        """
        result = read_result(self.paths.metrics / "fmbseg" / f"{benchmark}.json")
        if EXAMPLES not in result:
            raise DataError(
                f"the result on {benchmark} names no example pictures: run `fmbseg run "
                f"evaluate@{benchmark}`"
            )
        return result

    @cached_property
    def detections(self) -> list[tuple[ImageRecord, Row]]:
        """Training images with a detected class, the surest first; each image and class once."""
        rows = pq.read_table(self.paths.detect / DETECTIONS).to_pylist()
        mine = [row for row in rows if row["vocabulary"] == self.words.name]
        mine.sort(key=lambda row: (-row["similarity"], row["image_id"], row["class_index"]))
        records = {record.image_id: record for record in self.work.images.records}
        return list(_each_once(mine, records))

    def image(self, record: ImageRecord) -> Image.Image:
        """A training image, RGB."""
        return read_image(record.path)


def _each_once(
    rows: list[Row], records: dict[str, ImageRecord]
) -> Iterator[tuple[ImageRecord, Row]]:
    images: set[str] = set()
    classes: set[int] = set()
    for row in rows:
        if row["image_id"] in images or row["class_index"] in classes:
            continue
        images.add(row["image_id"])
        classes.add(row["class_index"])
        yield records[row["image_id"]], row
