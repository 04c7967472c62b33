"""The same deployment with both servers on PostgreSQL, which this test starts."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

pytestmark = pytest.mark.slow


def programs() -> Path | None:
    """Folder of PostgreSQL's programs, with the extension that Prefect needs beside them."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    for folder in folders:
        asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True)
        share = Path(asked.stdout.strip()) if asked.returncode == 0 else folder
        version = folder.parent.name
        for place in (share, Path("/usr/share/postgresql") / version):
            if (folder / "initdb").exists() and (place / "extension/pg_trgm.control").exists():
                return folder
    return None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Address of a running PostgreSQL with the databases `prefect` and `mlflow`; `{}`: the name."""
    folder = programs()
    if folder is None:
        pytest.skip("no PostgreSQL with pg_trgm on this machine: apt install postgresql")
    # PostgreSQL refuses root; and not below pytest's own folder, which nobody else may enter.
    user = "nobody" if os.geteuid() == 0 else getpass.getuser()
    place = Path(tempfile.mkdtemp(prefix="fmbseg-pg-"))
    shutil.chown(place, user)
    (port,) = free_ports(1)

    def run(program: str, *arguments: str) -> None:
        command = [folder / program, *arguments]
        subprocess.run(command, user=user if os.geteuid() == 0 else None, cwd=place, check=True)

    options = f"-p {port} -k {place} -h 127.0.0.1"
    run("initdb", "--auth=trust", "--username=fmbseg", "--encoding=UTF8", "-D", f"{place}/data")
    try:
        run("pg_ctl", "-D", f"{place}/data", "-l", f"{place}/log", "-o", options, "-w", "start")
        for name in ("prefect", "mlflow"):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fmbseg", name)
        yield f"fmbseg@127.0.0.1:{port}/{{}}"
    finally:
        run("pg_ctl", "-D", f"{place}/data", "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, database: str
) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    made = Stack(root, free_ports(2))
    made.set(r"    (voc20|context59|coco_object|cityscapes|ade20k): \{.*\n", "")
    prefect, mlflow = database.format("prefect"), database.format("mlflow")
    made.environment |= {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{prefect}",
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{mlflow}",
    }
    with made.running():
        yield made


def count(address: str, table: str) -> int:
    engine = create_engine(f"postgresql+psycopg2://{address}")
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_deployment_runs_and_both_databases_hold_it(project: Stack, database: str) -> None:
    state, message, tasks = project.deployment("full", "preset=tiny")
    assert state == "Completed", message
    assert {"scenes", "detect", "align", "evaluate@voc21", "oracle", "record"} <= set(tasks)
    assert count(database.format("prefect"), "task_run") >= len(tasks)
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    experiment = client.get_experiment_by_name("fmbseg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert count(database.format("mlflow"), "runs") == len(runs) > 0
    assert any("miou/voc21" in run.data.metrics for run in runs)
    # Nothing has gone into files beside.
    assert not (project.root / "mlflow.db").exists()
    assert not list((project.root / ".stack").rglob("prefect.db"))
    assert project.repro() == set()
