"""Which head is scored: the one of the parameters, refused where it is another or missing."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fmbseg.align.checkpoint import load_checkpoint, save_checkpoint
from fmbseg.align.heads import seeded_head
from fmbseg.config import Config
from fmbseg.data import load_dataset
from fmbseg.errors import CheckpointError, DataError, StoreError
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.scoring import Candidate, benchmark_scorings
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.machine.progress import silent_progress
from fmbseg.store.paths import Paths
from tests.evaluate.scoring import result_file, run, scoring
from tests.heads import write_head
from tests.workspace import SPLIT, MakeConfig, opened
from tests.workspace import run as run_stage


def test_the_oracles_head_is_the_one_that_is_scored(
    workspace: Paths, make_config: MakeConfig
) -> None:
    config = make_config()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*oracle"):
        run(config, workspace, "oracle")
    write_head(workspace.oracle, seed=1, align=config.align)
    run(config, workspace, "oracle")
    run(config, workspace)
    found = {name: read_result(result_file(workspace, name)) for name in ("fmbseg", "oracle")}
    heads = {"fmbseg": workspace.align, "oracle": workspace.oracle}
    for name, head in heads.items():
        assert found[name]["checkpoint_sha256"] == load_checkpoint(head).sha256
    assert found["oracle"]["per_class_iou"] != found["fmbseg"]["per_class_iou"]


def test_another_head_is_scored_again(workspace: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    first = run(config, workspace).key
    maskclip = run(config, workspace, "maskclip").key
    checkpoint = load_checkpoint(workspace.align)
    save_checkpoint(workspace.align, seeded_head(checkpoint.head.config, 1), checkpoint.info)
    assert run(config, workspace).key != first
    assert run(config, workspace, "maskclip").key == maskclip


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("align", {"head": "mlp"}),
        ("align", {"epochs": 7}),
        ("run", {"seed": 1}),
        ("features", {"encoder": "dinov2-vit-b-14"}),
        ("features", {"short_side": 128}),
        ("clip", {"model": "clip-vit-b-16"}),
        ("clip", {"templates": "subset7"}),
        ("evaluate", {"background_threshold": 0.7}),
        ("evaluate", {"protocol": "sclip"}),
    ],
)
@pytest.mark.parametrize("name", ["evaluate", "evaluate@coco_stuff", "plots", "evaluate_oracle"])
def test_a_head_of_other_parameters_is_refused(
    name: str,
    section: str,
    values: dict[str, object],
    workspace: Paths,
    make_config: MakeConfig,
) -> None:
    """Else its scores would be recorded as those of the configuration."""
    config = make_config(**{section: values})
    write_head(workspace.oracle, seed=1, align=make_config().align)
    ((key, value),) = values.items()
    stage = "oracle" if name == "evaluate_oracle" else "align"
    message = rf"{section}\.{key}=.*{section}\.{key}={value}: run `fmbseg run {stage}` first"
    with pytest.raises(StoreError, match=message):
        run_stage(name, config, workspace)
    with pytest.raises(StoreError, match=message):
        assert opened(name, config, workspace).key
    assert not workspace.metrics.exists()


@pytest.mark.parametrize("name", ["evaluate", "plots", "evaluate_oracle"])
def test_a_missing_head_is_named_with_its_stage(
    name: str, workspace: Paths, make_config: MakeConfig
) -> None:
    shutil.rmtree(workspace.align)
    stage = "oracle" if name == "evaluate_oracle" else "align"
    with pytest.raises(StoreError, match=rf"{stage} holds no head: run `fmbseg run {stage}` first"):
        run_stage(name, make_config(), workspace)


def test_a_head_that_is_named_may_be_any(workspace: Paths, make_config: MakeConfig) -> None:
    """As `fmbseg evaluate` and `fmbseg predict` use it."""
    config = make_config(align={"head": "mlp"})
    assert scoring(config, workspace, results=workspace.root / "results").run().images == 5
    write_head(workspace.root / "theirs", seed=2)
    theirs = Candidate("oracle", config, workspace, workspace.root / "theirs")
    (one,) = benchmark_scorings(theirs, ["coco_stuff"], workspace.metrics, silent_progress())
    one.run()
    sha256 = load_checkpoint(workspace.root / "theirs").sha256
    assert read_result(one.target)["checkpoint_sha256"] == sha256


def test_what_matters_of_a_heads_record_is_in_the_key(
    workspace: Paths, make_config: MakeConfig
) -> None:
    config = make_config()
    first, head = scoring(config, workspace).key, load_checkpoint(workspace.align)
    save_checkpoint(workspace.align, head.head, replace(head.info, metrics={"loss": 1.0}))
    assert scoring(config, workspace).key == first
    save_checkpoint(workspace.align, head.head, replace(head.info, templates="subset7"))
    assert scoring(config, workspace).key != first


def test_a_head_is_published_with_what_it_is_scored_with(
    labelled: Paths, make_config: MakeConfig, coco: Path
) -> None:
    """Another threshold trains nothing anew: the head is published with it, and scored again."""
    benchmarks = {"coco_object": {"root": str(coco), "split": SPLIT}}

    def config(threshold: float) -> Config:
        section = {"short_side": 64, "background_threshold": threshold, "benchmarks": benchmarks}
        return make_config(evaluate=section)

    for name in ("features", "align"):
        run_stage(name, config(0.02), labelled)
    results = []
    for threshold in (0.02, 0.9):
        assert run_stage("align", config(threshold), labelled).computed == 0
        assert run_stage("evaluate", config(threshold), labelled).computed == 3
        result = read_result(labelled.metrics / "fmbseg" / "coco_object.json")
        matrix, segmenter = ConfusionMatrix(81), load_segmenter(labelled.align)
        for sample in load_dataset("coco_object", coco, SPLIT):
            found = segmenter.predict(sample.image_path, vocabulary="coco_object")
            assert sample.label is not None
            matrix.update(found.label_map, sample.label)
        assert result["miou"] == matrix.miou()
        results.append(result)
    first, second = results
    assert first["checkpoint_sha256"] == second["checkpoint_sha256"]
    assert first["per_class_iou"] != second["per_class_iou"]
    with pytest.raises(StoreError, match=r"background_threshold=0\.9, the configuration"):
        run_stage("evaluate", config(0.02), labelled)


def test_plots_are_of_the_present_head(workspace: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(DataError, match="fmbseg run evaluate"):
        run_stage("plots", config, workspace)
    run_stage("evaluate", config, workspace)
    report = run_stage("plots", config, workspace)
    assert report.computed == 1
    assert opened("plots", config, workspace).key == report.key
    assert run_stage("plots", config, workspace).computed == 0
    assert {path.name for path in workspace.plots.rglob("*.*")} == {
        "manifest.json",
        "coco_stuff.csv",
        "coco_stuff.png",
    }
    iou = read_result(result_file(workspace))["per_class_iou"]
    with (workspace.plots / "classes" / "coco_stuff.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["class"] for row in rows} == {name for name in iou if iou[name] is not None}
    values = [float(row["iou"]) for row in rows]
    assert values == sorted(values, reverse=True)
    checkpoint = load_checkpoint(workspace.align)
    save_checkpoint(workspace.align, seeded_head(checkpoint.head.config, 1), checkpoint.info)
    with pytest.raises(DataError, match="coco_stuff is not of the present head"):
        run_stage("plots", config, workspace)
