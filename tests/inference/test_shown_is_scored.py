"""What is shown is what is scored: prediction, picture, MLflow model and score, pixel by pixel."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from fmbseg import cli
from fmbseg.align.checkpoint import load_checkpoint, save_checkpoint
from fmbseg.config import BackgroundRule, Config, InferenceSection, ProtocolName
from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset
from fmbseg.errors import DataError
from fmbseg.evaluate.example import example_overlay
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.scoring import Candidate, benchmark_scorings
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.machine.progress import silent_progress
from fmbseg.store.paths import Paths
from fmbseg.tracking.pyfunc_model import SegmenterModel
from fmbseg.view.overlay import overlay
from tests.heads import write_head
from tests.workspace import SPLIT, MakeConfig

CASES = list(product(get_args(ProtocolName), (None, *get_args(BackgroundRule))))


def publish(folder: Path, section: InferenceSection, vocabulary: str = "coco_object") -> None:
    """A head that is asked in some way."""
    write_head(folder, seed=0, vocabulary=vocabulary)
    head = load_checkpoint(folder)
    save_checkpoint(folder, head.head, replace(head.info, inference=section))


def asked(make_config: MakeConfig, coco: Path, benchmark: str, **section: Any) -> Config:
    benchmarks = {benchmark: {"root": str(coco), "split": SPLIT}}
    return make_config(evaluate={"short_side": 64, "benchmarks": benchmarks, **section})


def from_mlflow(head: Path, path: Path) -> np.ndarray:
    """What the MLflow model says of a picture, asked for the classes of its training."""
    model = SegmenterModel()
    model.load_context(PythonModelContext({"checkpoint": str(head)}, {}))
    answer = model.predict(None, pd.DataFrame({"image": [path.read_bytes()]}))
    with Image.open(io.BytesIO(base64.b64decode(answer["label_png"][0]))) as image:
        return np.asarray(image)


def from_command(head: Path, path: Path, out: Path, *more: str, words: str) -> np.ndarray:
    """What `fmbseg predict` writes."""
    command = ["predict", str(path), "--out", str(out), "--checkpoint", str(head)]
    assert cli._main([*command, "--vocabulary", words, *more]) == 0
    with Image.open(out / f"{path.stem}.label.png") as image:
        return np.asarray(image)


@pytest.mark.parametrize(("protocol", "rule"), CASES)
def test_every_way_gives_the_labels_that_are_scored(
    protocol: ProtocolName,
    rule: BackgroundRule | None,
    workspace: Paths,
    make_config: MakeConfig,
    coco: Path,
) -> None:
    # Values that leave both background and classes, with random weights.
    values = {"logit_scale": 20.0, "background_threshold": 0.06, "background_score": 0.05}
    config = asked(
        make_config, coco, "coco_object", protocol=protocol, background_rule=rule, **values
    )
    publish(workspace.align, config.evaluate.inference)
    dataset = load_dataset("coco_object", coco, SPLIT)
    predictor = load_predictor("fmbseg", config, workspace.align)
    images = [sample.image for sample in dataset]
    scored = [each.labels for each in predictor.decide(images, dataset.vocabulary, "coco_object")]
    assert len(np.unique(scored[0])) > 1

    segmenter = load_segmenter(workspace.align)
    for sample, expected in zip(dataset, scored, strict=True):
        found = segmenter.predict(sample.image_path)
        assert (found.label_map == expected).all()
        kept = expected != dataset.vocabulary.background
        assert (found.scores.argmax(axis=0) == expected)[kept].all()
    assert (from_mlflow(workspace.align, dataset[0].image_path) == scored[0]).all()
    names, background = dataset.vocabulary.names, dataset.vocabulary.background
    picture = overlay(images[0], scored[0], names, background=background)
    assert np.array_equal(example_overlay(predictor, dataset), picture)


@pytest.mark.parametrize(
    ("benchmark", "protocol"), [("coco_object", "fmbseg"), ("coco_stuff", "sclip")]
)
def test_the_score_is_that_of_the_predicted_labels(
    benchmark: str,
    protocol: ProtocolName,
    workspace: Paths,
    make_config: MakeConfig,
    coco: Path,
) -> None:
    """Also under a protocol with sizes of its own for the benchmark."""
    config = asked(make_config, coco, benchmark, protocol=protocol, background_threshold=0.05)
    publish(workspace.align, config.evaluate.inference, benchmark)
    candidate = Candidate("fmbseg", config, workspace)
    (scoring,) = benchmark_scorings(candidate, [benchmark], workspace.metrics, silent_progress())
    scoring.run()
    matrix = counted(scoring.dataset, workspace.align)
    result = read_result(scoring.target)
    assert result["miou"] == matrix.miou()
    assert list(result["per_class_iou"].values()) == [
        None if np.isnan(iou) else iou for iou in matrix.iou()
    ]


def counted(dataset: SegmentationDataset, head: Path) -> ConfusionMatrix:
    matrix, segmenter = ConfusionMatrix(len(dataset.vocabulary)), load_segmenter(head)
    for sample in dataset:
        assert sample.label is not None
        found = segmenter.predict(sample.image_path, vocabulary=dataset.vocabulary.name)
        matrix.update(found.label_map, sample.label)
    return matrix


def test_a_command_gives_the_same_in_every_folder_unless_told(
    workspace: Paths,
    coco: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("ERROR", "fmbseg.models")  # of the random weights
    own = InferenceSection(short_side=64, background_threshold=0.03)
    publish(workspace.align, own)
    head, path = workspace.align, coco / "images" / SPLIT / "000000000003.jpg"
    segmenter = load_segmenter(head)
    expected = segmenter.predict(path).label_map
    other = load_segmenter(head, own.model_copy(update={"background_threshold": 0.9}))
    differently = other.predict(path).label_map
    assert (differently != expected).any()
    caplog.clear()

    outside = tmp_path_factory.mktemp("outside")
    project = tmp_path_factory.mktemp("project")
    text = "evaluate: {short_side: 64, background_threshold: 0.9}\nrun: {threads: 1}\n"
    (project / "params.yaml").write_text(text)
    setting = "evaluate.background_threshold=0.9"
    for place, said in ((outside, []), (project, [f"not with {setting}: --set changes that"])):
        monkeypatch.chdir(place)
        found = from_command(head, path, place / "out", words="coco_object")
        assert (found == expected).all()
        assert [line.endswith(tuple(said)) for line in caplog.messages] == [True] * len(said)
        caplog.clear()
        found = from_command(head, path, place / "out", "--set", setting, words="coco_object")
        assert (found == differently).all()
        (line,) = caplog.messages
        assert f"asked with {setting}, its own: evaluate.background_threshold=0.03" in line
        caplog.clear()
    assert {entry.name for entry in outside.iterdir()} == {"out"}


def test_the_mlflow_model_refuses_pictures_of_more_than_8_bits(
    workspace: Paths, tmp_path: Path
) -> None:
    deep = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="the image of row 0 has more than 8 bits a channel"):
        from_mlflow(workspace.align, tmp_path / "deep.png")
    (tmp_path / "deep.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="the image of row 0 is broken"):
        from_mlflow(workspace.align, tmp_path / "deep.png")
