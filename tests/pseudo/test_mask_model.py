"""Another mask model than SAM's own class: a class and a record, and stage 1 runs with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from fmbseg.config import MasksSection
from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import WeightsError
from fmbseg.machine.device import choose_device
from fmbseg.machine.progress import silent_progress
from fmbseg.models import records, tiny
from fmbseg.models.build import build_sam
from fmbseg.models.loading import load_module
from fmbseg.models.mask_model import AutomaticMasks, PromptMasks, load_mask_model
from fmbseg.models.records import WeightsRecord
from fmbseg.models.sam import SamEncoding, SamModel, load_sam
from fmbseg.models.weights import WEIGHTS_VARIABLE
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.pipeline import label_image
from fmbseg.store.encoding_cache import Arrays
from fmbseg.store.paths import Paths
from tests.workspace import SIZES, SPLIT, MakeConfig

NAME = "small-masks"


def architecture() -> dict[str, Any]:
    """A network of its own: images of 128 px, patches of 16 px, two blocks, 32 channels."""
    config = tiny.architecture("sam")
    own = {"img_size": 128, "patch_size": 16, "embed_dim": 64, "depth": 2, "out_chans": 32}
    encoder = config["image_encoder"] | own | {"global_attn_indexes": [1]}
    return config | {"image_encoder": encoder}


@dataclass(frozen=True)
class SmallEncoding:
    """Another form of encoding than SAM's, to which no module of the package has a key."""

    channels_last: npt.NDArray[np.float16]
    sides: tuple[int, int, int, int]

    @property
    def original_size(self) -> tuple[int, int]:
        return self.sides[2:]

    def arrays(self) -> Arrays:
        return {"values": self.channels_last, "sides": np.array(self.sides, dtype=np.int16)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        return cls(arrays["values"], tuple(arrays["sides"].tolist()))

    def as_sam(self) -> SamEncoding:
        features = np.ascontiguousarray(self.channels_last.transpose(2, 0, 1))
        return SamEncoding(features, self.sides[:2], self.sides[2:])


class SmallMasks:
    """The mask model that the record names; counts the images that it encodes."""

    encoded = 0

    def __init__(self, network: SamModel) -> None:
        self._network = network

    @staticmethod
    def encoding_class() -> type[SmallEncoding]:
        return SmallEncoding

    @classmethod
    def load(
        cls,
        record: WeightsRecord,
        device: torch.device | str,
        dtype: torch.dtype,
        weights_dir: Path | str | None,
    ) -> Self:
        module = load_module(record, lambda: build_sam(architecture()), weights_dir)
        return cls(SamModel(module, device, dtype))

    def encode(self, image: npt.NDArray[np.uint8]) -> SmallEncoding:
        type(self).encoded += 1
        found = self._network.encode(image)
        features = np.ascontiguousarray(found.features.transpose(1, 2, 0))
        return SmallEncoding(features, (*found.input_size, *found.original_size))

    def predict_points(
        self, encoding: SmallEncoding, points: npt.NDArray[np.floating], batch_size: int = 64
    ) -> PromptMasks:
        return self._network.predict_points(encoding.as_sam(), points, batch_size)

    def automatic_masks(
        self, encoding: SmallEncoding, section: MasksSection, batch_size: int = 64
    ) -> AutomaticMasks:
        return self._network.automatic_masks(encoding.as_sam(), section, batch_size)


@pytest.fixture(autouse=True)
def _registered(
    random_models: None, random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(random_weights, tmp_path / "weights"))
    torch.manual_seed(3)
    save_file(build_sam(architecture()).state_dict(), folder / "small.safetensors")
    record = replace(
        records.registry()["tiny-sam"],
        name=NAME,
        library="small_masks",
        implementation=f"{__name__}:SmallMasks",
        size=128,
        file="small.safetensors",
        sha256=None,
    )
    monkeypatch.setitem(records.registry(), NAME, record)  # type: ignore[arg-type]
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    monkeypatch.setattr(SmallMasks, "encoded", 0)


def test_stage_1_runs_with_a_mask_model_of_a_class_and_a_record(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(sam={"model": NAME}), Paths(tmp_path)
    for stage in ("detect", "query", "masks", "label"):
        run_stage(open_stage(stage, config, paths, silent_progress()))
    assert SmallMasks.encoded == len(SIZES)  # the query stage's encodings serve the masks
    found = pq.read_table(paths.label / "masks.parquet")
    assert set(found["source"].to_pylist()) == {"query", "automatic"}

    # In memory the same comes out, whether encodings and masks are made or read from the cache.
    for _ in range(2):
        SmallMasks.encoded = 0
        encoder = ImageEncoder(config, tmp_path / "cache", choose_device(config.run))
        text = encoder.clip.model.text_embeddings(load_vocabulary("coco_stuff"), "single")
        for path in sorted((coco / "images" / SPLIT).iterdir()):
            encodings = encoder.encode(read_image(path))
            assert isinstance(encodings.sam, SmallEncoding)
            result = label_image(encodings, encoder.sam.model, text, config)
            stored = load_label(paths.label / "labels" / f"{path.stem}.png")
            assert np.array_equal(result.label, stored)
    assert SmallMasks.encoded == 0


def test_a_mask_model_that_is_no_sam_is_not_taken_for_one() -> None:
    assert isinstance(load_mask_model(NAME), SmallMasks)
    with pytest.raises(WeightsError, match="small-masks is a mask model of small_masks, where a S"):
        load_sam(NAME)
