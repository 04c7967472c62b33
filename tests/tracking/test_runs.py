"""Which run a result belongs to, and what it shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from fmbseg.config import Config, load_config
from fmbseg.evaluate.methods import METHODS
from fmbseg.store.paths import Paths
from fmbseg.tracking.mlflow_runs import CHECKPOINT
from fmbseg.tracking.open import open_tracker
from fmbseg.tracking.run_content import class_table, run_key, run_params
from tests.heads import write_head
from tests.tracking.world import (
    PARAMS,
    child_runs,
    parent_runs,
    train,
    with_head,
    write_checkpoint,
    write_curve,
    write_result,
)

BENCHMARKS = ("voc21", "voc20", "coco_stuff")


def test_a_run_says_whose_labels_its_head_learned(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    found = {}
    for corrected, sha256 in ((0, "abc"), (7, "def")):
        learned = {"labels": "stage 1", "corrected_images": corrected, "corrected_pixels": 9}
        write_checkpoint(paths.align, sha256, key=f"key {corrected}")
        record = {"sha256": sha256, "training": {"supervision": learned}}
        (paths.align / "checkpoint.json").write_text(json.dumps(record))
        write_result(paths, "voc21", 10.0 + corrected, sha256, supervision=learned)
        open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
        (run,) = [run for run in parent_runs(config) if run.data.tags[CHECKPOINT] == sha256]
        note = run.data.tags["mlflow.note.content"]
        found[corrected] = run.data.tags["supervision"], run.info.run_name, note
    assert found[0][0] == "no annotation" and "corrected" not in found[0][1] + found[0][2]
    assert found[7][0] == "7 pictures corrected by people"
    assert "(7 pictures corrected by people) voc21 17.0" in found[7][1]
    assert found[7][2].endswith(": 7 pictures corrected by people")


def test_separate_processes_fill_one_run(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    train(config, paths)
    for miou, benchmark in enumerate(BENCHMARKS):
        write_result(paths, benchmark, 10.0 * miou, "abc")
        # A tracker of its own, as in a process of its own.
        open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", [benchmark])

    (run,) = parent_runs(config)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "fmbseg", **run_params(config, "fmbseg")}
    assert run.data.params["align.head"] == "transformer"
    assert {f"miou/{name}": run.data.metrics[f"miou/{name}"] for name in BENCHMARKS} == {
        "miou/voc21": 0.0,
        "miou/voc20": 10.0,
        "miou/coco_stuff": 20.0,
    }
    assert "pixel_accuracy/voc21" not in run.data.metrics
    assert run.data.tags["benchmark.voc20"] == "data/scenes/VOC2012 val"

    client = MlflowClient(tracking_uri=config.tracking.uri)
    names = {
        file.path
        for folder in ("checkpoint", "per_class_iou")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert names >= {"checkpoint/head.safetensors", "checkpoint/checkpoint.json"}
    assert names >= {f"per_class_iou/{name}.csv" for name in BENCHMARKS}
    table = client.download_artifacts(run.info.run_id, "per_class_iou/voc20.csv", str(tmp_path))
    assert Path(table).read_text() == 'class,iou\ndog,10.0000\n"tree, bush",\n'

    children = {child.info.run_name: child for child in child_runs(config)}
    assert set(children) == {"training-fmbseg", *(f"evaluate-{name}" for name in BENCHMARKS)}
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {run.info.run_id}
    assert children["evaluate-voc20"].data.metrics["miou"] == 10.0
    assert children["evaluate-voc20"].data.params["split"] == "val of voc20"
    child = children["training-fmbseg"]
    assert child.info.status == "FINISHED"
    history = client.get_metric_history(child.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_list_of_runs_can_be_read(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit = ["git", "-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]
    subprocess.run([*commit, "--allow-empty"], cwd=tmp_path, check=True)
    own = config.model_copy(
        update={"data": config.data.model_copy(update={"root": "inputs/photos", "split": "all"})}
    )
    for each, sha256, score in ((config, "abc", 59.34), (own, "def", 12.0)):
        write_checkpoint(paths.align, sha256)
        write_result(paths, "voc21", score, sha256)
        write_result(paths, "voc20", score + 1, sha256)
        open_tracker(each, tmp_path).evaluation(each, paths, "fmbseg", ["voc21", "voc20"])
    demo, photos = sorted(parent_runs(config), key=lambda run: run.data.metrics["miou/voc21"])[::-1]
    assert demo.info.run_name.startswith("fmbseg-scenes-transformer-tsupcon-")
    assert demo.info.run_name.endswith(" voc21 59.3")
    assert photos.info.run_name.startswith("fmbseg-photos-transformer-tsupcon-")
    assert "| fmbseg | 59.3 | 60.3 |" in demo.data.tags["mlflow.note.content"]
    assert "trained on inputs/photos (all)" in photos.data.tags["mlflow.note.content"]
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True)
    assert demo.data.tags["mlflow.source.git.commit"] == head.strip()
    # What a page shows: no digest among it.
    shown = {key: v for key, v in demo.data.tags.items() if not key.startswith("mlflow.")}
    assert shown.keys() == {"commit", "benchmark.voc21", "benchmark.voc20"}
    assert all(len(value) < 60 for value in shown.values())


def test_another_head_is_another_run_and_logging_again_is_none(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for sha256, kind in (("abc", "transformer"), ("def", "linear"), ("def", "linear")):
        write_checkpoint(paths.align, sha256)
        write_result(paths, "voc21", 5.0, sha256)
        other = with_head(config, kind)
        open_tracker(other, tmp_path).evaluation(other, paths, "fmbseg", ["voc21"])
    runs = parent_runs(config)
    assert sorted(run.data.params["align.head"] for run in runs) == ["linear", "transformer"]
    client = MlflowClient(tracking_uri=config.tracking.uri)
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "miou/voc21")) == 1
    # Their training was not tracked while it ran: the curve comes from the checkpoint's folder.
    trainings = [run for run in child_runs(config) if run.info.run_name == "training-fmbseg"]
    assert len(trainings) == 2
    assert {len(child.data.metrics) for child in trainings} == {2}
    assert len(child_runs(config)) == 4  # and a benchmark each


def test_results_that_needed_no_new_computation_are_in_the_run_too(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    write_checkpoint(paths.align, "abc")
    write_result(paths, "voc20", 7.0, "abc")
    write_result(paths, "coco_stuff", 8.0, "older checkpoint")
    write_result(paths, "voc21", 9.0, "abc", without_held_out_glyphs={"miou": 9.5, "images": 3})
    open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", ["voc21"])
    (run,) = parent_runs(config)
    assert run.data.metrics["miou/voc20"] == 7.0
    assert "miou/coco_stuff" not in run.data.metrics
    assert run.data.metrics["miou_without_held_out_glyphs/voc21"] == 9.5


def test_a_baseline_is_a_run_of_its_own_with_the_same_columns(
    config: Config, tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    write_result(paths, "voc21", 3.0, None, method="maskclip")
    picture = Image.new("RGB", (8, 8), (200, 10, 10))
    tracker = open_tracker(config, tmp_path)
    tracker.evaluation(config, paths, "maskclip", ["voc21"], lambda benchmark: picture)
    (run,) = parent_runs(config)
    assert run.data.params["method"] == "maskclip"
    assert run.data.params["clip.model"] == "tiny-clip"
    # Nothing was trained: another head is no other baseline.
    assert "align.head" not in run.data.params
    other = with_head(config, "linear")
    open_tracker(other, tmp_path).evaluation(other, paths, "maskclip", ["voc21"])
    assert len(parent_runs(config)) == 1
    assert run.data.metrics["miou/voc21"] == 3.0
    client = MlflowClient(tracking_uri=config.tracking.uri)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "overlay")] == [
        "overlay/voc21.png"
    ]


def test_a_lucky_score_on_other_images_of_the_same_folder_is_no_champion(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    benchmark, name = config.tracking.champion_benchmark, config.tracking.model
    client = MlflowClient(tracking_uri=config.tracking.uri)

    def champion(sha256: str, miou: float, samples: str) -> str:
        """The checkpoint of the champion after this one was scored."""
        write_head(paths.align, 0, "voc20")
        path = paths.align / "checkpoint.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": sha256}))
        write_curve(paths.align)
        write_result(paths, benchmark, miou, sha256, samples_sha256=samples)
        open_tracker(config, tmp_path).evaluation(config, paths, "fmbseg", [benchmark])
        run_id = client.get_model_version_by_alias(name, "champion").run_id
        return str(client.get_run(run_id).data.tags[CHECKPOINT])

    assert champion("first", 20.0, "all") == "first"
    assert champion("lucky", 90.0, "four of them") == "first"
    assert "compare by hand" in caplog.text
    assert champion("better", 20.1, "all") == "better"


def test_key_depends_on_method_checkpoint_and_what_changes_a_result(config: Config) -> None:
    key = run_key(config, "fmbseg", "abc")
    assert run_key(config, "oracle", "abc") != key
    assert run_key(config, "fmbseg", "def") != key
    assert run_key(with_head(config, "mlp"), "fmbseg", "abc") != key
    same = load_config(
        PARAMS, ["tracking.enabled=false", "run.cache_gb=0", "evaluate.benchmarks={}"]
    )
    assert run_key(same, "fmbseg", "abc") == key


def test_a_run_has_the_parameters_that_its_method_depends_on(config: Config) -> None:
    """Another value of any other parameter is no other run."""
    found = {name: run_params(config, name) for name in METHODS}
    sections = {name: {key.partition(".")[0] for key in params} for name, params in found.items()}
    assert sections["maskclip"] == {"run", "clip", "evaluate"}
    stage_1 = {"run", "clip", "detection", "query", "sam", "masks", "label", "evaluate"}
    assert sections["pseudo"] == stage_1
    peers = {"retrieval", "talk2dino"}
    own = set(Config.model_fields) - {"tracking"} - peers
    assert sections["fmbseg"] == sections["oracle"] == own
    assert sections["retrieval"] & peers == {"retrieval"}
    assert "evaluate.protocol" in found["maskclip"] and "evaluate.protocol" not in found["pseudo"]
    assert found["maskclip"]["run.preset"] == "tiny"
    for params in found.values():
        assert not {key for key in params if key.startswith(("run.cache", "evaluate.bench"))}
    other = config.model_copy(update={"sam": config.sam.model_copy(update={"batch_size": 3})})
    assert run_key(other, "maskclip", None) == run_key(config, "maskclip", None)
    assert run_key(other, "pseudo", None) != run_key(config, "pseudo", None)


def test_class_table_quotes_names() -> None:
    assert class_table({"per_class_iou": {'a "b", c': 1.0}}) == 'class,iou\n"a ""b"", c",1.0000\n'
