"""The data sets that a head is trained on, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fmbseg.config import DataSection
from fmbseg.data.datasets import Sample, SegmentationDataset, load_dataset
from fmbseg.data.folder import LeftOut, picture_id
from fmbseg.data.manifest import ImageRecord, Manifest, build_manifest
from fmbseg.data.truth import truth_digest
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import json_digest


@dataclass(frozen=True)
class ImageSets:
    """Splits of one data set or of several.

    An image of one alone has its id there. Of several the name of its set goes before it, as a
    folder's before a picture's: `cityscapes__zurich_000001`.

    Attributes:
        sets: at least one; no two of one name.
    """

    sets: tuple[SegmentationDataset, ...]

    @property
    def roots(self) -> list[Path]:
        """Their folders."""
        return [each.root for each in self.sets]

    @property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """Each set's own classes, in the order of its label values; raises as its `vocabulary`."""
        return tuple(each.vocabulary for each in self.sets)

    @property
    def image_files(self) -> list[tuple[str, Path]]:
        """`(image_id, path)` of all images, in order; no annotation is looked at."""
        return [
            (self._id(each, image_id), path)
            for each in self.sets
            for image_id, path in each.image_files
        ]

    @cached_property
    def samples(self) -> Mapping[str, tuple[int, Sample]]:
        """By image id: the number of its set, and the sample."""
        return {
            self._id(each, sample.image_id): (number, sample)
            for number, each in enumerate(self.sets)
            for sample in each
        }

    def manifest(
        self, progress: Progress, memory: Path | None = None, *, strict: bool = True
    ) -> Manifest:
        """The images, read and digested; see `build_manifest`."""
        records: list[ImageRecord] = []
        left_out: list[LeftOut] = []
        for each in self.sets:
            found = build_manifest(each, progress, memory, strict=strict)
            records += [replace(r, image_id=self._id(each, r.image_id)) for r in found.records]
            left_out += found.left_out
        return Manifest(tuple(records), tuple(left_out))

    def truth_digest(self, image_ids: Iterable[str], progress: Progress, memory: Path) -> str:
        """Digest of some images with their truth, and of the classes that it is in.

        Raises:
            DataError: a set has no truth, or a sample cannot be read.
        """
        wanted = set(image_ids)
        found = []
        for each in self.sets:
            own = {name for name, _ in each.image_files if self._id(each, name) in wanted}
            samples = each.of(own)
            samples.require_labels()
            found.append([truth_digest(samples, progress, memory), each.vocabulary.digest])
        return json_digest(found if len(found) > 1 else found[0])

    def _id(self, one: SegmentationDataset, image_id: str) -> str:
        return image_id if len(self.sets) == 1 else picture_id(Path(one.name, image_id))


def load_image_sets(data: DataSection, root: Path) -> ImageSets:
    """The images of the section data, of each set the first `data.limit`.

    Args:
        data: the section.
        root: of the workspace.

    Raises:
        DataError: a set is not as its layout says.
    """
    loaded = (load_dataset(each.name, root / each.root, each.split) for each in data.sets)
    return ImageSets(tuple(each[: data.limit] for each in loaded))
