"""Going over the pictures of a labelled set once, and noting what speaks for and against masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.export.source import NOTHING, LabelledImage, Source
from fmbseg.inference.segmenter import Segmenter
from fmbseg.machine.progress import Progress
from fmbseg.models.backbone import Backbone, image_features
from fmbseg.pseudo.classification import mask_features
from fmbseg.pseudo.tables import rows_by_image
from fmbseg.review.painting import Painting, Row, painting
from fmbseg.review.signals import Masks

_CHUNK = 64
_SIDE = 16  # of the picture that two pictures are compared by, and one column more


@dataclass(frozen=True)
class Watcher:
    """The models that look at the labels.

    Attributes:
        words: the vocabulary of the labels.
        segmenter: a trained head; None: there is none.
        encoder: frozen; None: there is none.
        short_side: of pictures that the encoder sees, pixels.
    """

    words: Vocabulary
    segmenter: Segmenter | None = None
    encoder: Backbone | None = None
    short_side: int = 0


@dataclass(frozen=True)
class Collected:
    """What was noted.

    Attributes:
        images: the pictures that were looked at; those that people have corrected are left out.
        masks: their painted masks; `Masks.image` counts `images`.
        unlabelled: [n] share of each picture's pixels without a label.
        pixels: [n] of each picture.
        signatures: [n, 256] bool, near-duplicates differ in few places.
        corrected: pictures that were left out.
    """

    images: tuple[LabelledImage, ...]
    masks: Masks
    unlabelled: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.int64]
    signatures: npt.NDArray[np.bool_]
    corrected: int


def collect(source: Source, watcher: Watcher, config: Config, progress: Progress) -> Collected:
    """Look at every picture that nobody has corrected.

    Args:
        source: labels of stage 1, with their table of masks.
        watcher: who looks.
        config: its section label says which masks were painted. Those of which less is visible
            than `masks.min_area` are left out: a speck is not worth a person's time.
        progress: advanced by pictures.

    Raises:
        DataError: the source has no masks, a picture is broken, or the labels are not what the
            masks give with this configuration.
    """
    if source.scores is None:
        raise DataError(
            "there are no masks to review: give what `fmbseg run label` or `fmbseg label` wrote"
        )
    masks = Masks()
    images = tuple(image for image in source.images if image.machine_path is None)
    unlabelled, pixels, signatures = [], [], []
    with progress.task("review", len(images)) as task:
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK]
            rows = rows_by_image(source.scores, [image.image_id for image in part])
            for number, image in enumerate(part, start):
                own = [r for r in rows[image.image_id] if source.words in (None, r["vocabulary"])]
                painted, label = repainted(image, own, source, config)
                picture = read_image(image.path)
                _look(masks, number, painted, picture, watcher, config.masks.min_area)
                unlabelled.append(float((label == NOTHING).mean()))
                pixels.append(label.size)
                signatures.append(signature(picture))
                task.advance()
    return Collected(
        images,
        masks,
        np.array(unlabelled),
        np.array(pixels, dtype=np.int64),
        np.array(signatures, dtype=np.bool_).reshape(len(images), -1),
        len(source.images) - len(images),
    )


def repainted(
    image: LabelledImage, rows: Sequence[Row], source: Source, config: Config
) -> tuple[Painting, npt.NDArray[np.int32]]:
    """A picture's label map taken apart, and the map itself; raises DataError as `collect`."""
    label = image.label(source.classes)
    least = None if source.vocabulary is None else source.vocabulary.thresholds
    painted = painting(rows, config.label, (label.shape[0], label.shape[1]), least)
    if (painted.label != label).any():
        raise DataError(
            f"{image.label_path} is not what its masks give with these parameters (section label): "
            "give those it was made with, or import it as a correction if it was edited"
        )
    return painted, label


def signature(picture: Image.Image) -> npt.NDArray[np.bool_]:
    """[256] bool: where it grows darker from cell to cell of a coarse grid (a difference hash)."""
    small = picture.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    return (grey[:, 1:] < grey[:, :-1]).reshape(-1)


def _look(
    masks: Masks,
    number: int,
    painted: Painting,
    picture: Image.Image,
    watcher: Watcher,
    min_area: float,
) -> None:
    visible = painted.visible(min_area)
    if not visible:
        return
    said = None
    if watcher.segmenter is not None:
        said = watcher.segmenter.predict(picture, vocabulary=watcher.words).label_map
    if watcher.encoder is not None:
        dense = image_features(picture, watcher.short_side, watcher.encoder).cpu().numpy()
        masks.features += list(mask_features(dense, list(visible.values())))
    for index, where in visible.items():
        row = painted.rows[index]
        masks.image.append(number)
        masks.mask_id.append(row["mask_id"])
        masks.source.append(row["source"])
        masks.classes.append(row["class_index"])
        masks.pixels.append(int(np.count_nonzero(where)))
        masks.similarity.append(row["similarity"])
        masks.margin.append(np.nan if row.get("margin") is None else row["margin"])
        masks.sources.append(painted.disagreement(index, where))
        masks.head.append(np.nan if said is None else _other(said[where], row["class_index"]))
        masks.head_says.append(row["class_index"] if said is None else _most(said[where]))


def _other(values: npt.NDArray[np.int64], index: int) -> float:
    return float((values != index).mean())


def _most(values: npt.NDArray[np.int64]) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])
