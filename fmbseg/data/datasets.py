"""Benchmarks and image folders as sequences of samples.

What differs between data sets is data (`layouts.py`); the code here is the same for all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.detail import load_detail
from fmbseg.data.folder import LeftOut
from fmbseg.data.images import read_annotation, read_image, upright_size
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.layouts import (
    DETAIL_FILE,
    LAYOUTS,
    OWN_CLASSES,
    OWN_VOCABULARY,
    UNEXPECTED,
    Annotation,
    DatasetLayout,
)
from fmbseg.data.listing import ImageFile, list_images
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image with its truth. Files are read at each access, nothing is kept.

    Attributes:
        image_id: unique in the split, contains the image file's stem.
        image_path: the image file.
        num_classes: number of classes its truth may hold; 0: the split has no truth.
    """

    image_id: str
    image_path: Path
    num_classes: int
    _stem: str
    # Where its annotation may lie, in order of preference.
    _candidates: tuple[tuple[Path, Annotation], ...]

    @property
    def image(self) -> Image.Image:
        """RGB, upright. Raises DataError when the file is broken."""
        return read_image(self.image_path)

    @property
    def annotation_path(self) -> Path | None:
        """The annotation file; None: there is none."""
        return next((path for path, _ in self._candidates if path.is_file()), None)

    @property
    def expected_annotation(self) -> Path | None:
        """Where the annotation is looked for first; None: the split has no truth."""
        return self._candidates[0][0] if self._candidates else None

    @property
    def label(self) -> npt.NDArray[np.int64] | None:
        """Truth `[H, W] int64`: class index in the vocabulary, 255 = ignored; None: no truth.

        Raises:
            DataError: the annotation is missing though others of the split are there, is broken,
                of another size than the image, or holds a value that its encoding does not have.
        """
        if not self._candidates:
            return None
        path = self.annotation_path
        if path is None:
            raise DataError(
                f"{self.image_path} has no annotation, expected {_either(self._candidates)}"
            )
        # One JSON file holds the masks of all images, and gives them as the pictures would.
        together = path.name == DETAIL_FILE
        values = load_detail(path).mask(self._stem) if together else read_annotation(path)
        (width, height), hidden = upright_size(self.image_path)
        if values.shape != (height, width):
            raise DataError(
                f"{path} is {values.shape[1]} x {values.shape[0]} px, expected the size "
                f"of its image {self.image_path.name}, {width} x {height} px"
            )
        if hidden:
            _log.warning(
                "%s is turned by its EXIF orientation, and %s is taken to be turned already: its "
                "size cannot tell",
                self.image_path,
                path,
            )
        annotation = dict(self._candidates)[path]
        label = annotation.table(self.num_classes)[values]
        if (label == UNEXPECTED).any():
            unexpected = ", ".join(str(value) for value in np.unique(values[label == UNEXPECTED]))
            raise DataError(
                f"{path} holds the value {unexpected}, expected {annotation.encoding}: "
                "is it of another data set or encoding?"
            )
        return label.astype(np.int64)


