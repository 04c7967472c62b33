"""The scoring stages on disk: what is made, what is taken over, what makes them run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fmbseg.evaluate.everything import evaluate_all
from fmbseg.evaluate.predictors import load_predictor
from PIL import Image

from fmbseg.align.checkpoint import load_checkpoint, save_checkpoint
from fmbseg.align.heads import seeded_head
from fmbseg.config import Config
from fmbseg.data import load_dataset
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import CheckpointError, ConfigError, DataError, StoreError
from fmbseg.evaluate.benchmark import evaluate_benchmark
from fmbseg.evaluate.results import OWN_WORDS, read_result
from fmbseg.evaluate.stages import evaluate, scoring_state
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import run_stage, stage_state
from fmbseg.store.paths import Paths
from fmbseg.store.shards import StageReport, StageState
from tests.workspace import MakeConfig


def run(config: Config, paths: Paths, method: str = "fmbseg") -> StageReport:
    return evaluate(config, paths, silent_progress(), method)


def result_file(paths: Paths, method: str = "fmbseg") -> Path:
    return paths.metrics / method / "coco_stuff.json"


@pytest.mark.parametrize("method", ["fmbseg", "oracle", "maskclip", "pseudo"])
def test_the_stage_gives_what_one_go_gives(
    method: str, workspace: Paths, make_config: MakeConfig
) -> None:
    if method == "oracle":
        shutil.copytree(workspace.align, workspace.oracle)
    config = make_config()
    report = run(config, workspace, method)
    assert (report.computed, report.taken_over) == (3, 0)
    result = read_result(result_file(workspace, method))
    assert result.pop("key") == report.key
    assert len(result.pop("samples_sha256")) == 64
    root = workspace.root / "coco"
    once = evaluate_benchmark(
        "coco_stuff",
        method,
        load_predictor(method, config, workspace.align),
        load_dataset("coco_stuff", root, "val2017"),
        root,
        silent_progress(),
        batch_size=2,
    )
    assert result == once


def test_other_words_are_another_result_that_says_so(
    workspace: Paths, make_config: MakeConfig
) -> None:
    """The words are those of a file; key, hash and protocol tell the results apart."""
    words = workspace.root / "mine.yaml"
    words.write_text("of: coco_stuff\ntemplates: subset7\nask: {person: [sky, snow]}\n")
    config, root = make_config(), workspace.root / "coco"
    results = []
    for vocabulary in (None, str(words)):
        folder = workspace.root / f"results{len(results)}"
        scoring = evaluate_all(
            config, workspace, silent_progress(), ("maskclip",), folder, vocabulary=vocabulary
        )
        (line,) = scoring
        assert "3 shards computed" in line
        results.append(read_result(folder / "maskclip" / "coco_stuff.json"))
    first, second = results
    assert first["protocol"]["vocabulary"] == OWN_WORDS
    assert (second["protocol"]["vocabulary"], second["protocol"]["templates"]) == (
        "mine",
        "subset7",
    )
    assert first["vocabulary_sha256"] != second["vocabulary_sha256"]
    assert second["vocabulary_sha256"] == load_vocabulary(words).digest
    assert list(first["per_class_iou"]) == list(second["per_class_iou"])
    assert first["per_class_iou"] != second["per_class_iou"]
    assert first["key"] != second.pop("key")
    assert first["samples_sha256"] == second.pop("samples_sha256")  # the same images and truth
    dataset = load_dataset("coco_stuff", root, "val2017")
    predictor = load_predictor("maskclip", config, workspace.align)
    once = evaluate_benchmark(
        "coco_stuff",
        "maskclip",
        predictor,
        dataset,
        root,
        silent_progress(),
        vocabulary=load_vocabulary(words),
    )
    assert second == once


def test_a_second_run_computes_nothing(workspace: Paths, make_config: MakeConfig) -> None:
    first = run(make_config(), workspace)
    before = result_file(workspace).read_bytes()
    again = run(make_config(), workspace)
    assert (again.key, again.computed, again.taken_over) == (first.key, 0, 3)
    # Lost: made again from the shards.
    result_file(workspace).unlink()
    assert run(make_config(), workspace).computed == 0
    assert result_file(workspace).read_bytes() == before
    # Edited: likewise.
    result_file(workspace).write_text(before.decode().replace('"images": 5', '"images": 6'))
    assert run(make_config(), workspace).computed == 0
    assert result_file(workspace).read_bytes() == before


def test_the_state_is_what_a_run_would_find(workspace: Paths, make_config: MakeConfig) -> None:
    def state(config: Config) -> StageState:
        return scoring_state(config, workspace, silent_progress(), "fmbseg", "coco_stuff")

    before = state(make_config())
    assert not before.published
    assert run(make_config(), workspace).key == before.key
    assert state(make_config()) == StageState(before.key, published=True)
    assert state(make_config(sam={"batch_size": 3})) == StageState(before.key, published=True)
    result_file(workspace).unlink()
    assert not state(make_config()).published


def test_a_published_result_counts_without_shards(
    workspace: Paths, make_config: MakeConfig
) -> None:
    run(make_config(), workspace)
    shutil.rmtree(workspace.shards)
    report = run(make_config(), workspace)
    assert (report.computed, report.taken_over) == (0, 3)
    assert not workspace.shards.exists()
    result_file(workspace).write_text("{")
    assert run(make_config(), workspace).computed == 3


def test_a_killed_run_goes_on(workspace: Paths, make_config: MakeConfig) -> None:
    broken = workspace.root / "coco" / "images" / "val2017" / "000000000004.jpg"
    whole = broken.read_bytes()
    run(make_config(), workspace)
    expected = result_file(workspace).read_bytes()
    result_file(workspace).unlink()
    last = next(workspace.shards.rglob("000002"))
    shutil.rmtree(last)
    report = run(make_config(), workspace)
    assert (report.computed, report.taken_over) == (1, 2)
    assert result_file(workspace).read_bytes() == expected
    assert broken.read_bytes() == whole


def test_shard_size_does_not_change_the_result(workspace: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    run(config, workspace)
    expected = result_file(workspace).read_bytes()
    shutil.rmtree(workspace.shards)
    result_file(workspace).unlink()
    other = config.model_copy(update={"run": config.run.model_copy(update={"shard_size": 64})})
    assert run(other, workspace).computed == 1
    assert result_file(workspace).read_bytes() == expected


def test_what_is_scored_again(workspace: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    first = run(config, workspace).key
    maskclip = run(config, workspace, "maskclip").key
    changed = make_config(clip={"stride": 64})
    assert run(changed, workspace).key == first
    assert run(changed, workspace, "maskclip").key != maskclip
    evaluation = config.evaluate.model_dump()
    assert run(make_config(evaluate=evaluation | {"logit_scale": 20.0}), workspace).key != first

    # The truth changes one pixel; its file's encoding alone would not count.
    path = workspace.root / "coco" / "annotations" / "val2017" / "000000000000.png"
    with Image.open(path) as image:
        label = image.copy()
    label.save(path, compress_level=0)
    assert run(config, workspace).key == first
    label.putpixel((95, 63), 3)
    label.save(path)
    after = run(config, workspace)
    assert after.key != first
    assert (after.computed, after.taken_over) == (3, 0)


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
        ("align", {"epochs": 4}),
        ("run", {"seed": 1}),
        ("features", {"encoder": "dinov2-vit-b-14"}),
        ("features", {"short_side": 128}),
        ("clip", {"model": "clip-vit-b-16"}),
        ("clip", {"templates": "subset7"}),
    ],
)
def test_a_head_trained_with_other_parameters_is_refused(
    section: str, values: dict[str, object], workspace: Paths, make_config: MakeConfig
) -> None:
    """Else its scores would be recorded as those of the configuration."""
    config = make_config(**{section: values})
    ((name, value),) = values.items()
    message = rf"{section}\.{name}=.*{section}\.{name}={value}: run `fmbseg run align` first"
    stage = {"config": config, "paths": workspace, "progress": silent_progress()}
    for call in (
        lambda: run_stage("evaluate", **stage),
        lambda: run_stage("evaluate@coco_stuff", **stage),
        lambda: stage_state("evaluate@coco_stuff", **stage),
        lambda: run_stage("plots", **stage),
        lambda: stage_state("plots", **stage),
    ):
        with pytest.raises(StoreError, match=message):
            call()
    assert not workspace.metrics.exists()


def test_a_head_that_is_named_may_be_any(workspace: Paths, make_config: MakeConfig) -> None:
    """As `fmbseg evaluate`, `fmbseg predict` and the baselines use it."""
    config = make_config(align={"head": "mlp"})
    assert load_predictor("fmbseg", config, workspace.align).checkpoint_sha256
    results = workspace.root / "results"
    (line,) = evaluate_all(config, workspace, silent_progress(), ("fmbseg",), results)
    assert "5 images" in line
    assert run(config, workspace, "maskclip").computed == 3


def test_limit(workspace: Paths, make_config: MakeConfig) -> None:
    benchmarks = {"coco_stuff": {"root": "coco", "split": "val2017", "limit": 3}}
    config = make_config(evaluate={"short_side": 64, "benchmarks": benchmarks})
    assert run(config, workspace).computed == 2
    result = read_result(result_file(workspace))
    assert result["images"] == 3
    assert result["protocol"]["limit"] == 3


def test_mistakes(workspace: Paths, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        run(make_config(), workspace, "sam")
    with pytest.raises(ConfigError, match="no 'voc21'"):
        evaluate(make_config(), workspace, silent_progress(), "fmbseg", ["voc21"])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run(make_config(), workspace, "oracle")
    gone = make_config(evaluate={"benchmarks": {"coco_stuff": {"root": "x", "split": "val2017"}}})
    with pytest.raises(DataError, match="x"):
        run(gone, workspace)
