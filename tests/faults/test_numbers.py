"""Batches with nothing in them, one class, many classes, numbers that are none: right, or said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fmbseg.align.losses import LOSSES
from fmbseg.errors import ConfigError, DataError, VocabularyError, WeightsError
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.models.backbone import Backbone
from fmbseg.store.paths import Paths
from tests.align.test_losses import by_equations
from tests.workspace import MakeConfig, draw_picture, run


def test_weights_that_are_no_numbers_are_refused(
    folder: Path, coco: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(folder))
    path = folder / "encoder.safetensors"
    state = load_file(path)
    name = sorted(state)[3]
    state[name].view(-1)[0] = torch.nan
    save_file(state, path)
    with pytest.raises(WeightsError, match=rf"encoder.safetensors is damaged \({name} holds NaN"):
        run("features", make_config(), Paths(coco.parent))


def test_features_beyond_their_precision_are_told_with_their_pictures(
    coco: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder of large activations: float16, in which features are kept, ends at 65504."""
    real = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda self, images: real(self, images) * 1e6)
    with pytest.raises(DataError, match=r"features of \d pictures? \(0000.* beyond float16"):
        run("features", make_config(), Paths(coco.parent))


def test_a_picture_is_never_given_a_class_by_nan(
    workspace: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = load_segmenter(workspace.align)
    monkeypatch.setattr(
        Backbone, "features", lambda self, images: torch.full((1, 16, 16, self.dim), torch.nan)
    )
    with pytest.raises(ConfigError, match="aligned features hold NaN or infinity"):
        segmenter.predict(draw_picture(0, (64, 64)), classes=["dog", "sky"])


def test_no_class_anywhere_is_said_with_the_pictures(coco: Path, make_config: MakeConfig) -> None:
    paths = Paths(coco.parent)
    config = make_config(detection={"rule": "similarity", "min_similarity": 1.0})
    for stage in ("detect", "query", "masks", "label", "features"):
        run(stage, config, paths)
    with pytest.raises(DataError, match=r"no patch of 5 pictures \(000000000000, .*\) has a label"):
        run("align", config, paths)


def test_truth_without_a_class_is_no_score(
    coco: Path, workspace: Paths, make_config: MakeConfig
) -> None:
    for path in (coco / "annotations").rglob("*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    with pytest.raises(DataError, match=r"no pixel of coco_stuff has a class \(5 pictures: 0000"):
        run("evaluate", make_config(), workspace)


def test_one_picture_goes_through_every_stage(coco: Path, make_config: MakeConfig) -> None:
    config = make_config(data={"limit": 1})
    for stage in ("detect", "query", "masks", "label", "features", "align", "evaluate"):
        run(stage, config, Paths(coco.parent))
    result = json.loads((coco.parent / "metrics" / "fmbseg" / "coco_stuff.json").read_text())
    assert 0 <= result["miou"] <= 100


@pytest.mark.parametrize("term", ["tsupcon", "supcon", "text"])
def test_the_loss_of_2000_classes_is_that_of_the_equations(term: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z, text = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1).double()
        for n in (6, 2000)
    )
    labels = torch.tensor([0, 254, 256, 1999, 255, 1999])
    found = LOSSES[term](z, labels, text, 0.1, None)  # type: ignore[index]
    torch.testing.assert_close(found, by_equations(z, labels, text, 0.1, term))


def test_2000_classes_are_segmented_and_refused_for_training(
    coco: Path, workspace: Paths, make_config: MakeConfig
) -> None:
    names = [f"thing {number}" for number in range(2000)]
    segmenter = load_segmenter(workspace.align)
    picture = draw_picture(1, (64, 48))
    found = segmenter.predict(picture, classes=names)
    assert found.label_map.shape == (48, 64) and found.label_map.max() < 2000
    # Those that are found are the best of all: of these alone the map is the same.
    present = np.unique(found.label_map)
    some = segmenter.predict(picture, classes=[names[k] for k in present])
    assert len(present) > 1 and np.array_equal(present[some.label_map], found.label_map)
    words = coco.parent / "many.yaml"
    words.write_text(json.dumps({"name": "many", "classes": names}))
    with pytest.raises(VocabularyError, match="255"):
        run("detect", make_config(data={"vocabulary": str(words)}), workspace)


@pytest.mark.slow
def test_threads_change_the_last_bits_and_no_label(coco: Path, make_config: MakeConfig) -> None:
    """What docs/reliability.md states of one thread against two."""
    heads, labels = [], []
    for threads in (1, 2):
        paths = Paths(coco.parent / str(threads))
        config = make_config(run={"threads": threads})
        for stage in ("detect", "query", "masks", "label", "features", "align"):
            run(stage, config, paths)
        heads.append(load_file(paths.align / "head.safetensors"))
        maps = sorted((paths.label / "labels").glob("*.png"))
        labels.append(np.concatenate([np.asarray(Image.open(path)).ravel() for path in maps]))
    assert np.mean(labels[0] != labels[1]) < 0.001
    for name, values in heads[0].items():
        torch.testing.assert_close(values, heads[1][name], rtol=1e-3, atol=1e-4)
