from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.data.palette import palette as class_colours
from fmbseg.errors import DataError
from fmbseg.pseudo.labels import load_label, save_label
from fmbseg.pseudo.pipeline import compose
from fmbseg.pseudo.tables import StoredMasks, encode_masks

NONE = np.zeros((0, 6, 8), dtype=bool)
NO_CLASS = np.zeros(0, dtype=np.int64)


def by_loop(
    query_masks: np.ndarray,
    query_classes: np.ndarray,
    masks: np.ndarray,
    mask_classes: np.ndarray,
) -> np.ndarray:
    """Per pixel: the smallest automatic mask over it, else the smallest query mask, else 255."""
    height, width = query_masks.shape[1:]
    label = np.full((height, width), 255, dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            for layer, classes in ((query_masks, query_classes), (masks, mask_classes)):
                over = [
                    (int(layer[m].sum()), -m)
                    for m in range(len(layer))
                    if layer[m, y, x] and classes[m] != 255
                ]
                if over:
                    label[y, x] = classes[-min(over)[1]]
    return label


def test_composition_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        query_masks, masks = rng.random((3, 6, 8)) < 0.4, rng.random((5, 6, 8)) < 0.25
        query_classes = rng.integers(0, 9, 3)
        mask_classes = np.where(rng.random(5) < 0.2, 255, rng.integers(0, 9, 5))
        label = compose(query_masks, query_classes, masks, mask_classes, (6, 8))
        assert label.dtype == np.uint8
        assert np.array_equal(label, by_loop(query_masks, query_classes, masks, mask_classes))
        rows = [
            {"rle": code, "height": 6, "width": 8, "area": int(mask.sum())}
            for code, mask in zip(encode_masks(masks), masks, strict=True)
        ]
        stored = StoredMasks(rows)
        again = compose(query_masks, query_classes, stored, mask_classes, (6, 8))
        assert np.array_equal(label, again)


def test_a_large_automatic_mask_covers_a_small_query_mask() -> None:
    small, large = np.zeros((1, 6, 8), dtype=bool), np.zeros((1, 6, 8), dtype=bool)
    small[0, 2, 2] = large[0, 1:5, 1:5] = True
    label = compose(small, np.array([4]), large, np.array([7]), (6, 8))
    assert label[2, 2] == 7
    assert label[0, 0] == 255


def test_of_masks_of_one_size_the_later_lies_on_top() -> None:
    """Many, of three sizes: an order that is not stable shows."""
    rng = np.random.default_rng(0)
    masks, classes = np.zeros((200, 6, 8), dtype=bool), np.arange(200)
    for mask in masks:
        row, height = rng.integers(0, 4), rng.integers(1, 4)
        mask[row : row + height, :4] = True
    label = compose(NONE, NO_CLASS, masks, classes, (6, 8))
    assert np.array_equal(label, by_loop(NONE, NO_CLASS, masks, classes))


def test_no_mask_leaves_everything_unlabelled() -> None:
    assert (compose(NONE, NO_CLASS, NONE, NO_CLASS, (6, 8)) == 255).all()


def test_label_file_keeps_indices_and_has_colours(tmp_path: Path) -> None:
    label = np.arange(256, dtype=np.uint8).reshape(8, 32)
    path = tmp_path / "deep" / "x.png"
    save_label(path, label)
    assert np.array_equal(load_label(path), label)
    with Image.open(path) as image:
        assert image.mode == "P"
        palette = np.array(image.getpalette()).reshape(-1, 3)
        assert len(np.unique(palette, axis=0)) > 250
        assert palette[255].tolist() == [255, 255, 255]
        assert (palette[:255] == class_colours(255)).all()  # those of the overlays
    assert [entry.name for entry in path.parent.iterdir()] == ["x.png"]
    before = path.read_bytes()
    save_label(path, label)
    assert path.read_bytes() == before


def test_broken_label_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_label(tmp_path / "missing.png")
    save_label(tmp_path / "cut.png", np.zeros((64, 64), dtype=np.uint8))
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.png is broken"):
        load_label(tmp_path / "cut.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"rgb\.png is a colour picture.*fmbseg run label"):
        load_label(tmp_path / "rgb.png")
