"""What is shown is what is scored: prediction, picture, MLflow model and score, pixel by pixel."""

from __future__ import annotations

import base64
import io
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from fmbseg import cli
from fmbseg.align.checkpoint import load_checkpoint, save_checkpoint
from fmbseg.config import BackgroundRule, Config, InferenceSection, ProtocolName
from fmbseg.data import load_dataset
from fmbseg.data.datasets import SegmentationDataset
from fmbseg.errors import DataError
from fmbseg.evaluate.examples import example_sheet
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.scoring import Candidate, benchmark_scorings
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.machine.progress import silent_progress
from fmbseg.pseudo.labels import save_label
from fmbseg.store.paths import Paths
from fmbseg.tracking.pyfunc_model import SegmenterModel
from fmbseg.view.sheet import label_sheet
from tests.heads import write_head
from tests.workspace import SPLIT, MakeConfig

WORDS = """\
background: none of these
classes:
  - none of these
  - dog
  - {name: grass, synonyms: [lawn, meadow], threshold: 0.03}
  - {name: person, synonyms: [man]}
"""
CASES = list(product(get_args(ProtocolName), (None, *get_args(BackgroundRule))))


@pytest.fixture
def photos(coco: Path) -> SegmentationDataset:
    """Two pictures and a vocabulary with a background and synonyms."""
    root = coco.parent / "photos"
    (root / "images").mkdir(parents=True)
    for name in ("000000000002.jpg", "000000000003.jpg"):
        shutil.copy(coco / "images" / SPLIT / name, root / "images")
    (root / "vocabulary.yaml").write_text(WORDS)
    return load_dataset("folder", root)


def publish(folder: Path, section: InferenceSection, vocabulary: Path | str) -> None:
    """A head that was trained on a vocabulary, and is to be asked in some way."""
    write_head(folder, 0, str(vocabulary))
    head = load_checkpoint(folder)
    save_checkpoint(folder, head.head, replace(head.info, inference=section))


def asked(make_config: MakeConfig, coco: Path, benchmark: str, **section: Any) -> Config:
    benchmarks = {benchmark: {"root": str(coco), "split": SPLIT, "limit": 2}}
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
    photos: SegmentationDataset,
) -> None:
    words, images = photos.vocabulary, [sample.image for sample in photos]

    def config_with(**values: float) -> Config:
        section = {"protocol": protocol, "background_rule": rule, "logit_scale": 20.0, **values}
        return make_config(evaluate={"short_side": 64, **section})

    file = photos.root / "vocabulary.yaml"
    publish(workspace.align, config_with().evaluate.inference, file)
    (sure,) = load_predictor("fmbseg", config_with(), workspace.align).decide(images[:1], words)
    # Half of the pixels become background.
    middle = 0.1 if sure.threshold is None else float(np.median(sure.threshold.confidence))
    config = config_with(background_threshold=middle, background_score=middle)
    publish(workspace.align, config.evaluate.inference, file)
    predictor = load_predictor("fmbseg", config, workspace.align)
    scored = [each.labels for each in predictor.decide(images, words, "folder")]
    assert len(np.unique(scored[0])) > 1

    segmenter = load_segmenter(workspace.align)
    for sample, expected in zip(photos, scored, strict=True):
        found = segmenter.predict(sample.image_path)
        assert (found.label_map == expected).all()
        best = 1 + found.scores[1:].argmax(axis=0)
        assert (best == expected)[expected != words.background].all()
    assert (from_mlflow(workspace.align, photos[0].image_path) == scored[0]).all()
    # The picture of a benchmark: those that it is asked for, in order, each beside its truth.
    truths = [(scored[0] + 1) % len(words), scored[1]]
    for sample, truth in zip(photos, truths, strict=True):
        save_label(photos.root / "labels" / f"{sample.image_id}.png", truth.astype(np.uint8))
    panels = []
    for index, result in ((1, "result: 100 % mIoU"), (0, "result: 0 % mIoU")):
        panels += [(photos[index].image_id, images[index], None)]
        panels += [("truth", images[index], truths[index])]
        panels += [(result, images[index], scored[index])]
    sheet = label_sheet(panels, words.names, words.background)
    dataset, names = load_dataset("folder", photos.root), [photos[k].image_id for k in (1, 0)]
    assert np.array_equal(example_sheet(predictor, dataset, names), sheet)
    with pytest.raises(DataError, match="gone any more: score it again"):
        example_sheet(predictor, dataset, [*names, "gone"])


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
    matrix = counted(scoring.samples, workspace.align)
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


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of how the head is asked; not of the random weights and what they make of the picture."""
    messages = (entry.getMessage() for entry in caplog.records)
    return [message for message in messages if "asked with" in message]


def test_a_command_gives_the_same_in_every_folder_unless_told(
    workspace: Paths,
    coco: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = InferenceSection(short_side=64, background_threshold=0.03)
    publish(workspace.align, own, "coco_object")
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
    for place, told in ((outside, []), (project, [f"not with {setting}: --set changes that"])):
        monkeypatch.chdir(place)
        found = from_command(head, path, place / "out", words="coco_object")
        assert (found == expected).all()
        assert [line.endswith(tuple(told)) for line in said(caplog)] == [True] * len(told)
        caplog.clear()
        found = from_command(head, path, place / "out", "--set", setting, words="coco_object")
        assert (found == differently).all()
        (line,) = said(caplog)
        assert f"asked with {setting}, not with its own evaluate.background_threshold=0.03" in line
        caplog.clear()
    assert {entry.name for entry in outside.iterdir()} == {"out"}


def test_the_mlflow_model_refuses_pictures_of_more_than_8_bits(
    workspace: Paths, tmp_path: Path
) -> None:
    deep = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(MlflowException, match="the image of row 0 has more than 8 bits a channel"):
        from_mlflow(workspace.align, tmp_path / "deep.png")
    (tmp_path / "deep.png").write_bytes(b"no picture")
    with pytest.raises(MlflowException, match="the image of row 0 is broken"):
        from_mlflow(workspace.align, tmp_path / "deep.png")
