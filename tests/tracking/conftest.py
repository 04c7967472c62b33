"""One MLflow database for all tests of tracking, an experiment of its own for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from fmbseg.config import Config, load_config
from tests.heads import write_head
from tests.tracking.world import PARAMS


@pytest.fixture(scope="package")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, because making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def config(database: str, request: pytest.FixtureRequest) -> Config:
    """The parameters of the demo, logged into an experiment of the test's own."""
    return load_config(
        PARAMS,
        [f"tracking.{key}={request.node.name}" for key in ("experiment", "model")]
        + [f"tracking.uri={database}"],
    )


@pytest.fixture
def client(database: str) -> MlflowClient:
    return MlflowClient(tracking_uri=database)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of random weights on the package's models."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_head(folder, 0, "voc20")
    return folder
