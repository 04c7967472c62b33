"""The figures of `fmbseg models evaluate`: each measure against loops or a case done by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from fmbseg.config import Config, DetectionSection, parse_config
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.machine.progress import silent_progress
from fmbseg.models.clip import ClipEncoding, load_clip
from fmbseg.models.mask_model import PromptMasks
from fmbseg.models.sam import load_sam
from fmbseg.models.text import TextEmbeddings
from fmbseg.quality.clip import SeenScene, detection_figures, patch_figures
from fmbseg.quality.encoder import (
    NEIGHBOURS,
    clip_tokens,
    nearest_neighbours,
    probe_figures,
)
from fmbseg.quality.figures import held_out_scene
from fmbseg.quality.photos import (
    covering,
    drawn_regions,
    find_photos,
    grid_cells,
    photo_figures,
    superpixels,
)
from fmbseg.quality.probe import patch_truth
from fmbseg.quality.sam import (
    instance_masks,
    interior,
    most_confident,
    overlaps,
    random_points,
    tight_boxes,
)
from fmbseg.scenes.classes import CLASS_INDEX, SCENE_CLASSES, THING_CLASSES


def test_scenes_have_no_held_out_glyph_and_parts_share_none() -> None:
    pictures = []
    for part in ("scenes", "instances", "probe"):
        for index in range(4):
            scene = held_out_scene(part, index)
            assert not any(each.held_out for each in scene.objects)
            pictures.append(scene.image.tobytes())
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("grid", [(16, 16), (9, 5)])
def test_patch_truth_is_what_covers_most_of_a_patch(grid: tuple[int, int]) -> None:
    label = held_out_scene("scenes", 0).label
    majority, share = patch_truth(label, grid)
    # Each pixel cut into as many pieces as there are patches: each patch has whole pieces.
    pieces = label.repeat(grid[0], axis=0).repeat(grid[1], axis=1)
    for k, (i, j) in enumerate(np.ndindex(*grid)):
        patch = pieces[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
        counts = np.bincount(patch.ravel(), minlength=len(SCENE_CLASSES))
        assert counts.argmax() == majority[k]
        assert float(share[k]) == pytest.approx(counts.max() / counts.sum(), abs=1e-6)


# CLIP


def _seen(
    classes: dict[str, float], windows: list[list[float]], dense: list[list[float]]
) -> SeenScene:
    """A scene of one row of pure patches, one for each vector of `dense`, in order of `classes`."""
    share = np.zeros(len(SCENE_CLASSES))
    for name, part in classes.items():
        share[CLASS_INDEX[name]] = part
    majority = np.array([CLASS_INDEX[name] for name in classes])
    return SeenScene(
        share,
        majority,
        np.ones(len(majority), np.float32),
        ClipEncoding(np.array(windows, np.float16), np.array(dense, np.float16)[None]),
    )


def _axes(names: int, directions: dict[int, int]) -> TextEmbeddings:
    """Classes at the axes given, all others at the last axis, away from every image."""
    rows = torch.zeros(names, 5)
    rows[:, 4] = 1
    for index, axis in directions.items():
        rows[index] = torch.eye(5)[axis]
    return TextEmbeddings(rows, torch.arange(names), rows)


def test_detection_counts_by_hand() -> None:
    vocabulary = load_vocabulary("coco_stuff")
    cat, dog, car = (vocabulary.names.index(name) for name in ("cat", "dog", "car"))
    other = vocabulary.names.index("microwave")  # nothing drawn is one
    text = _axes(len(vocabulary), {cat: 0, dog: 1, car: 2, other: 3})
    seen = [
        # cat there and found; dog there and missed; microwave found and not there
        _seen({"cat": 0.5, "dog": 0.5}, [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]], [[1, 0, 0, 0, 0]] * 2),
        # dog there and found; cat found, but its piece is too small to count either way
        _seen({"dog": 0.5, "cat": 0.001}, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]], [[0] * 5] * 2),
        # car found and not there
        _seen({"cat": 0.9}, [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]], [[0] * 5]),
    ]
    config = Config(detection=DetectionSection(rule="similarity", min_similarity=0.5))
    figures, classes = detection_figures(seen, vocabulary, text, config, 0.005)
    assert classes == {
        "cat": {"recall": 100.0, "precision": 100.0, "there": 2, "detected": 2},
        "dog": {"recall": 50.0, "precision": 100.0, "there": 2, "detected": 1},
        "car": {"recall": None, "precision": 0.0, "there": 0, "detected": 1},
        "microwave": {"recall": None, "precision": 0.0, "there": 0, "detected": 1},
    }
    assert [(figure.value, figure.of) for figure in figures] == [
        (75.0, 2),
        (100.0, 2),
        (75.0, 4),
        (60.0, 5),
    ]
    # From more of the scene on, half a dog and half a cat count neither way.
    figures, classes = detection_figures(seen, vocabulary, text, config, 0.6)
    assert classes["cat"] == {"recall": 100.0, "precision": 100.0, "there": 1, "detected": 1}
    assert "dog" not in classes and "microwave" in classes
    assert figures[0].name.startswith("detection among 171 names, from 60.0 % of the scene: ")


def test_patches_are_counted_by_hand() -> None:
    names = [each.name for each in SCENE_CLASSES]
    vocabulary = vocabulary_from_names(names)
    stuff = SCENE_CLASSES[-1].name
    text = _axes(len(names), {names.index("cat"): 0, names.index("dog"): 1, names.index(stuff): 2})
    # The first patch is likest to dog, which is not in the scene.
    scene = _seen({"cat": 0.5, stuff: 0.5}, [[0] * 5], [[0.5, 0.6, 0, 0, 0], [0, 0, 1, 0, 0]])
    everything, things = patch_figures([scene], vocabulary, text, "all", Config())
    assert (everything.value, everything.of, things.value, things.of) == (50.0, 2, 0.0, 1)
    everything, things = patch_figures([scene], vocabulary, text, "present", Config())
    assert (everything.value, things.value) == (100.0, 100.0)
    mixed = SeenScene(scene.share, scene.majority, np.array([0.5, 0.6]), scene.encoding)
    assert patch_figures([mixed], vocabulary, text, "all", Config())[0].of == 1


# SAM


def test_overlaps_equal_loops() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((3, 7, 9)) < 0.5, rng.random((4, 7, 9)) < 0.3
    second[2] = first[1]
    found = overlaps(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert found[i, j] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    assert found[1, 2] == 1
    assert overlaps(np.zeros((0, 7, 9), bool), second).shape == (0, 4)


def test_prompts_lie_inside_instances_large_enough() -> None:
    instance = held_out_scene("instances", 1).instance.copy()
    instance[0, :3] = 77  # too small to be asked for
    masks = instance_masks(instance)
    assert len(masks) == len(np.unique(instance)) - 1
    rng = np.random.default_rng(0)
    for mask in masks:
        points = random_points(rng, mask, 5)
        assert len(np.unique(points, axis=0)) == 5
        columns, rows = np.floor(points).astype(int).T
        assert mask[rows, columns].all()


def test_the_interior_is_what_neighbours_enclose() -> None:
    rng = np.random.default_rng(4)
    for share in (0.9, 0.6, 0.1):
        mask = rng.random((9, 7)) < share
        mask[:4, :4] = share > 0.5
        wanted = np.zeros_like(mask)
        for row in range(9):
            for column in range(7):
                around = mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                wanted[row, column] = around.all()
        assert wanted.any() == (share > 0.5)
        np.testing.assert_array_equal(interior(mask), wanted if wanted.any() else mask)


def test_boxes_and_most_confident_masks_by_hand() -> None:
    truth = np.zeros((2, 6, 8), bool)
    truth[0, 1:3, 2:7] = True
    truth[1, 5, 0] = truth[1, 3, 4] = True
    np.testing.assert_array_equal(tight_boxes(truth), [[2, 1, 7, 3], [0, 3, 5, 6]])
    half = truth[0] & (np.arange(8) < 4)  # 4 of 10 pixels
    masks = np.stack([[truth[0], half, ~truth[0]], [~truth[1], ~truth[1], truth[1]]])
    confidence = np.array([[0.1, 0.9, 0.2], [0.0, 0.3, 0.5]], np.float32)
    assert most_confident(PromptMasks(masks, confidence), truth) == [pytest.approx(0.4), 1.0]


def test_covering_by_hand() -> None:
    regions = np.zeros((4, 4), int)
    regions[:, 3] = 1  # 12 and 4 pixels
    left = regions == 0
    assert covering(np.stack([left, ~left]), regions) == 1
    # The whole picture is the best segment of both: IoU 12/16 and 4/16.
    assert covering(np.ones((1, 4, 4), bool), regions) == pytest.approx((12 * 0.75 + 4 * 0.25) / 16)
    assert covering(np.zeros((0, 4, 4), bool), regions) == 0


def test_grid_cells_share_out_the_picture() -> None:
    cells = grid_cells(33, 50)
    assert cells.shape == (256, 33, 50)
    assert (cells.sum(axis=0) == 1).all()
    assert cells.any(axis=(1, 2)).all()


def test_superpixels_share_out_the_picture_along_its_edges() -> None:
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[:, 41:] = (200, 40, 40)
    segments = superpixels(picture)
    assert 32 <= len(segments) <= 96
    assert (segments.sum(axis=0) == 1).all()
    # No segment lies on both sides.
    assert not (segments[:, :, :41].any(axis=(1, 2)) & segments[:, :, 41:].any(axis=(1, 2))).any()


def test_without_scikit_image_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(DataError) as caught:
        find_photos(tmp_path)
    assert str(caught.value) == (
        "the table on BSDS500 needs scikit-image: pip install 'fmbseg[scenes]'"
    )


def test_bsds500_is_read_as_it_is_published(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 0 photos: give a folder of BSDS500"):
        find_photos(tmp_path)
    maps = [np.arange(6, dtype=np.uint16).reshape(2, 3), np.ones((2, 3), np.uint16)]
    people = np.empty((1, 2), object)
    for i, each in enumerate(maps):
        people[0, i] = {"Segmentation": each, "Boundaries": each > 0}
    savemat(tmp_path / "1.mat", {"groundTruth": people})
    for found, expected in zip(drawn_regions(tmp_path / "1.mat"), maps, strict=True):
        np.testing.assert_array_equal(found, expected)
    (tmp_path / "2.mat").write_bytes(b"no matrix at all")
    for name in ("2.mat", "3.mat"):
        with pytest.raises(DataError, match="no ground truth of BSDS500"):
            drawn_regions(tmp_path / name)


def test_photos_are_measured_beside_a_grid_and_superpixels(tmp_path: Path) -> None:
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "groundTruth" / "val").mkdir(parents=True)
    for index in range(21):
        scene = held_out_scene("instances", index)
        Image.fromarray(scene.image).save(tmp_path / "images" / "val" / f"{index:03d}.jpg")
        people = np.empty((1, 1), object)
        people[0, 0] = {"Segmentation": scene.instance.astype(np.uint16)}
        savemat(tmp_path / "groundTruth" / "val" / f"{index:03d}.mat", {"groundTruth": people})
    photos = find_photos(tmp_path)
    drawn = tmp_path / "groundTruth" / "val" / f"{photos[-1].stem}.mat"
    drawn.rename(tmp_path / "elsewhere.mat")
    with pytest.raises(DataError, match=f"{drawn.name} is missing: give a folder of BSDS500"):
        find_photos(tmp_path)
    (tmp_path / "elsewhere.mat").rename(drawn)
    assert [photo.stem for photo in photos] == [f"{index:03d}" for index in range(1, 21)]
    config = parse_config({"masks": {"points_per_side": 6, "min_predicted_iou": 0.5}})
    figures = photo_figures(load_sam("tiny-sam"), config, photos[:2], silent_progress())
    assert [(figure.name, figure.of) for figure in figures] == [
        ("BSDS500: covering by automatic masks", 2),
        ("BSDS500: covering by a 16 x 16 grid", 2),
        ("BSDS500: covering by SLIC, 64 segments", 2),
    ]
    masks, grid, slic = (figure.value for figure in figures)
    assert 0 < grid < slic < masks <= 1


# Encoder


def test_neighbours_equal_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(90, 6, generator=generator)
    classes = torch.randint(0, 4, (90,), generator=generator)
    queries = torch.randn(30, 6, generator=generator)
    found = nearest_neighbours(bank, classes, queries)
    for row, query in enumerate(queries):
        cosine = [float(query @ b / (query.norm() * b.norm())) for b in bank]
        nearest = sorted(range(90), key=lambda i: -cosine[i])[:NEIGHBOURS]
        votes = {k: [cosine[i] for i in nearest if classes[i] == k] for k in range(4)}
        expected = max(votes, key=lambda k: (len(votes[k]), sum(votes[k])))
        assert found[row] == expected


def _tokens(noise: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Four thing classes and one of stuff: k-NN needs more than k patches of each.
    drawn = torch.tensor([0, 1, 2, 3, len(THING_CLASSES)])
    truth = drawn[torch.randint(0, len(drawn), (60, 16), generator=generator)]
    directions = torch.randn(len(SCENE_CLASSES), 48, generator=generator)
    tokens = directions[truth] + noise * torch.randn(60, 16, 48, generator=generator)
    return tokens, truth, torch.ones(60, 16)


def test_probe_and_neighbours_tell_good_features_from_bad() -> None:
    for noise, least, most in ((0.3, 95, 100), (100.0, 5, 45)):
        tokens, truth, purity = _tokens(noise)
        for figure in probe_figures("", tokens, truth, purity):
            assert least <= figure.value <= most, figure
    tokens, truth, purity = _tokens(0.3)
    purity[48:, :8] = 0.5  # not pure enough to be scored
    figures = probe_figures("", tokens, truth, purity)
    assert figures[1].of == 12 * 8
    assert figures[0].of == figures[2].of == int((truth[48:, 8:] < len(THING_CLASSES)).sum())


def test_clip_tokens_are_those_of_the_four_quarters() -> None:
    clip = load_clip("tiny-clip")
    image = held_out_scene("probe", 0).image
    tokens = clip_tokens(clip, image[None])
    assert tokens.shape == (1, 16, 16, 128)
    quarter = image[64:, :64]
    pixels = (torch.from_numpy(quarter.copy()).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    seen: list[Tensor] = []
    hook = clip.module.visual.transformer.register_forward_hook(lambda *call: seen.append(call[2]))
    clip.module.visual(pixels)
    hook.remove()
    expected = clip.module.visual.ln_post(seen[0])[0, 1:].reshape(8, 8, 128)
    torch.testing.assert_close(tokens[0, 8:, :8], expected, atol=1e-5, rtol=0)
