"""Tiles: a single one is the whole picture, several are averaged as plain loops average them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fmbseg.config import InferenceSection, RunSection
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.errors import ConfigError, DataError
from fmbseg.inference import tiles
from fmbseg.inference.decision import confidence, decide
from fmbseg.inference.maps import Maps
from fmbseg.inference.presence import of_present
from fmbseg.inference.segmenter import Segmenter, load_segmenter
from fmbseg.inference.tiles import Tiling, line_of_tiles, segment_tiles
from tests.heads import write_head
from tests.workspace import draw_picture

CPU = RunSection(device="cpu", threads=1)
RULES = [
    InferenceSection(short_side=64),
    InferenceSection(short_side=64, shifts=2, min_region=0.02, background_threshold=0.5),
    InferenceSection(short_side=64, background_rule="constant", background_score=0.1),
    InferenceSection(short_side=64, background_rule="words"),
]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles") / "head"
    write_head(folder, 0)
    return folder


def asked(head: Path, section: InferenceSection) -> Segmenter:
    return load_segmenter(head, section, CPU)


@pytest.mark.parametrize("rule", range(len(RULES)))
@pytest.mark.parametrize("words", ["voc21", "voc20"])
def test_one_tile_gives_what_the_whole_picture_gives(head: Path, rule: int, words: str) -> None:
    segmenter, vocabulary = asked(head, RULES[rule]), load_vocabulary(words)
    picture = draw_picture(3, (150, 101))
    ((maps, plain),) = segmenter.segment([picture], vocabulary)
    for side in (150, 4000):
        found = segmenter.tiled(picture, vocabulary, Tiling.of(side))
        np.testing.assert_array_equal(found.label, plain.labels)
        sure = confidence(maps, plain, RULES[rule])
        np.testing.assert_array_equal(found.confidence, sure)


def weight(position: int, side: int, overlap: int, first: bool, last: bool) -> float:
    """Of a pixel of a tile, before all tiles' weights are scaled to add up to 1."""
    near = position if position < side / 2 else side - 1 - position
    if (first and position < side // 2) or (last and position >= side - side // 2):
        return 1.0
    return min(1.0, (near + 0.5) / max(1, overlap))


@pytest.mark.parametrize(
    ("size", "tiling"),
    [((190, 130), Tiling(64, 16)), ((140, 64), Tiling(64, 0)), ((75, 200), Tiling(70, 35))],
)
def test_tiles_are_averaged_as_plain_loops_do(
    size: tuple[int, int], tiling: Tiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with bands of one row, and with classes that some tiles do not ask for."""
    words = vocabulary_from_names(["dog", "cat", "grass", "sky"])
    section = InferenceSection(logit_scale=10, min_region=0.15)
    width, height = size
    generator = torch.Generator().manual_seed(0)
    seen: list[torch.Tensor] = []

    def compare(cut: list[Image.Image]) -> list[Maps]:
        made = [F.avg_pool2d(torch.randn(4, 9, 9, generator=generator), 3, 1) for _ in cut]
        seen.extend(made)
        return [Maps(each, torch.arange(4)) for each in made]

    monkeypatch.setattr(tiles, "_BAND_ELEMENTS", 4 * width)
    image = draw_picture(0, size)
    found = segment_tiles(image, tiling, compare, words, section)

    down, across = (line_of_tiles(length, tiling).starts for length in (height, width))
    high, wide = min(tiling.side, height), min(tiling.side, width)
    assert len(seen) == len(down) * len(across) > 1
    grid = np.array(range(len(seen))).reshape(len(down), len(across))
    kept = [
        set(
            of_present(Maps(each, torch.arange(4)), 0.15)
            .values.amax((1, 2))
            .gt(-1)
            .nonzero()[:, 0]
            .tolist()
        )
        for each in seen
    ]
    total, counted = np.zeros((4, height, width)), np.zeros((height, width))
    for (i, top), (j, left) in [(a, b) for a in enumerate(down) for b in enumerate(across)]:
        maps = F.interpolate(seen[grid[i, j]][None], (high, wide), mode="bilinear")[0].numpy()
        near = grid[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].ravel()
        absent = sorted(set(range(4)) - set.union(*(kept[k] for k in near)))
        maps[absent] = -1
        for y in range(high):
            for x in range(wide):
                share = weight(y, high, tiling.overlap, i == 0, i == len(down) - 1)
                share *= weight(x, wide, tiling.overlap, j == 0, j == len(across) - 1)
                total[:, top + y, left + x] += share * maps[:, y, x]
                counted[top + y, left + x] += share
    expected = Maps(torch.from_numpy(total / counted).float(), torch.arange(4))
    decision = decide(expected, (height, width), words, section)
    close = np.partition(expected.values.numpy(), -2, axis=0)
    certain = close[-1] - close[-2] > 1e-4
    assert certain.mean() > 0.99 and len(np.unique(decision.labels)) > 1
    np.testing.assert_array_equal(found.label[certain], decision.labels[certain])
    sure = confidence(expected, decision, section)
    np.testing.assert_allclose(found.confidence[certain], sure[certain], atol=1e-5)


@pytest.mark.parametrize("length", [31, 64, 65, 111, 112, 113, 1000])
def test_weights_of_all_tiles_add_up_to_one(length: int) -> None:
    line = line_of_tiles(length, Tiling(64, 16))
    total = np.zeros(length)
    for start, weights in zip(line.starts, line.weights, strict=True):
        total[start : start + line.side] += weights.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    # Of two tiles that overlap as asked one fades as the other comes up.
    if length == 1000:
        np.testing.assert_allclose(line.weights[1, :16].numpy(), (np.arange(16) + 0.5) / 16)


def test_what_cannot_go_by_tiles_is_said(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, words = draw_picture(0, (150, 90)), ["dog", "sky"]
    windows = asked(head, InferenceSection(protocol="tcl"))
    with pytest.raises(ConfigError, match="windows of its own: leave out --tile"):
        windows.predict_tiled(picture, 64, words)
    plain = asked(head, RULES[0])
    with pytest.raises(ConfigError, match="tiles of 8 px: give at least 32"):
        plain.predict_tiled(picture, 8, words)
    with pytest.raises(ConfigError, match="give 0 to 32 px"):
        Tiling(64, 40)
    monkeypatch.setattr(tiles, "_ROW_ELEMENTS", 100)
    with pytest.raises(ConfigError, match="2 classes in 3 tiles a row"):
        plain.predict_tiled(picture, 64, words)


def test_python_gives_labels_at_the_pictures_own_size(head: Path, tmp_path: Path) -> None:
    picture = draw_picture(5, (300, 180))
    picture.save(tmp_path / "one.png")
    segmenter = asked(head, RULES[1])
    found = segmenter.predict_tiled(tmp_path / "one.png", 64, ["dog", "cat", "sky"])
    assert found.label_map.shape == found.confidence.shape == (180, 300)
    assert (found.label_map.dtype, found.confidence.dtype) == (np.uint8, np.float32)
    assert found.classes == ("dog", "cat", "sky") and found.label_map.max() <= 2
    assert 0 <= found.confidence.min() <= found.confidence.max() <= 1
    again = segmenter.predict_tiled(
        np.asarray(picture), 64, vocabulary=vocabulary_from_names(["dog", "cat", "sky"])
    )
    np.testing.assert_array_equal(again.label_map, found.label_map)


def test_a_picture_too_large_for_one_look_is_read_for_tiles(head: Path, tmp_path: Path) -> None:
    """50 megapixels without tiles; and Pillow's own doubt is no line on stderr."""
    Image.new("1", (9500, 9500)).save(tmp_path / "large.png")
    segmenter = asked(head, RULES[0])
    with pytest.raises(DataError, match="at most 50 megapixels are read"):
        segmenter.predict(tmp_path / "large.png", ["dog", "sky"])
    Image.new("1", (14000, 13000)).save(tmp_path / "larger.png")
    with pytest.raises(DataError, match="megapixels are read"):
        segmenter.predict_tiled(tmp_path / "larger.png", 512, ["dog", "sky"])


_MEASURE = """
import resource, sys
from PIL import Image
from fmbseg.config import InferenceSection, RunSection
from fmbseg.inference.segmenter import load_segmenter
head, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
section = InferenceSection(short_side=64, shifts=1, min_region=0.02)
segmenter = load_segmenter(head, section, RunSection(device="cpu", threads=1))
segmenter.predict_tiled(Image.radial_gradient("L").resize((300, 300)), 200, vocabulary="voc21")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = Image.radial_gradient("L").resize((width, height)).convert("RGB")
found = segmenter.predict_tiled(picture, 500, vocabulary="voc21")
assert found.label_map.shape == (height, width)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_is_a_few_bytes_a_pixel(head: Path) -> None:
    """All similarities would be 2.3 GB; what is held is the picture and its answer."""
    width, height = 6000, 4500
    command = [sys.executable, "-c", _MEASURE, str(head), str(width), str(height)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    taken = float(done.stdout) * 2**20
    # Picture 4 bytes a pixel and once more as it is made, label 1, confidence 4; a band: 300 MB.
    assert taken < 13 * width * height + 300 * 2**20, taken / 2**20
