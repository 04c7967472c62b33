"""Each picture is encoded once over all stages; with little memory the results are the same."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
import torch
from torch import nn

from fmbseg.config import Config, Dense
from fmbseg.data.images import read_image
from fmbseg.data.windows import resize_to_short_side, sliding_windows
from fmbseg.models import records
from fmbseg.models.sam_decoder import SharedDecoder
from fmbseg.store.paths import Paths
from tests.encodings import count_encodings
from tests.pseudo.stages import STAGES, files_of, run_all
from tests.workspace import SIZES, SPLIT, MakeConfig, run


def windows_of(coco: Path, config: Config) -> int:
    count = 0
    for path in (coco / "images" / SPLIT).iterdir():
        width, height = resize_to_short_side(*read_image(path).size, config.clip.short_side, 8)
        count += len(sliding_windows(height, width, config.clip.window, config.clip.stride))
    return count


def test_each_image_is_encoded_once_over_all_stages(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    config = make_config()
    with count_encodings() as counts:
        run_all(config, Paths(tmp_path))
    assert counts == {"clip": windows_of(coco, config), "sam": len(SIZES)}


def test_without_a_cache_stages_encode_again_and_give_the_same_bytes(
    coco: Path,
    tmp_path: Path,
    make_config: MakeConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cached, fresh = Paths(tmp_path / "cached"), Paths(tmp_path / "fresh")
    run_all(make_config(), cached)
    caplog.clear()
    config = make_config(run={"cache_gb": 0.0})
    with caplog.at_level(logging.INFO), count_encodings() as counts:
        run_all(config, fresh)

    assert counts == {"clip": 2 * windows_of(coco, config), "sam": 2 * len(SIZES)}
    assert files_of(cached.pseudo) == files_of(fresh.pseudo)
    again = [line for line in caplog.messages if "encoded again" in line]
    assert len(again) == 2  # masks by SAM, label by CLIP
    assert "masks: 5 images encoded again by tiny-sam" in again[0]
    assert "label: 5 images encoded again by tiny-clip" in again[1]


def test_another_way_to_the_dense_features_encodes_again(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    paths, keys = Paths(tmp_path), set()
    for variant in get_args(Dense):
        config = make_config(clip={"dense": variant})
        with count_encodings() as counts:
            reports = run_all(config, paths)
        assert counts["clip"] == windows_of(coco, config)
        keys |= {reports[name].key for name in ("detect", "query", "label")}
        with count_encodings() as counts:
            run("detect", make_config(clip={"dense": variant}, query={"points": 2}), paths)
        assert counts["clip"] == 0  # its own encodings are found again
    assert len(keys) == 3 * len(get_args(Dense))


def test_a_file_under_another_record_encodes_again(
    coco: Path,
    tmp_path: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths, config = Paths(tmp_path), make_config()
    first = run_all(config, paths)
    known = dict(records.registry())
    known["tiny-clip"] = replace(known["tiny-clip"], activation="quick_gelu")
    monkeypatch.setattr(records, "registry", lambda: known)
    with count_encodings() as counts:
        again = run_all(config, paths)
    assert counts["clip"] == windows_of(coco, config)
    assert counts["sam"] == 0
    assert [name for name in STAGES if again[name].key != first[name].key] == [
        "detect",
        "query",
        "label",
    ]


def test_out_of_memory_gives_what_smaller_batches_give(
    tmp_path: Path, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """CLIP's windows and SAM's prompts: there is memory for one at a time."""

    def files(name: str, batch: int) -> dict[str, bytes]:
        paths = Paths(tmp_path / name)
        config = make_config(
            clip={"short_side": 128, "stride": 32, "batch_size": batch}, sam={"batch_size": batch}
        )
        run_all(config, paths)
        found = files_of(paths.pseudo)
        # The key names the batch that was asked for.
        return {k: v for k, v in found.items() if not k.endswith("manifest.json")}

    expected = files("small", 1)
    raised: Counter[str] = Counter()

    def one_window(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and len(inputs[0]) > 1:
            raised["windows"] += 1
            raise torch.OutOfMemoryError("injected")

    attend = SharedDecoder.attend

    def one_prompt(
        decoder: SharedDecoder, image: torch.Tensor, places: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(prompts) > 1:
            raised["prompts"] += 1
            raise torch.OutOfMemoryError("injected")
        return attend(decoder, image, places, prompts)

    handle = nn.modules.module.register_module_forward_pre_hook(one_window)
    try:
        with caplog.at_level(logging.WARNING), patch.object(SharedDecoder, "attend", one_prompt):
            found = files("large", 12)
    finally:
        handle.remove()
    assert min(raised.values()) >= len(SIZES) and len(raised) == 2
    assert "out of memory: trying again with a batch of 1" in caplog.text
    assert found == expected
