"""The same deployment with both servers on PostgreSQL, which this test starts, cuts and kills."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun
from sqlalchemy import create_engine, text

from tests.flows.postgres import Postgres, running_postgres
from tests.flows.proxy import Proxy
from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

pytestmark = pytest.mark.slow


_SECRET = "geheim-0815"
_OUTAGE = 20.0  # seconds


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with running_postgres() as made:
        yield made


@pytest.fixture(scope="module")
def proxy(database: Postgres) -> Iterator[Proxy]:
    """What stands before PostgreSQL."""
    made = Proxy(database.port)
    yield made
    made.close()


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, database: Postgres, proxy: Proxy
) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("project") / "fmbseg"
    copy_project(repository, root)
    made = Stack(root, free_ports(2))
    prefect, mlflow = (
        database.address(name, proxy.port, _SECRET) for name in ("prefect", "mlflow")
    )
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


def test_a_deployment_runs_and_both_databases_hold_it(project: Stack, database: Postgres) -> None:
    state, message, tasks = project.deployment("full", "preset=tiny")
    assert state == "Completed", message
    assert {"scenes", "detect", "align", "evaluate@voc21", "oracle", "record"} <= set(tasks)
    assert count(database.address("prefect"), "task_run") >= len(tasks)
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    experiment = client.get_experiment_by_name("fmbseg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert count(database.address("mlflow"), "runs") == len(runs) > 0
    assert any("miou/voc21" in run.data.metrics for run in runs)
    # Nothing has gone into files beside.
    assert not (project.root / "mlflow.db").exists()
    assert not list((project.root / ".stack").rglob("prefect.db"))
    assert project.repro() == set()


def test_its_password_stands_in_no_log_and_no_command(project: Stack) -> None:
    for log in (project.root / ".stack").glob("*.log"):
        assert _SECRET not in log.read_text(errors="replace"), log.name
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert _SECRET.encode() not in place.read_bytes()
        except OSError:
            continue


def begin_scenes(project: Stack) -> FlowRun:
    """A run that draws."""
    project.run("sh", "-c", "rm -rf data/scenes .fmbseg/scenes .fmbseg/shards/scenes*")
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    project.run("prefect", "deployment", "run", "fmbseg/full", *scenes)
    run = project.newest_run()
    end = time.monotonic() + 180
    while project.state(run).name != "Running":
        assert time.monotonic() < end
        time.sleep(0.5)
    return run


def ends_well(project: Stack, run: FlowRun) -> None:
    end = time.monotonic() + 420
    while not project.state(run).is_final():
        assert time.monotonic() < end, project.state(run).name
        time.sleep(1.0)
    assert project.state(run).name == "Completed", project.state(run).message


def test_a_run_goes_on_while_postgresql_is_away(project: Stack, proxy: Proxy) -> None:
    project.set(r"train: \d+, val: \d+", "train: 900, val: 4")
    run = begin_scenes(project)
    proxy.fault = "away"
    time.sleep(_OUTAGE)
    proxy.fault = "none"
    ends_well(project, run)


def test_a_run_goes_on_while_postgresql_is_killed_and_started_again(
    project: Stack, database: Postgres
) -> None:
    run = begin_scenes(project)
    database.kill()
    time.sleep(_OUTAGE)
    database.start()
    ends_well(project, run)
    # The servers have found their database again, MLflow too.
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{project.ports[1]}")
    assert client.get_experiment_by_name("fmbseg") is not None
