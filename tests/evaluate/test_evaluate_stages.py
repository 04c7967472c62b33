"""Scores on disk: what is made, what is taken over, what makes them be made again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg.align.checkpoint import load_checkpoint
from fmbseg.config import Config
from fmbseg.data import load_dataset
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import ConfigError, DataError, VocabularyError
from fmbseg.evaluate.benchmark import benchmark_result, count_pixels, scored_as
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.results import OWN_WORDS, chosen_examples, read_result
from fmbseg.evaluate.scoring import Candidate, benchmark_scorings
from fmbseg.machine.progress import silent_progress
from fmbseg.stage.tracker import Overlay, Tracker
from fmbseg.store.paths import Paths
from tests.evaluate.scoring import result_file, run, scoring
from tests.heads import write_head
from tests.workspace import SPLIT, MakeConfig, opened
from tests.workspace import run as run_stage


def in_one_go(
    config: Config, paths: Paths, method: str, words: str | None = None
) -> dict[str, Any]:
    """The result without shards, keys and files."""
    dataset = load_dataset("coco_stuff", paths.root / "coco", SPLIT)
    vocabulary = load_vocabulary(words) if words else dataset.vocabulary
    folder = METHODS[method].head_folder(paths)
    predictor = load_predictor(method, config, folder or METHODS[method].made_folder(paths))
    trained_on = None if folder is None else load_checkpoint(folder).info.vocabularies[:1]
    counts = count_pixels(predictor, dataset, vocabulary, batch_size=2, benchmark="coco_stuff")
    result = benchmark_result(
        "coco_stuff",
        method,
        counts,
        vocabulary,
        protocol=scored_as(dataset, None, vocabulary) | predictor.protocol(vocabulary),
        checkpoint_sha256=predictor.checkpoint_sha256,
        scenes=False,
        unseen=None if trained_on is None else vocabulary.unknown_to(trained_on),
    )
    return result | {"examples": chosen_examples([each.image_id for each in dataset], counts.own)}


@pytest.mark.parametrize("method", METHODS)
def test_shards_give_what_one_go_gives(
    method: str, equipped: Paths, make_config: MakeConfig
) -> None:
    config = make_config()
    write_head(equipped.oracle, seed=1, align=config.align)
    report = run(config, equipped, method)
    assert (report.computed, report.taken_over, report.images) == (3, 0, 5)
    result = read_result(result_file(equipped, method))
    assert result.pop("key") == report.key
    assert len(result.pop("samples_sha256")) == 64
    assert result == in_one_go(config, equipped, method)


def test_other_words_are_another_result_that_says_so(
    workspace: Paths, make_config: MakeConfig
) -> None:
    """The words are those of a file; key, hash and protocol tell the results apart."""
    words = workspace.root / "mine.yaml"
    words.write_text("of: coco_stuff\ntemplates: subset7\nask: {person: [sky, snow]}\n")
    config = make_config()
    results = []
    for vocabulary in (None, str(words)):
        folder = workspace.root / f"results{len(results)}"
        one = scoring(config, workspace, "maskclip", folder, words=vocabulary)
        assert one.run().computed == 3
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
    assert second == in_one_go(config, workspace, "maskclip", str(words))
    with pytest.raises(VocabularyError, match="does not have the classes"):
        scoring(config, workspace, words="voc21")


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


@pytest.mark.parametrize("name", ["evaluate", "evaluate@coco_object", "baselines"])
def test_a_report_has_the_key_that_the_stage_is_asked_for(
    name: str, workspace: Paths, make_config: MakeConfig, coco: Path
) -> None:
    """For one benchmark or several, one method or several."""
    entry = {"root": str(coco), "split": SPLIT, "limit": 2}
    benchmarks = {"coco_stuff": entry, "coco_object": entry}
    config = make_config(evaluate={"short_side": 64, "benchmarks": benchmarks})
    before = opened(name, config, workspace)
    assert not before.published
    assert run_stage(name, config, workspace).key == before.key
    after = opened(name, config, workspace)
    assert (after.key, after.published) == (before.key, True)
    results = sorted(workspace.metrics.glob("*/*.json"))
    assert len(results) == {"evaluate": 2, "evaluate@coco_object": 1, "baselines": 4}[name]
    if len(results) == 1:
        assert read_result(results[0])["key"] == before.key
    # What the stage does not read changes nothing.
    unread = config.model_copy(update={"run": config.run.model_copy(update={"cache_gb": 9.0})})
    assert opened(name, unread, workspace).published
    results[-1].unlink()
    assert not opened(name, config, workspace).published


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


def test_the_table_of_scenes_is_in_the_key(workspace: Paths, make_config: MakeConfig) -> None:
    """It says which images show glyphs that pretraining never saw."""
    import pandas as pd

    keys = {scoring(make_config(), workspace).key}
    for held_out in (False, True):
        row = {"image_id": "000000000001", "held_out": held_out, "visible_pixels": 9}
        pd.DataFrame([row]).to_parquet(workspace.root / "coco" / "scenes.parquet", index=False)
        keys.add(scoring(make_config(), workspace).key)
    assert len(keys) == 3


class Recorded(Tracker):
    """Asks for the picture of each benchmark that it is handed."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[str, ...], Image.Image | None]] = []

    def evaluation(
        self,
        config: Config,
        paths: Paths,
        method: str,
        benchmarks: Sequence[str],
        overlay: Overlay | None = None,
    ) -> None:
        picture = None if overlay is None else overlay(benchmarks[0])
        self.seen.append((method, tuple(benchmarks), picture))


def test_each_method_is_tracked_once_the_trained_one_with_a_picture(
    workspace: Paths, make_config: MakeConfig
) -> None:
    config, tracker = make_config(), Recorded()
    for name in ("evaluate", "baselines@coco_stuff"):
        run_stage(name, config, workspace, tracker)
    methods = [(method, benchmarks) for method, benchmarks, _ in tracker.seen]
    assert methods == [(name, ("coco_stuff",)) for name in ("fmbseg", "maskclip", "pseudo")]
    picture, *others = (picture for _, _, picture in tracker.seen)
    assert others == [None, None]
    run_stage("plots", config, workspace)
    with Image.open(workspace.plots / "overlays" / "coco_stuff.png") as drawn:
        assert picture is not None and np.array_equal(drawn, picture)


def test_limit(workspace: Paths, make_config: MakeConfig, coco: Path) -> None:
    benchmarks = {"coco_stuff": {"root": str(coco), "split": SPLIT, "limit": 3}}
    config = make_config(evaluate={"short_side": 64, "benchmarks": benchmarks})
    assert run(config, workspace).computed == 2
    result = read_result(result_file(workspace))
    assert result["images"] == 3
    assert result["protocol"]["limit"] == 3
    for asked, fewest in ((2, 2), (9, 3)):
        assert len(scoring(config, workspace, limit=asked).samples) == fewest


def test_mistakes(workspace: Paths, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        run(make_config(), workspace, "sam")
    with pytest.raises(ConfigError, match="no 'voc21'"):
        candidate = Candidate("fmbseg", make_config(), workspace)
        benchmark_scorings(candidate, ["voc21"], workspace.metrics, silent_progress())
    gone = make_config(evaluate={"benchmarks": {"coco_stuff": {"root": "x", "split": SPLIT}}})
    with pytest.raises(DataError, match="x"):
        run(gone, workspace)
