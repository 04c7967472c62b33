"""A finer grid by moving the picture: held against each move made by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg.config import InferenceSection
from fmbseg.deploy.graph import SegmenterGraph, traced
from fmbseg.deploy.onnx_file import onnx_file, open_session
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.inference.shifts import offsets, shifted
from tests.heads import write_head

PATCH = 8


def mean_of_patches(pixels: torch.Tensor) -> torch.Tensor:
    """[N, H, W, 3] -> the mean colour of each patch, [N, h, w, 3]."""
    cells = pixels.float().unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH))
    return cells.mean(dim=(2, 4))


@pytest.mark.parametrize("shifts", [1, 2, 3, 4])
def test_each_cell_is_the_patch_of_the_moved_picture(shifts: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    found = shifted(mean_of_patches, torch.from_numpy(pixels), PATCH, shifts)
    assert found.shape == (2, 2 * shifts, 3 * shifts, 3)
    moves, edge = offsets(PATCH, shifts), PATCH
    wide = np.pad(pixels, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="edge")
    for image in range(2):
        for row in range(2 * shifts):
            for column in range(3 * shifts):
                top = edge + row // shifts * PATCH + moves[row % shifts]
                left = edge + column // shifts * PATCH + moves[column % shifts]
                patch = wide[image, top : top + PATCH, left : left + PATCH].astype(np.float64)
                wanted = patch.mean(axis=(0, 1))
                np.testing.assert_allclose(found[image, row, column], wanted, atol=1e-4)


def test_cells_lie_in_the_order_of_their_centres() -> None:
    ramp = torch.arange(48, dtype=torch.uint8)[None, :, None, None].expand(1, 48, 48, 3)
    found = shifted(mean_of_patches, ramp, PATCH, 2)[0, :, 0, 0]
    # The first and the last see the border's pixels twice; between them steps of half a patch.
    torch.testing.assert_close(found[1:-1].diff(), torch.full((9,), PATCH / 2))


def test_a_segmenter_answers_on_the_finer_grid(tmp_path: Path) -> None:
    write_head(tmp_path / "head", 0)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8))
    plain, fine = (
        load_segmenter(
            tmp_path / "head",
            InferenceSection(short_side=64, shifts=shifts),
        ).predict(image, classes=["dog", "cat"])
        for shifts in (1, 3)
    )
    rows, columns = plain.maps.values.shape[1:]
    assert fine.maps.values.shape == (2, 3 * rows, 3 * columns)
    # The middle one of three moves is none.
    torch.testing.assert_close(
        fine.maps.values[:, 1::3, 1::3], plain.maps.values, atol=1e-5, rtol=0
    )


def test_an_exported_graph_moves_the_picture_too(tmp_path: Path) -> None:
    write_head(tmp_path / "head", 0)
    asked = InferenceSection(short_side=64, shifts=2)
    segmenter = load_segmenter(tmp_path / "head", asked)
    words = segmenter.checkpoint.info.vocabularies[0]
    text = segmenter.text(words).queries
    head = segmenter.checkpoint.head
    graph = SegmenterGraph(segmenter.backbone, head, segmenter.projection(words), asked.shifts)
    session = open_session(onnx_file(traced(graph, PATCH, text.shape[1]), {}))
    for size in ((64, 88), (72, 64)):
        pixels = np.random.default_rng(2).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        (found,) = session.run(None, {"pixels": pixels, "text": text.numpy()})
        patches = segmenter.encoder(words).embed(pixels)
        wanted = (patches @ text.T).permute(0, 3, 1, 2)
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
