"""Tables of stage 1 (parquet): detections, and masks as COCO compressed run lengths."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pycocotools import mask as coco

if TYPE_CHECKING:  # it brings torch, which who only reads tables does not need
    from fmbseg.data.vocabulary import Vocabulary
    from fmbseg.pseudo.detection import Detections

Row = Mapping[str, Any]

DETECTIONS = "detections.parquet"
MASKS = "masks.parquet"
_ROWS_A_GROUP = 4096

DETECTIONS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("vocabulary", pa.string(), nullable=False),
        pa.field("class_index", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("votes", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        # x, y, x, y, ... in pixels of the original image, the most similar patch first.
        pa.field("points", pa.list_(pa.float32()), nullable=False),
    ]
)

MASKS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("mask_id", pa.int32(), nullable=False),
        pa.field("rle", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("predicted_iou", pa.float32()),  # none: a person drew it
        pa.field("stability", pa.float32()),
        pa.field("source", pa.string(), nullable=False),  # query, automatic or person
        pa.field("vocabulary", pa.string()),
        pa.field("class_index", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("similarity", pa.float32()),
        pa.field("margin", pa.float32()),  # see `fmbseg.pseudo.classification.margins`
    ]
)
PERSON = "person"
"""The source of a region that a person has corrected."""


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[str]:
    """COCO compressed run lengths of masks [M, H, W] bool."""
    codes: list[str] = []
    for mask in masks:
        # Run lengths go down the columns; OpenCV transposes 20 times as fast as numpy.
        code = coco.encode(cv2.transpose(mask.view(np.uint8)).T)
        codes.append(code["counts"].decode("ascii"))
    return codes


def decode_mask(row: Row) -> npt.NDArray[np.bool_]:
    """The mask [H, W] bool of one row of a masks table."""
    code = {"size": [row["height"], row["width"]], "counts": row["rle"].encode("ascii")}
    mask: npt.NDArray[np.uint8] = coco.decode(code)
    return cv2.transpose(mask.T).view(np.bool_)


def detection_rows(
    image_id: str,
    words: Vocabulary,
    found: Detections,
    points: npt.NDArray[np.float32],
) -> list[dict[str, Any]]:
    """Rows of an image's classes detected in a vocabulary.

    Args:
        image_id: of the image.
        words: the vocabulary.
        found: the c detected classes.
        points: [c, P, 2], see `query_points`.
    """
    return [
        {
            "image_id": image_id,
            "vocabulary": words.name,
            "class_index": int(index),
            "class_name": words.names[index],
            "votes": int(found.votes[row]),
            "similarity": float(found.similarity[row]),
            "points": points[row].reshape(-1).tolist(),
        }
        for row, index in enumerate(found.classes)
    ]


def mask_rows(
    image_id: str,
    source: str,
    found: npt.NDArray[np.bool_],
    iou: npt.NDArray[np.float32],
    stability: npt.NDArray[np.float32] | None = None,
) -> list[dict[str, Any]]:
    """Rows of an image's masks [M, H, W], without class; `iou` and `stability` are [M]."""
    return [
        {
            "image_id": image_id,
            "mask_id": index,
            "rle": code,
            "height": found.shape[1],
            "width": found.shape[2],
            "area": int(np.count_nonzero(found[index])),
            "predicted_iou": float(iou[index]),
            "stability": None if stability is None else float(stability[index]),
            "source": source,
        }
        for index, code in enumerate(encode_masks(found))
    ]


def known(value: np.floating[Any]) -> float | None:
    """A number as a table has it: none in place of NaN."""
    return None if np.isnan(value) else float(value)


def is_labelled(row: Row, min_similarity: float, least: Sequence[float] | None) -> bool:
    """Whether the mask of a row is as similar to its class as a label has to be.

    Args:
        row: of a masks table.
        min_similarity: of all classes.
        least: [K] the classes' own, see `Vocabulary.thresholds`; None: they have none.
    """
    index, value = row.get("class_index"), row.get("similarity")
    if index is None or value is None:
        return False
    return bool(value >= (min_similarity if least is None else max(min_similarity, least[index])))


class StoredMasks(Sequence[npt.NDArray[np.bool_]]):
    """Masks of table rows, decoded when asked for: hundreds of a large image fit in memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        """Number of masks."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """The mask [H, W] bool of a row."""
        return decode_mask(self._rows[index])

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """[M] pixels of each mask."""
        return np.array([row["area"] for row in self._rows], dtype=np.int64)


def write_table(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write rows (possibly none) as parquet of the given schema."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")


class TableWriter:
    """A parquet file written bit by bit; used in a `with` block.

    Rows stand in groups of some thousand, so that `rows_by_image` need not read them all.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[Row] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._rows or not error[0]:
            self._write()
        self._writer.close()

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._rows += rows
        if len(self._rows) >= _ROWS_A_GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def rows_by_image(path: Path, image_ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of some images, in the table's order; images without rows have an empty list.

    Only the row groups that may hold these images are read: a table of millions of masks stays
    on disk.
    """
    found: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    if not found:
        return found
    column = pc.field("image_id")
    wanted = (column >= min(found)) & (column <= max(found)) & column.isin(list(found))
    for row in pq.read_table(path, filters=wanted).to_pylist():
        found[row["image_id"]].append(row)
    return found
