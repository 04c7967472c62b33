from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fmbseg.pseudo.tables import (
    DETECTIONS_SCHEMA,
    MASKS_SCHEMA,
    StoredMasks,
    encode_masks,
    rows_by_image,
    write_table,
)


def test_run_lengths_keep_every_pixel() -> None:
    masks = np.random.default_rng(0).random((6, 17, 23)) < 0.5
    masks[0], masks[1] = False, True
    codes = encode_masks(masks)
    rows = [
        {"rle": code, "height": 17, "width": 23, "area": int(mask.sum())}
        for code, mask in zip(codes, masks, strict=True)
    ]
    stored = StoredMasks(rows)
    assert len(stored) == 6
    assert all(np.array_equal(stored[index], masks[index]) for index in range(6))
    assert stored[0].dtype == np.bool_
    assert stored.areas.tolist() == masks.sum((1, 2)).tolist()
    assert encode_masks(masks[:0]) == []


def test_rows_of_some_images_are_read(tmp_path: Path) -> None:
    rows = [
        {
            "image_id": f"i{image}",
            "vocabulary": "coco_stuff",
            "class_index": index,
            "class_name": "dog",
            "votes": 1,
            "similarity": 0.5,
            "points": [1.0, 2.0],
        }
        for image in (3, 1, 2)
        for index in range(image)
    ]
    write_table(tmp_path / "t.parquet", rows, DETECTIONS_SCHEMA)
    found = rows_by_image(tmp_path / "t.parquet", ["i1", "i3", "i9"])
    assert {image: [row["class_index"] for row in of] for image, of in found.items()} == {
        "i1": [0],
        "i3": [0, 1, 2],
        "i9": [],
    }
    assert rows_by_image(tmp_path / "t.parquet", []) == {}


def test_a_table_without_rows_keeps_its_schema(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [], MASKS_SCHEMA)
    assert pq.read_schema(tmp_path / "t.parquet").equals(MASKS_SCHEMA)
    assert rows_by_image(tmp_path / "t.parquet", ["a"]) == {"a": []}