class SegmentationDataset(Sequence[Sample]):
    """One split of a data set. A slice is a data set again.

    Attributes:
        name: of the data set.
        root: its folder.
        split: name of the split.
        unusable: files that should be images of the split and cannot be.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        files: Sequence[ImageFile],
        unusable: Sequence[LeftOut] = (),
        num_classes: int | None = None,
    ) -> None:
        """Use `load_dataset`, which checks its arguments.

        Args:
            name: see the attributes.
            root: see the attributes.
            split: see the attributes.
            files: the images.
            unusable: see the attributes.
            num_classes: of the label maps; None: the vocabulary's.
        """
        self.unusable = tuple(unusable)
        self._own_num_classes = num_classes
        self.name = name
        self.root = root
        self.split = split
        self._layout = LAYOUTS[name]
        self._files = tuple(files)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SegmentationDataset: ...
    def __getitem__(self, index: int | slice) -> Sample | SegmentationDataset:
        """Give one sample, or the data set of a slice."""
        if isinstance(index, slice):
            return self._with(self._files[index], self.unusable)
        file = self._files[index]
        classes = self._num_classes if self.has_labels else 0
        candidates = self._candidates(file) if self.has_labels else ()
        return Sample(file.image_id, file.path, classes, file.fields["stem"], candidates)

    @property
    def image_files(self) -> list[tuple[str, Path]]:
        """`(image_id, path)` of all images, in order; no annotation is looked at."""
        return [(file.image_id, file.path) for file in self._files]

    @cached_property
    def has_labels(self) -> bool:
        """Whether at least one image of the split has an annotation."""
        return any(path.is_file() for file in self._files for path, _ in self._candidates(file))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The data set's own classes, in the order of its label values.

        Raises:
            DataError: a folder without `vocabulary.yaml` or `classes.txt`.
            VocabularyError: that file is not a vocabulary.
        """
        return own_vocabulary(self.name, self.root)

    def of(self, image_ids: Set[str]) -> SegmentationDataset:
        """The samples of some ids, in the same order; what is unusable is left out for good."""
        kept = [file for file in self._files if file.image_id in image_ids]
        return self._with(kept, ())

    def require_labels(self) -> None:
        """Raise DataError if the split has no truth at all, or lacks images that it should have.

        A score of the images that are left would be another one.
        """
        if self.unusable:
            raise DataError(
                f"{self.name}: {len(self.unusable)} images of split {self.split!r} cannot be "
                f"scored, the first: {self.unusable[0]}"
            )
        if not self.has_labels:
            examples = [_either(self._candidates(file)) for file in self._files[:1]]
            raise DataError(
                f"{self.name}: no image of split {self.split!r} has an annotation, expected for "
                f"example {', '.join(examples)}"
            )

    def _with(self, files: Sequence[ImageFile], unusable: Sequence[LeftOut]) -> SegmentationDataset:
        return SegmentationDataset(
            self.name, self.root, self.split, files, unusable, self._own_num_classes
        )

    def _candidates(self, file: ImageFile) -> tuple[tuple[Path, Annotation], ...]:
        return tuple(
            (_any_case(self.root / entry.pattern.format_map(file.fields)), entry)
            for entry in self._layout.annotations
        )

    @cached_property
    def _num_classes(self) -> int:
        if self._own_num_classes is not None:
            return self._own_num_classes
        try:
            return len(self.vocabulary)
        except DataError:
            # A folder may have label maps and no vocabulary yet: any index is taken as it is.
            return UNLABELLED


def load_dataset(name: str, root: str | Path, split: str | None = None) -> SegmentationDataset:
    """Open one split of a data set; images and annotations are read sample by sample later.

    Args:
        name: one of `fmbseg.data.layouts.LAYOUTS`.
        root: the data set's folder, as its layout record says.
        split: None: the split the benchmark is scored on.

    Raises:
        DataError: unknown name, or root, split or an image is not where the layout has it.
    """
    layout = dataset_layout(name)
    root, split = Path(root), split or layout.splits[0]
    if layout.splits == ("all",) and split != "all":
        raise DataError(f"{name} has no split {split!r}: it is not divided, use the split 'all'")
    listing = list_images(name, layout, root, split)
    return SegmentationDataset(name, root, split, listing.files, listing.unusable)


def own_vocabulary(name: str, root: Path) -> Vocabulary:
    """A data set's own classes, in the order of its label values.

    Raises:
        DataError: a folder without `vocabulary.yaml` or `classes.txt`.
        VocabularyError: that file is not a vocabulary, or one of more than 255 classes.
    """
    layout = dataset_layout(name)
    if layout.vocabulary is not None:
        return load_vocabulary(layout.vocabulary)
    for file in (OWN_VOCABULARY, OWN_CLASSES):
        if (root / file).is_file():
            return load_vocabulary(root / file).require_small()
    raise DataError(
        f"{name}: {root / OWN_VOCABULARY} does not exist, nor {OWN_CLASSES}: write one (a class "
        "name a line), or name a vocabulary instead (data.vocabulary)"
    )


def dataset_layout(name: str) -> DatasetLayout:
    """The layout record of a data set; raises DataError for an unknown name."""
    if name not in LAYOUTS:
        raise DataError(f"no data set {name!r}: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _any_case(path: Path) -> Path:
    """The path, with an upper-case suffix where that alone is there."""
    upper = path.with_suffix(path.suffix.upper())
    return upper if not path.is_file() and upper.is_file() else path


def _either(candidates: Sequence[tuple[Path, Annotation]]) -> str:
    return " or ".join(str(path) for path, _ in candidates)
