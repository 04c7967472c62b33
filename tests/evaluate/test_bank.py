"""The bank of regions, and the peer that retrieves from it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fmbseg.data.labels import patch_overlaps
from fmbseg.errors import StoreError
from fmbseg.evaluate.bank import models_of, read_bank, require_models
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.methods.retrieval import retrieved
from fmbseg.evaluate.scoring import Candidate
from fmbseg.models.backbone import image_features, load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.text import class_similarity
from fmbseg.pseudo.tables import MASKS, decode_mask, rows_by_image
from fmbseg.store.paths import Paths
from tests.evaluate.test_predictors import PLAIN, labelled
from tests.workspace import SPLIT, MakeConfig, opened, run


def mean_under(features: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit mean of patches [h, w, D], each as much as the mask [H, W] covers of it."""
    down, across = (
        patch_overlaps(size, cells) for size, cells in zip(mask.shape, features.shape, strict=False)
    )
    total = np.zeros(features.shape[-1])
    for row in range(features.shape[0]):
        for column in range(features.shape[1]):
            share = (mask * np.outer(down[row], across[column])).sum()
            total += share * features[row, column]
    return total / np.linalg.norm(total)


def test_a_region_is_the_mean_of_its_patches(equipped: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    bank = read_bank(equipped.data / "bank", config)
    run("masks", config, equipped)
    masks = rows_by_image(equipped.masks / MASKS, set(bank.image_ids))
    assert len(bank.image_ids) == sum(map(len, masks.values())) > 3
    place = 0
    for name in dict.fromkeys(bank.image_ids):
        with Image.open(equipped.root / "coco" / "images" / SPLIT / f"{name}.jpg") as file:
            image = file.convert("RGB")
        encoder = image_features(image, 64, load_backbone("tiny-encoder")).numpy()
        dense = load_clip("tiny-clip").encode_image_windows(image, config.clip).dense
        for mask in map(decode_mask, masks[name]):
            np.testing.assert_allclose(bank.encoder[place], mean_under(encoder, mask), atol=2e-3)
            np.testing.assert_allclose(bank.clip[place], mean_under(dense, mask), atol=2e-3)
            place += 1


def test_retrieval_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    patches, keys, values = (
        torch.randn(shape, generator=generator) for shape in ((5, 4), (7, 4), (7, 3))
    )
    keys = torch.nn.functional.normalize(keys, dim=1)
    values = torch.nn.functional.normalize(values, dim=1)
    found = retrieved(patches, keys, values, neighbours=3, temperature=0.2)
    for patch, vector in zip(patches.tolist(), found.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in patch))
        cosines = [sum(x * y for x, y in zip(patch, key, strict=True)) / length for key in keys]
        nearest = sorted(range(7), key=lambda j: -cosines[j])[:3]
        total = sum(math.exp(cosines[j] / 0.2) for j in nearest)
        mean = [
            sum(math.exp(cosines[j] / 0.2) / total * float(values[j, d]) for j in nearest)
            for d in range(3)
        ]
        norm = math.sqrt(sum(x * x for x in mean))
        assert vector == pytest.approx([x / norm for x in mean], abs=1e-5)
    # Of a bank that is smaller all regions are asked.
    everything = retrieved(patches, keys, values, neighbours=7, temperature=0.2)
    assert torch.equal(retrieved(patches, keys, values, 99, 0.2), everything)
    assert not torch.allclose(found, everything)


def test_a_pixel_has_the_class_that_its_patch_retrieves(
    equipped: Paths, make_config: MakeConfig
) -> None:
    config = make_config(retrieval={"neighbours": 2, "temperature": 0.02})
    bank = read_bank(equipped.data / "bank", config)
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    features = image_features(image, 64, load_backbone("tiny-encoder"))
    vectors = retrieved(
        features.flatten(0, 1),
        torch.from_numpy(bank.encoder).float(),
        torch.from_numpy(bank.clip).float(),
        2,
        0.02,
    ).view(*features.shape[:2], -1)
    similarity = class_similarity(vectors, load_clip("tiny-clip").text_embeddings(PLAIN))
    scores = torch.nn.functional.interpolate(
        similarity.permute(2, 0, 1)[None], (64, 64), mode="bilinear"
    )[0]
    predictor = load_predictor("retrieval", config, equipped.data / "bank")
    label = torch.from_numpy(labelled(predictor, image, PLAIN))
    chosen = scores.gather(0, label[None])[0]
    assert torch.allclose(chosen, scores.max(dim=0).values, atol=1e-5)


def test_the_bank_is_made_once_and_again_for_other_masks(
    for_peers: Path, tmp_path: Path, make_config: MakeConfig, coco: Path
) -> None:
    shutil.copytree(for_peers, coco.parent, dirs_exist_ok=True)
    paths, config = Paths(coco.parent), make_config()
    assert run("bank", config, paths).computed == 0
    key = opened("bank", config, paths).key
    rows = pq.read_table(paths.masks / MASKS).to_pylist()
    least = min(row["area"] / (row["height"] * row["width"]) for row in rows)
    fewer = make_config(masks={"min_area": least + 1e-4})
    run("masks", fewer, paths)
    assert run("bank", fewer, paths).key != key
    assert len(read_bank(paths.data / "bank", config).encoder) < len(
        read_bank(for_peers / "data" / "bank", config).encoder
    )
    # Words are no part of it: other vocabularies have the same bank.
    words = make_config(data={"vocabulary": "voc21"}, masks={"min_area": least + 1e-4})
    assert opened("bank", words, paths).published


def test_without_a_bank_one_line_says_what_to_run(
    equipped: Paths, make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"needs .*bank: run `fmbseg run bank` first"):
        _ = Candidate("retrieval", make_config(), Paths(tmp_path / "empty")).inputs
    with pytest.raises(StoreError, match="no bank of regions: run `fmbseg run bank`"):
        load_predictor("retrieval", make_config(), tmp_path / "empty")
    config = make_config()
    others = models_of(config) | {"features.encoder": "another digest"}
    with pytest.raises(StoreError, match=r"another features.encoder: run `fmbseg run bank`"):
        require_models(equipped.data / "bank", others, config, "bank")
    with pytest.raises(StoreError, match=r"another features.encoder and clip.model"):
        require_models(equipped.data / "bank", None, config, "bank")
    require_models(equipped.data / "bank", models_of(config), config, "bank")
