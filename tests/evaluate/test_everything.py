"""`fmbseg evaluate --all` and `--predictions` as processes, killed ones among them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fmbseg.store.paths import Paths

COMMAND = [sys.executable, "-m", "fmbseg", "evaluate"]
IMAGES = 24


def fmbseg(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def project(workspace: Paths) -> Path:
    """The workspace with more images, two benchmarks of it, and a params.yaml; shards of 4."""
    root = workspace.root
    for index in range(5, IMAGES):
        for place, suffix in (("images", "jpg"), ("annotations", "png")):
            folder = root / "coco" / place / "val2017"
            shutil.copy(folder / f"{index % 5:012d}.{suffix}", folder / f"{index:012d}.{suffix}")
    entry = {"root": "coco", "split": "val2017"}
    params = {
        "run": {"threads": 1, "device": "cpu", "shard_size": 4},
        "clip": {"short_side": 64},
        "evaluate": {
            "short_side": 64,
            "batch_size": 2,
            "benchmarks": {"coco_stuff": entry, "coco_object": entry},
        },
    }
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def results(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*")}


def finished(root: Path) -> dict[Path, int]:
    """Finished shards and when each was made."""
    shards = (root / ".fmbseg" / "shards").glob("*/*/[0-9]*/digest.json")
    return {path: path.stat().st_mtime_ns for path in shards}


@pytest.mark.slow
def test_killed_half_way_it_goes_on_and_gives_the_same(project: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(project, whole, ignore=shutil.ignore_patterns("whole"))
    done = fmbseg("--all", cwd=whole)
    assert done.returncode == 0, done.stderr
    assert "fmbseg on coco_object" in done.stdout and "(6 shards computed, 0 taken" in done.stdout
    assert "all benchmarks: 96/96" in done.stderr

    process = subprocess.Popen(
        [*COMMAND, "--all"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while len(finished(project)) < 8:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(project)
    assert 8 <= len(before) < 24

    again = fmbseg("--all", cwd=project)
    assert again.returncode == 0, again.stderr
    after = finished(project)
    # No finished shard was touched, and every other was made.
    assert {path: after[path] for path in before} == before
    assert len(after) == 24
    lines = [line for line in again.stdout.splitlines() if "shards computed" in line]
    counts = [line.split("(")[1].split() for line in lines]
    assert sum(int(words[0]) for words in counts) == 24 - len(before)
    assert sum(int(words[3]) for words in counts) == len(before)
    assert results(project / "results") == results(whole / "results")
    # Nothing of the pipeline's own results is touched.
    assert not (project / "metrics").exists()
    assert not [path for path in (project / ".fmbseg").rglob(".fmbseg-tmp-*")]


@pytest.mark.slow
def test_table_limit_protocol_and_predictions(project: Path) -> None:
    done = fmbseg("--all", "--method", "maskclip", "--limit", "3", cwd=project)
    assert done.returncode == 0, done.stderr
    first = json.loads((project / "results" / "maskclip" / "coco_stuff.json").read_text())
    assert first["images"] == 3
    assert {"table.md", "table.csv", "table.tex"} <= {
        path.name for path in (project / "results").iterdir()
    }
    # The same command with sliding windows: other numbers under another name.
    done = fmbseg(
        "--all", "--method", "maskclip", "--limit", "3", "--protocol", "sclip", cwd=project
    )
    assert done.returncode == 0, done.stderr
    other = json.loads((project / "results" / "maskclip" / "coco_stuff.json").read_text())
    assert (first["protocol"]["name"], other["protocol"]["name"]) == ("fmbseg", "sclip")
    assert other["protocol"]["window"] == 224
    assert other["per_class_iou"] != first["per_class_iou"]

    theirs = project / "GroupViT"
    theirs.mkdir()
    for path in (project / "coco" / "annotations" / "val2017").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 255, 0, label)).save(theirs / path.name)
    done = fmbseg(
        "--predictions", "GroupViT", "--benchmark", "coco_stuff", "--limit", "3", cwd=project
    )
    assert done.returncode == 0, done.stderr
    scored = json.loads((project / "results" / "GroupViT" / "coco_stuff.json").read_text())
    assert scored["images"] == 3 and scored["per_class_iou"]["person"] is not None
    done = fmbseg("--all", "--method", "maskclip", "--limit", "3", cwd=project)
    table = (project / "results" / "table.md").read_text()
    assert "| GroupViT | its label maps, scored here |" in table
    assert "| GroupViT | published |" in table


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "Missing option '--benchmark' (or '--all')"),
        ("--all --benchmark voc21", "--benchmark does not go with --all"),
        ("--all --predictions x", "--predictions does not go with --all"),
        ("--all --protocol mmseg", "'mmseg' is not one of"),
        ("--all --method pseudo --protocol tcl", "--protocol does not go with --method pseudo"),
        ("--all --vocabulary voc21", "vocabulary 'voc21' does not have the classes of"),
        ("--all --set evaluate.benchmarks={}", "evaluate.benchmarks is empty"),
        ("--all --method oracle", "no checkpoint in data/oracle"),
        ("--all --method sam", "'sam' is not one of fmbseg, maskclip, sclip"),
        ("--all --checkpoint data/align", "--checkpoint does not go with --all"),
        (
            "--benchmark coco_stuff --method oracle --json m.json",
            "no checkpoint in data/oracle",
        ),
        (
            "--benchmark coco_stuff --method maskclip --json m.json --checkpoint data/align",
            "--checkpoint does not go with --method maskclip",
        ),
        (
            "--benchmark coco_stuff --method pseudo --json m.json --checkpoint data/align",
            "--checkpoint does not go with --method pseudo",
        ),
        (
            "--benchmark coco_stuff --method maskclip --json m.json --out other",
            "--out does not go with --benchmark and --method",
        ),
        (
            "--benchmark coco_stuff --predictions coco --json m.json --out other",
            "--out does not go with --json",
        ),
        (
            "--benchmark coco_stuff --predictions coco --checkpoint data/align",
            "--checkpoint does not go with --predictions",
        ),
        ("--benchmark voc21 --method fmbseg --json m.json", "Missing option '--root'"),
        ("--benchmark coco_stuff --json m.json", "Missing option '--method'"),
        ("--benchmark coco_stuff --method maskclip", "Missing option '--json'"),
        ("--benchmark coco_stuff --method maskclip --name x --json m", "--name does not go with"),
        ("--benchmark coco_stuff --predictions x --vocabulary sclip", "--vocabulary does not go"),
        ("--benchmark coco_stuff --predictions none", "none is no folder"),
        ("--benchmark coco_stuff --predictions coco", "24 of 24 images have no label map"),
        ("--benchmark coco_stuff --predictions coco --name fmbseg", "is a method of this package"),
        ("--benchmark coco_stuff --predictions coco --method fmbseg", "--method does not go with"),
    ],
)
def test_mistakes_are_one_line(project: Path, arguments: str, part: str) -> None:
    done = fmbseg(*arguments.split(), cwd=project)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and part in lines[0], done.stderr
