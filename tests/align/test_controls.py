"""What studies change of a training: drawn by the seed, of the right share, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fmbseg.align.controls import drawn_images, unseen_names, with_noise, without
from fmbseg.data.vocabulary import Vocabulary, vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, run

K = 7


def regions_map(seed: int, side: int = 30) -> npt.NDArray[np.uint8]:
    """Tiles of 5 px: each a region of its own, its class another than its neighbours'; some 255."""
    rng = np.random.default_rng(seed)
    tiles = np.empty((side, side), dtype=np.uint8)
    for row, column in np.ndindex(side, side):
        near = {
            int(tiles[row - 1, column]) if row else -1,
            int(tiles[row, column - 1]) if column else -1,
        }
        tiles[row, column] = rng.choice([k for k in range(K) if k not in near])
    tiles[rng.random(tiles.shape) < 0.2] = 255
    return tiles.repeat(5, axis=0).repeat(5, axis=1)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_noise_is_of_the_share_that_is_asked_for(share: float) -> None:
    label = regions_map(0)
    noisy = with_noise(label, share, K, seed=0, name="a")
    assert np.array_equal(noisy == 255, label == 255)
    assert noisy[noisy != 255].max() < K
    tiles, was = noisy[::5, ::5], label[::5, ::5]
    assert np.array_equal(noisy, tiles.repeat(5, axis=0).repeat(5, axis=1))  # whole regions
    labelled = was != 255
    # 720 regions: three standard deviations are 5.5 %.
    assert (tiles != was)[labelled].mean() == pytest.approx(share, abs=0.055)
    steps = (tiles.astype(int) - was)[labelled & (tiles != was)] % K
    assert set(steps.tolist()) == set(range(1, K))  # every other class


def test_noise_is_drawn_by_seed_and_image_and_grows_with_the_share() -> None:
    label = regions_map(1)
    one = with_noise(label, 0.3, K, 0, "a")
    assert np.array_equal(one, with_noise(label, 0.3, K, 0, "a"))
    assert not np.array_equal(one, with_noise(label, 0.3, K, 1, "a"))
    assert not np.array_equal(one, with_noise(label, 0.3, K, 0, "b"))
    more, wrong = with_noise(label, 0.5, K, 0, "a"), one != label
    assert np.array_equal(more[wrong], one[wrong]) and (more != label).sum() > wrong.sum()
    assert np.array_equal(with_noise(label, 0, K, 0, "a"), label)
    every = with_noise(label, 1, K, 0, "a")
    assert bool((every != label)[label != 255].all())


def test_a_share_of_the_images_is_drawn_and_repeated() -> None:
    images = [3, 5, 8, 9, 12, 20, 21, 22, 40, 41]
    drawn = drawn_images(images, 0.3, seed=0)
    assert len(drawn) == 10 and len(set(drawn)) == 3 and set(drawn) <= set(images)
    assert drawn == drawn_images(images, 0.3, seed=0)
    assert set(drawn) <= set(drawn_images(images, 0.5, seed=0))
    assert {tuple(drawn_images(images, 0.3, seed)) for seed in range(5)} != {tuple(drawn)}
    assert len(set(drawn_images(images, 0.01, 0))) == 1
    assert drawn_images(images, 1, 0) == images


def test_names_are_left_out_of_all_vocabularies_and_labels_follow() -> None:
    one = vocabulary_from_names(["sky", "dog", "cat", "tree"])
    two = Vocabulary("two", (*one.classes[1:3], *vocabulary_from_names(["rest", "car"]).classes), 2)
    names = unseen_names([one, two], 0.5, seed=0)
    assert len(names) == round(0.5 * 5) and "rest" not in names
    assert names == unseen_names([one, two], 0.5, seed=0)
    assert len({unseen_names([one, two], 0.5, seed) for seed in range(6)}) > 1
    assert unseen_names([one, two], 0, seed=0) == frozenset()

    taught, table = without(two, frozenset({"cat", "car"}))
    assert taught.names == ("dog", "rest") and taught.background == 1
    assert table[[0, 1, 2, 3, 255]].tolist() == [0, 255, 1, 255, 255]
    same, table = without(two, frozenset())
    assert same == two and table[:4].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"lower align\.unseen_names"):
        without(one, frozenset(one.names))


def test_a_head_is_trained_so_and_its_record_says_it(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for stage in ("detect", "query", "masks", "label", "features"):
        run(stage, make_config(), paths)
    changes: list[dict[str, float]] = [
        {},
        {"label_noise": 0.6},
        {"image_share": 0.4},
        {"unseen_names": 0.2},
    ]
    heads = []
    for change in changes:
        config = make_config(align={"epochs": 1, "batch_images": 2, "purity": 0.1} | change)
        assert run("align", config, paths).computed == 1
        heads.append((paths.align / "head.safetensors").read_bytes())
        record = json.loads((paths.align / "checkpoint.json").read_text())
        assert change.items() <= record["training"].items()
        assert run("align", config, paths).computed == 0
    assert len(set(heads)) == len(changes)
    (words,) = record["vocabularies"]
    assert len(words["classes"]) == 171 - round(0.2 * 171)

    config = make_config(align={"epochs": 1, "batch_images": 2, "purity": 0.1, "unseen_names": 0.2})
    run("evaluate", config, paths)
    result = json.loads((paths.metrics / "fmbseg" / "coco_stuff.json").read_text())
    assert len(result["names"]["unseen_names"]) == round(0.2 * 171)
