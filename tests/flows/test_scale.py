"""Shards on real Dask and Ray workers: the bytes of the plain loop, whoever computed them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmbseg.config import load_config
from fmbseg.store.paths import Paths
from tests.flows.stack import Stack, free_ports
from tests.project import Project, copy_project

pytestmark = pytest.mark.slow

SHARED_OUT = ("detect", "query", "masks", "label", "features")
PLAIN = f"""
from flows.full import fmbseg
state = fmbseg(stages={[*SHARED_OUT]!r}, record=False, runner="dask", storage="STORAGE",
               return_state=True)
print("ended", state.type.value, state.message)
"""


def published(root: Path) -> dict[str, bytes]:
    """Files of the outs, byte for byte."""
    paths = Paths(root)
    files = [file for out in (paths.pseudo, paths.features) for file in out.rglob("*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root).set("train: 8", "train: 16")
    made = Stack(root, free_ports(2))
    made.run("git", "commit", "-qam", "more images")
    for stage in ("scenes", *SHARED_OUT):
        made.run("fmbseg", "run", stage)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def expected(project: Stack) -> dict[str, bytes]:
    """What plain loops have made, which is then removed."""
    found = published(project.root)
    vocabularies = load_config(project.root / "params.yaml").data.vocabulary
    assert isinstance(vocabularies, tuple)
    assert sum(name.endswith(".png") for name in found) == 16 * len(vocabularies)
    return found


def forget(root: Path) -> None:
    """Remove the outs and all that is kept of them."""
    for folder in (root / "data" / "pseudo", root / "data" / "features", root / ".fmbseg"):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_workers_give_the_plain_loops_bytes(
    project: Stack, expected: dict[str, bytes], runner: str
) -> None:
    pytest.importorskip(f"prefect_{runner}", reason="the extra `scale` is not installed")
    forget(project.root)
    before = len(project.logs())
    state, message, _ = project.deployment("pseudo-labels", f"runner={runner}", "workers=2")
    assert state == "Completed", message
    state, message, _ = project.deployment("train", f"runner={runner}", 'stages=["features"]')
    assert state == "Completed", message
    assert published(project.root) == expected
    logs = "\n".join(project.logs()[before:])
    told = re.findall(r"(\w+): (\d+) shards computed by (\d+) processes", logs)
    assert [(stage, int(shards)) for stage, shards, _ in told] == [(s, 4) for s in SHARED_OUT]
    assert max(int(processes) for *_, processes in told) == 2


def test_workers_of_this_machine_compute_under_the_runs_one_slot(
    project: Stack, expected: dict[str, bytes]
) -> None:
    pytest.importorskip("prefect_dask", reason="the extra `scale` is not installed")
    forget(project.root)
    # With the limit's name in their environment they must not ask for a slot each as well: the run
    # has it, and they would wait for the run and the run for them.
    environment = project.environment | project.address | {"FMBSEG_GPU_LIMIT": "gpu"}
    code = PLAIN.replace(f"{[*SHARED_OUT]!r}", "['detect']").replace('"STORAGE"', "None")
    code = code.replace("= fmbseg(", "= fmbseg.with_options(flow_run_name='one-slot')(")
    holder = project.hold_slot()
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=project.root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 120
        while not (found := project.runs("one-slot")):
            assert time.monotonic() < end, "the run did not start"
            time.sleep(0.5)
        time.sleep(20)
        assert "shards-detect" not in project.subflows(found[0])
        holder.communicate()  # gives the slot back
        said, _ = driver.communicate(timeout=600)
    finally:
        holder.kill()
        driver.kill()
        driver.wait()
    assert "ended COMPLETED" in said
    assert "shards-detect" in project.subflows(found[0])
    assert project.taken_slots() == 0
    detect = {name: made for name, made in expected.items() if "/detect/" in name}
    assert published(project.root) == detect


def test_workers_without_a_common_disk_exchange_through_storage(
    project: Stack, expected: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("prefect_dask", reason="the extra `scale` is not installed")
    forget(project.root)
    # The workers' machine: the same code and images, nothing of the outs.
    other = tmp_path / "other" / "fmbseg"
    shutil.copytree(project.root / "data" / "scenes", other / "data" / "scenes")
    driver = Project(project.root)
    driver.environment |= {**project.address, "FMBSEG_PROJECT": str(other)}
    said = driver.run("python", "-c", PLAIN.replace("STORAGE", (tmp_path / "shared").as_uri()))
    assert "ended COMPLETED" in said
    assert published(project.root) == expected
    assert len(list((other / ".fmbseg" / "shards" / "masks").glob("*/0*"))) == 4

    # Cut differently under the same key: neither the workers' nor the storage's shards fit now.
    for name in ("detect", "query", "masks", "label"):
        shutil.rmtree(project.root / "data" / "pseudo" / name)
    code = PLAIN.replace("STORAGE", (tmp_path / "shared").as_uri())
    said = driver.run(
        "python", "-c", code.replace("record=", 'overrides=["run.shard_size=8"], record=')
    )
    assert "ended COMPLETED" in said
    again = published(project.root)
    labels = {name for name in expected if name.endswith(".png")}
    assert {name: again[name] for name in labels} == {name: expected[name] for name in labels}
    for name in ("detect/detections", "query/masks", "masks/masks", "label/masks"):
        found, wanted = (
            pq.read_table(pa.BufferReader(files[f"data/pseudo/{name}.parquet"]))
            for files in (again, expected)
        )
        assert found.equals(wanted)

    # Other images there: another key, which is refused in one line.
    next((other / "data" / "scenes").rglob("train2017/*.jpg")).unlink()
    forget(project.root)
    shutil.rmtree(tmp_path / "shared")
    said = driver.run("python", "-c", PLAIN.replace("STORAGE", (tmp_path / "shared").as_uri()))
    assert re.search("ended FAILED .*other code, weights or images than the flow", said)
