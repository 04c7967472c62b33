"""The pipeline through DVC, for real, in a scratch project with few scenes."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fmbseg.config import load_config
from fmbseg.pipeline.run import stage_names
from fmbseg.pipeline.table import ROWS
from tests.project import BENCHMARKS, Project, copy_project

pytestmark = pytest.mark.slow


STAGES = stage_names(load_config(Path(__file__).parents[2] / "params.yaml"))
ALL = {name for name in STAGES if name.partition("@")[2] in ("", *BENCHMARKS)}
METHODS = ("fmbseg", "maskclip", "pseudo", "oracle")
DRAWN = {"plots", "figures", "report"}
SCORES = {name for name in ALL if name.startswith("evaluate")}


@dataclass
class First:
    """A project after its first `dvc repro`, the stages that ran, and what git says has changed."""

    project: Project
    ran: set[str]
    changed: set[str]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[First]:
    """What all tests start from, made once; not to be changed."""
    root = tmp_path_factory.mktemp("first") / "fmbseg"
    project = copy_project(repository, root)
    ran = project.repro()
    changed = {line[3:] for line in project.run("git", "status", "--short").splitlines()}
    project.commit("results")
    yield First(project, ran, changed)
    shutil.rmtree(root)


@pytest.fixture
def project(first: First, tmp_path: Path) -> Iterator[Project]:
    """A copy of the first project, with its store, caches and runs."""
    root = tmp_path / "fmbseg"
    shutil.copytree(first.project.root, root, symlinks=True)
    yield Project(root)
    shutil.rmtree(root)


def test_first_run_makes_everything(first: First, project: Project) -> None:
    assert first.ran == ALL
    # Nothing under data/ nor any cache is offered to git.
    assert first.changed == {"dvc.lock", "metrics/"}
    for method in METHODS:
        for benchmark in BENCHMARKS:
            found = project.metrics(method, benchmark)
            assert (found["method"], found["benchmark"]) == (method, benchmark)
            assert found["images"] == 4
    assert "up to date" in project.run("dvc", "status")
    assert project.repro() == set()


def test_metrics_and_plots_show(project: Project) -> None:
    shown = project.run("dvc", "metrics", "show")
    for method in ("fmbseg", "oracle", "maskclip"):
        assert f"metrics/{method}/voc21.json" in shown.replace("\\", "/")
    project.run("dvc", "plots", "show", "-o", "plots")
    page = (project.root / "plots" / "index.html").read_text(encoding="utf-8")
    with (project.root / "data" / "plots" / "iou" / "voc21.csv").open(encoding="utf-8") as stream:
        classes = [row["class"] for row in csv.DictReader(stream)]
    assert classes
    for name in ("iou/voc21.csv", "confusions/voc21.csv", "curve.csv", *classes):
        assert name in page
    assert len(list((project.root / "plots").rglob("*voc21.png"))) == 1


def test_another_head_reruns_what_depends_on_it_and_is_a_run_in_mlflow(project: Project) -> None:
    before = (project.root / "data" / "align" / "head.safetensors").read_bytes()
    project.set("head: transformer", "head: linear")
    assert project.repro() == {"align", "oracle"} | DRAWN | SCORES
    assert (project.root / "data" / "align" / "head.safetensors").read_bytes() != before

    # Back again: everything comes out of the run-cache, the same bytes.
    project.run("git", "checkout", "params.yaml", "dvc.lock")
    assert project.repro() == set()
    assert (project.root / "data" / "align" / "head.safetensors").read_bytes() == before
    _two_heads_are_two_complete_runs(project)


def _two_heads_are_two_complete_runs(project: Project) -> None:
    config = load_config(project.root / "params.yaml")
    client = MlflowClient(tracking_uri=f"sqlite:///{project.root}/mlflow.db")
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    assert experiment is not None
    wanted = "params.method = 'fmbseg'"
    runs = client.search_runs([experiment.experiment_id], wanted)
    assert sorted(run.data.params["align.head"] for run in runs) == ["linear", "transformer"]
    for run in runs:
        assert {f"miou/{benchmark}" for benchmark in BENCHMARKS} <= set(run.data.metrics)
        figures = {
            "images_per_second/masks",
            "peak_memory_mb/detect",
            "pseudo_labels/masks_per_image",
        }
        assert figures <= set(run.data.metrics)
        data = {each.dataset.name for each in run.inputs.dataset_inputs}
        assert {"coco_stuff/train2017", "pseudo labels", "voc21/val"} <= data
        child = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
        children = client.search_runs([experiment.experiment_id], child)
        named = {found.info.run_name: found for found in children}
        assert len(named) == len(children) == 1 + len(BENCHMARKS)  # the training is the other one
        training = named["training-fmbseg"]
        assert len(client.get_metric_history(training.info.run_id, "loss")) == 2
        overlays = {file.path for file in client.list_artifacts(run.info.run_id, "overlay")}
        assert len(overlays) == len(BENCHMARKS)


KEYS = """
import json
from fmbseg.config import load_config
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import open_stage
from fmbseg.store.paths import Paths
config = load_config("params.yaml")
names = ("scenes", "detect", "masks", "features", "baselines@voc21")
keys = {name: open_stage(name, config, Paths(), silent_progress()).key for name in names}
print(json.dumps(keys))
"""


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("scenes/textures.py", {"scenes"}),
        ("pseudo/detection.py", {"detect", "masks", "baselines@voc21"}),
        ("models/sam.py", {"detect", "masks", "features", "baselines@voc21"}),
        ("align/features.py", {"features"}),
        ("view/overlay.py", set()),
    ],
)
def test_a_changed_source_changes_the_keys_of_its_stages_only(
    project: Project, source: str, changed: set[str]
) -> None:
    def keys() -> dict[str, str]:
        said = project.run("python", "-c", KEYS).splitlines()
        found: dict[str, str] = json.loads(next(line for line in said if line.startswith("{")))
        return found

    before = keys()
    with (project.root / "fmbseg" / source).open("a", encoding="utf-8") as stream:
        stream.write("\n# changed\n")
    after = keys()
    assert {name for name, key in before.items() if after[name] != key} == changed


def test_another_version_of_a_library_reruns_what_depends_on_it(project: Project) -> None:
    file = project.root / "libraries.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("timm: ", "timm: 9."), encoding="utf-8")
    stale = json.loads(project.run("dvc", "status", "--json").splitlines()[-1])
    assert {name.partition("@")[0] for name in stale} == {
        name for name, row in ROWS.items() if "timm" in row.depends.libraries and not row.on_request
    }


def test_a_lost_out_comes_from_the_run_cache(project: Project) -> None:
    shutil.rmtree(project.root / "data" / "pseudo" / "label")
    assert project.repro() == set()
    labels = project.root / "data" / "pseudo" / "label" / "labels"
    assert {len(list(vocabulary.iterdir())) for vocabulary in labels.iterdir()} == {8}


def test_stages_take_over_what_the_store_has(project: Project) -> None:
    for name in ("detect", "query", "masks", "label", "features", "align"):
        assert f"{name}: 0 computed" in project.run("fmbseg", "run", name)


def test_experiments_with_other_heads_and_losses_are_queued(project: Project) -> None:
    head = (project.root / "data" / "align" / "head.safetensors").read_bytes()
    project.run("dvc", "exp", "run", "--queue", "-S", "align.head=mlp", "-S", "align.loss=text")
    project.run(
        "dvc", "exp", "run", "--queue", "-S", "align.head=linear", "-S", "align.loss=supcon"
    )
    project.run("dvc", "exp", "run", "--run-all")  # each in a folder of its own
    shown = csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines())
    done = [row for row in shown if row["rev"] not in ("workspace", "main", "master")]
    assert {(row["align.head"], row["align.loss"]) for row in done} == {
        ("mlp", "text"),
        ("linear", "supcon"),
    }
    # Scored, each for itself.
    scores = [row["metrics/fmbseg/voc21.json:miou"] for row in done]
    assert all(scores) and len(set(scores)) == 2
    assert (project.root / "data" / "align" / "head.safetensors").read_bytes() == head
    assert project.repro() == set()


def publish(project: Project) -> subprocess.CompletedProcess[str]:
    return project.try_run("python", "-m", "fmbseg.pipeline.publish")


def test_a_run_is_published_and_a_clone_has_it(project: Project, tmp_path: Path) -> None:
    project.run("git", "reset", "-q", "HEAD~1")  # before its results were committed
    project.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    done = publish(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pushed to 'storage'" in done.stdout
    staged = project.run("git", "diff", "--cached", "--name-only").split()
    results = {f"metrics/{m}/{b}.json" for m in METHODS for b in BENCHMARKS}
    assert {*staged} == {"dvc.lock", ".dvc/config", *results}
    project.run("git", "commit", "-qm", "results")

    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.root), str(clone.root))
    shown = clone.run("dvc", "metrics", "show")
    score = f"{float(str(project.metrics('fmbseg', 'voc21')['miou'])):.5f}".rstrip("0")
    assert score in shown
    assert clone.run("fmbseg", "table") == project.run("fmbseg", "table")
    clone.run("dvc", "pull", "-q")
    for name in ("align", "pseudo/label", "report"):
        made, pulled = (each.root / "data" / name for each in (project, clone))
        files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
        assert files
        assert all((made / f).read_bytes() == (pulled / f).read_bytes() for f in files)
    assert "up to date" in clone.run("dvc", "status")
    assert clone.repro() == set()


def test_a_clone_without_a_remote_makes_everything_and_mlflow_has_it(
    project: Project, tmp_path: Path
) -> None:
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.root), str(clone.root))
    # What is computed is the other tests' matter: here DVC has no cache and MLflow no database.
    shutil.copytree(project.root / ".fmbseg", clone.root / ".fmbseg")
    ran = clone.repro()
    assert ran == {name for name in ALL if "@" not in name}  # the scores are those of git
    assert not clone.run("git", "status", "--short")
    client = MlflowClient(tracking_uri=f"sqlite:///{clone.root}/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "fmbseg")
    found = client.search_runs([experiment.experiment_id], "params.method != ''")
    assert {run.data.params["method"] for run in found} == {*METHODS}
    for run in found:
        assert {f"miou/{benchmark}" for benchmark in BENCHMARKS} <= set(run.data.metrics)
    assert client.get_model_version_by_alias("fmbseg", "champion")


def test_the_demo_measures_what_git_has_brought(project: Project, tmp_path: Path) -> None:
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.root), str(clone.root))
    shutil.copytree(project.root / ".fmbseg", clone.root / ".fmbseg")
    recipe = (Path(__file__).parents[2] / "Makefile").read_text()
    (demo,) = re.findall(
        r"(?m)^\tpython (-m fmbseg\.pipeline\.repro .+ --force-downstream)$", recipe
    )
    command = [sys.executable, *demo.replace("$(LANES)", "2").split()]
    assert set(re.findall(r"Running stage '(.+?)'", clone.run(*command))) == ALL
    assert not clone.run("git", "status", "--short")


def test_what_is_not_this_run_is_not_published(project: Project, tmp_path: Path) -> None:
    def refused() -> str:
        done = publish(project)
        assert done.returncode == 2 and not done.stdout
        (line,) = done.stderr.splitlines()
        assert not project.run("git", "diff", "--cached", "--name-only")
        return line

    project.set("head: transformer", "head: linear")
    assert "out of date: align, " in refused() and "`dvc repro`" in refused()
    project.run("git", "checkout", "params.yaml")
    with (project.root / "params.yaml").open("a") as stream:
        stream.write("# a remark\n")
    assert "not committed: params.yaml" in refused()
    project.run("git", "checkout", "params.yaml")
    stray = project.root / "metrics" / "fmbseg" / "camvid.json"
    shutil.copy(stray.with_name("voc21.json"), stray)
    assert "metrics/fmbseg/camvid.json: no stage makes this result" in refused()
    stray.unlink()
    done = publish(project)
    assert done.returncode == 0 and "no remote" in done.stdout
    (project.root / "dvc.lock").unlink()
    assert "there is no dvc.lock" in refused()


def test_scores_are_held_beside_a_commit_in_markdown(project: Project, repository: Path) -> None:
    shutil.copy(repository / "Makefile", project.root)
    (project.root / ".venv").mkdir()
    (project.root / ".venv" / ".installed").touch()
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, project.root)
    os.utime(project.root / ".venv" / ".installed")
    diff = ("make", "--no-print-directory", "metrics-diff", "BASE=HEAD")
    assert project.run(*diff) == "no score differs from HEAD\n"
    path = project.root / "metrics" / "maskclip" / "voc21.json"
    record = json.loads(path.read_text())
    before = record["miou"]
    record["miou"] += 1
    record["per_class_iou"]["dog"] = 1.0
    path.write_text(json.dumps(record))
    head, _, row = project.run(*diff).splitlines()
    assert [cell.strip() for cell in head.split("|")[1:4]] == ["Path", "Metric", "HEAD"]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:2] == ["metrics/maskclip/voc21.json", "miou"]
    assert float(cells[2]) == pytest.approx(before, abs=0.006) and float(cells[4]) == 1.0
    done = project.try_run(*diff[:-1], "BASE=nowhere")
    assert done.returncode != 0 and "nowhere" in done.stderr and "no score" not in done.stdout


def test_an_experiment_by_name_is_a_run_of_dvc(project: Project) -> None:
    for name in ("supcon", "one-vocabulary", "own-words"):
        options = project.run("fmbseg", "experiments", name, "--dvc").split()
        project.run("dvc", "exp", "run", "--queue", "-n", name, *options)
    shown = csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines())
    queued = {row["Experiment"]: row for row in shown if row["Experiment"]}
    assert queued["supcon"]["align.loss"] == "supcon"
    assert queued["one-vocabulary"]["data.vocabulary"] == "coco_stuff"
    assert queued["own-words"]["data.vocabulary"] == "experiments/words/own.yaml"
    # By fmbseg itself: said, and not taken for the result of params.yaml.
    said = project.run("fmbseg", "run", "align", "--experiment", "supcon")
    assert "is not the result of params.yaml" in said
    assert project.repro() == set()  # what was recorded comes out of the cache


def test_data_and_benchmark_outside_the_project(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "coco"
    shutil.copytree(project.root / "data" / "scenes" / "coco_stuff164k", outside)
    root = os.path.relpath(outside, project.root)
    before = project.metrics("fmbseg", "coco_stuff")

    project.set("coco_stuff: {root: data/scenes/coco_stuff164k", f"coco_stuff: {{root: {root}")
    assert project.repro("evaluate@coco_stuff") == {"evaluate@coco_stuff"}
    assert project.metrics("fmbseg", "coco_stuff") == before
    project.set("root: data/scenes/coco_stuff164k", f"root: {root}")
    assert project.repro("features") == {"features"}

    # A change of the images is seen, and their loss is one line.
    (outside / "images" / "train2017" / "000000000001.jpg").unlink()
    assert project.repro("features") == {"features"}
    shutil.rmtree(outside / "images" / "train2017")
    done = subprocess.run(
        ["fmbseg", "run", "features"],
        cwd=project.root,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("fmbseg: ")
