"""The features stage: what is stored, what is made again, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from fmbseg.align import feature_store
from fmbseg.align.feature_store import StoredFeatures
from fmbseg.align.features import PublishedFeatures
from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.errors import StoreError
from fmbseg.models import records
from fmbseg.models.backbone import load_backbone, resize_for_encoder
from fmbseg.models.records import weights_record
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run

GRIDS = [(8, 12), (8, 12), (10, 8), (11, 8), (8, 8)]  # short side 64, patch 8


def stored_features(config: Config, paths: Paths) -> StoredFeatures:
    """What a training opens."""
    training = opened("align", config, paths)
    return PublishedFeatures(training.require("features"), training.work).open()


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_stores_what_the_encoder_says(labelled: Paths, make_config: MakeConfig) -> None:
    report = run("features", make_config(), labelled)
    assert (report.stage, report.computed, report.taken_over) == ("features", 3, 0)
    stored = stored_features(make_config(), labelled)
    assert len(stored) == len(GRIDS)
    assert stored.image_ids == tuple(f"{index:012d}" for index in range(len(GRIDS)))
    encoder = load_backbone("tiny-encoder")
    assert stored.dim == encoder.dim
    for index, grid in enumerate(GRIDS):
        assert stored.grid(index) == grid
        values = stored.load(index)
        assert values.dtype == np.float16
        image = read_image(labelled.root / f"coco/images/val2017/{index:012d}.jpg")
        pixels = resize_for_encoder(image, 64, encoder)
        expected = encoder.features(pixels[None])[0]
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected.numpy(), atol=4e-3, rtol=2e-3)


def test_out_is_only_an_index(labelled: Paths, make_config: MakeConfig) -> None:
    run("features", make_config(), labelled)
    assert set(files(labelled.features)) == {"index.parquet", "manifest.json"}
    table = pq.read_table(labelled.features / "index.parquet").to_pylist()
    assert [(row["height"], row["width"]) for row in table] == GRIDS
    manifest = json.loads((labelled.features / "manifest.json").read_text())
    assert len(manifest["feature_shards"]) == 3
    assert (labelled.feature_store / manifest["key"]).is_dir()


def test_second_run_computes_nothing(labelled: Paths, make_config: MakeConfig) -> None:
    run("features", make_config(), labelled)
    before = files(labelled.features)
    # As after a pull on a clone: the out is there, the shards are not.
    shutil.rmtree(labelled.root / ".fmbseg")
    report = run("features", make_config(), labelled)
    assert (report.computed, report.taken_over) == (0, 3)
    assert files(labelled.features) == before
    assert not labelled.feature_store.exists()


def test_goes_on_after_a_kill(labelled: Paths, make_config: MakeConfig) -> None:
    first = run("features", make_config(), labelled)
    before = files(labelled.features)
    shutil.rmtree(labelled.features)
    shutil.rmtree(labelled.shards / "features")
    shutil.rmtree(labelled.feature_store / first.key / "000001")
    report = run("features", make_config(), labelled)
    assert (report.computed, report.taken_over) == (1, 2)
    assert files(labelled.features) == before


def test_missing_shards_are_made_again(labelled: Paths, make_config: MakeConfig) -> None:
    run("features", make_config(), labelled)
    before = files(labelled.feature_store)
    shutil.rmtree(labelled.feature_store)
    stored = stored_features(make_config(), labelled)
    assert len(stored) == len(GRIDS)
    assert files(labelled.feature_store) == before


def test_annotations_are_not_needed(labelled: Paths, make_config: MakeConfig) -> None:
    run("features", make_config(), labelled)
    before = files(labelled.root / ".fmbseg" / "features")
    for place in (labelled.features, labelled.root / ".fmbseg"):
        shutil.rmtree(place)
    shutil.rmtree(labelled.root / "coco" / "annotations")
    run("features", make_config(), labelled)
    assert files(labelled.root / ".fmbseg" / "features") == before


def test_each_image_is_encoded_once(labelled: Paths, make_config: MakeConfig) -> None:
    seen = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        nonlocal seen
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:  # the first layer
            seen += len(inputs[0])

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        run("features", make_config(), labelled)
        stored_features(make_config(), labelled)
    finally:
        handle.remove()
    assert seen == len(GRIDS)


def test_refuses_missing_and_stale_features(labelled: Paths, make_config: MakeConfig) -> None:
    with pytest.raises(StoreError, match="run `fmbseg run features` first"):
        stored_features(make_config(), labelled)
    run("features", make_config(), labelled)
    with pytest.raises(StoreError, match="run `fmbseg run features` again"):
        stored_features(make_config(features={"short_side": 72}), labelled)
    (labelled.features / "index.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match="damaged"):
        stored_features(make_config(), labelled)


def test_what_the_encoders_record_says_is_in_the_key(
    labelled: Paths, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = weights_record("tiny-encoder")
    keys = []
    for changed in (
        record,
        replace(record, licence="MIT"),
        replace(record, mean=(0.4, 0.5, 0.5)),
        replace(record, layers=(1,)),
    ):
        monkeypatch.setattr(records, "registry", lambda changed=changed: {record.name: changed})
        keys.append(opened("features", make_config(), labelled).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_many_shards_do_not_exhaust_file_descriptors(
    labelled: Paths, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_OPEN_SHARDS", 1)
    run("features", make_config(), labelled)
    stored = stored_features(make_config(), labelled)
    first = np.array(stored.load(0))
    for index in (4, 2, 0):
        stored.load(index)
    np.testing.assert_array_equal(stored.load(0), first)
    assert len(stored._open) == 1
