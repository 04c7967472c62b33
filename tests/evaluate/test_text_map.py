"""The map of texts into the encoder's space, its loss and its training."""

from __future__ import annotations

import csv
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fmbseg.config import Talk2DinoSection
from fmbseg.errors import CheckpointError, DataError
from fmbseg.evaluate.bank import read_bank
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.results import is_of_another_head
from fmbseg.evaluate.text_map import (
    Pictures,
    TextMap,
    Words,
    best_regions,
    contrast,
    load_text_map,
    train_text_map,
)
from fmbseg.machine.progress import silent_progress
from fmbseg.models.backbone import image_features, load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.store.paths import Paths
from tests.evaluate.test_predictors import PLAIN, labelled, pictures
from tests.workspace import MakeConfig, run


def unit(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_map_is_its_formula() -> None:
    torch.manual_seed(0)
    text_map, texts = TextMap(3, 4), unit(1, 2, 3)
    state = {name: value.tolist() for name, value in text_map.state_dict().items()}
    for text, found in zip(texts.tolist(), text_map(texts).tolist(), strict=True):
        hidden = [
            math.tanh(sum(w * x for w, x in zip(row, text, strict=True)) + bias)
            for row, bias in zip(state["first.weight"], state["first.bias"], strict=True)
        ]
        mapped = [
            sum(w * x for w, x in zip(row, hidden, strict=True)) + bias
            for row, bias in zip(state["second.weight"], state["second.bias"], strict=True)
        ]
        length = math.sqrt(sum(x * x for x in mapped))
        assert found == pytest.approx([x / length for x in mapped], abs=1e-6)


def test_a_picture_is_as_similar_as_the_best_of_its_regions() -> None:
    texts, regions, owners = unit(2, 3, 4), unit(3, 5, 4), torch.tensor([0, 0, 1, 1, 1])
    found = best_regions(texts, regions, owners, 2)
    for picture, members in enumerate(([0, 1], [2, 3, 4])):
        for number in range(3):
            best = max(
                sum(float(a * b) for a, b in zip(regions[r], texts[number], strict=True))
                for r in members
            )
            assert float(found[picture, number]) == pytest.approx(best, abs=1e-6)


def plain_contrast(similarity: list[list[float]], shown: list[list[bool]], t: float) -> float:
    """The loss as it is written, in loops; nothing is left out that shows something."""
    classes = [k for k in range(len(shown[0])) if any(row[k] for row in shown)]
    images = [i for i, row in enumerate(shown) if any(row)]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    by_picture = mean(
        [
            mean(
                [
                    -similarity[i][k] / t
                    + math.log(sum(math.exp(similarity[i][c] / t) for c in classes))
                    for k in classes
                    if shown[i][k]
                ]
            )
            for i in images
        ]
    )
    by_class = mean(
        [
            mean(
                [
                    -similarity[i][k] / t
                    + math.log(sum(math.exp(similarity[j][k] / t) for j in images))
                    for i in images
                    if shown[i][k]
                ]
            )
            for k in classes
        ]
    )
    return (by_picture + by_class) / 2


def test_the_loss_is_its_formula() -> None:
    similarity = unit(4, 4, 5)
    shown = torch.tensor(
        [
            [True, False, True, False, False],
            [False, False, True, False, True],
            [False] * 5,
            [True, False, False, False, False],
        ]
    )
    found = contrast(similarity, shown, 0.1)
    expected = plain_contrast(similarity.tolist(), shown.tolist(), 0.1)
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert float(contrast(similarity, torch.zeros_like(shown), 0.1)) == 0


def test_with_a_caption_each_it_is_the_published_loss() -> None:
    similarity = unit(5, 4, 4)
    numbers = torch.arange(4)
    published = (
        F.cross_entropy(similarity / 0.07, numbers) + F.cross_entropy(similarity.T / 0.07, numbers)
    ) / 2
    assert torch.allclose(contrast(similarity, torch.eye(4, dtype=torch.bool), 0.07), published)


def shapes() -> tuple[Pictures, Words]:
    """Sixteen pictures: a region of one of four classes, and one that all have and none means."""
    regions, texts = torch.eye(8), torch.eye(6)[:4]
    shown = torch.eye(4, dtype=torch.bool).repeat(4, 1)
    drawn = [torch.stack([regions[number % 4], regions[7]]) for number in range(16)]
    noisy = F.normalize(torch.cat(drawn) + 0.1 * unit(6, 32, 8), dim=1)
    return Pictures(noisy.numpy().astype(np.float16), np.arange(0, 33, 2)), Words(texts, shown)


def test_training_finds_which_region_a_word_means() -> None:
    drawn, words = shapes()
    section = Talk2DinoSection(epochs=100, batch_images=8, learning_rate=1e-2)
    cpu = torch.device("cpu")
    text_map, curve = train_text_map(drawn, [words], section, 0, cpu, silent_progress())
    assert (text_map(words.text) @ torch.eye(8).T).argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert len(curve) == 100 and curve[-1] < curve[0]
    again, same = train_text_map(drawn, [words], section, 0, cpu, silent_progress())
    assert curve == same and torch.equal(again.first.weight, text_map.first.weight)


def test_a_map_of_pictures_that_show_nothing_is_refused() -> None:
    drawn, words = shapes()
    nothing = Words(words.text, torch.zeros_like(words.shown))
    with pytest.raises(DataError, match="found no class in any picture"):
        train_text_map(
            drawn,
            [nothing],
            Talk2DinoSection(),
            0,
            torch.device("cpu"),
            silent_progress(),
        )


def test_a_pixel_has_the_class_whose_mapped_text_is_nearest(
    equipped: Paths, make_config: MakeConfig
) -> None:
    config, image = make_config(), pictures()[0].resize((64, 64))
    text_map = load_text_map(equipped.data / "talk2dino", config).text_map
    text = load_clip("tiny-clip").text_embeddings(PLAIN)
    features = image_features(image, 64, load_backbone("tiny-encoder"))
    similarity = F.normalize(features, dim=-1) @ text_map(text.queries).T
    scores = F.interpolate(similarity.permute(2, 0, 1)[None], (64, 64), mode="bilinear")[0]
    predictor = load_predictor("talk2dino", config, equipped.data / "talk2dino")
    label = torch.from_numpy(labelled(predictor, image, PLAIN))
    chosen = scores.gather(0, label[None])[0]
    assert torch.allclose(chosen, scores.max(dim=0).values, atol=1e-5)


def test_the_stage_says_what_it_did_and_does_it_once(
    for_peers: str, make_config: MakeConfig, equipped: Paths
) -> None:
    shutil.copytree(for_peers, equipped.root, dirs_exist_ok=True)
    learnt = {"epochs": 3, "batch_images": 2, "learning_rate": 0.05}
    config = make_config(talk2dino=learnt)
    report = run("talk2dino", config, equipped)
    assert (report.computed, report.taken_over) == (0, 3)
    place = equipped.data / "talk2dino"
    with (place / "curve.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    before = load_text_map(place, config)
    assert before.vocabularies == ("coco_stuff",)
    assert read_bank(equipped.data / "bank", config).encoder.shape[1] == (
        before.text_map.first.out_features
    )
    result = {"method": "talk2dino", "checkpoint_sha256": before.sha256}
    assert not is_of_another_head(result, equipped.metrics)
    longer = make_config(talk2dino=learnt | {"epochs": 4})
    assert run("talk2dino", longer, equipped).computed == 4
    assert load_text_map(place, longer).sha256 != before.sha256
    assert is_of_another_head(result, equipped.metrics)


def test_a_damaged_map_is_refused(equipped: Paths, make_config: MakeConfig) -> None:
    place = equipped.data / "talk2dino"
    file = place / "map.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="run `fmbseg run talk2dino`"):
        load_predictor("talk2dino", make_config(), place)
