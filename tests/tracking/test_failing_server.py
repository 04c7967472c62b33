"""MLflow's real server fails in the middle of a training: the training goes on, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker
from tests.flows.proxy import Fault, Proxy
from tests.flows.stack import free_ports
from tests.tracking.world import (
    KEY,
    child_runs,
    curve_of,
    epoch_metrics,
    parent_runs,
    write_checkpoint,
    write_result,
)

pytestmark = pytest.mark.slow

WHOLE = [(1, 1.0), (2, 0.5), (3, 1 / 3)]
_SECRET = "geheim"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real MLflow server."""
    folder = tmp_path_factory.mktemp("server")
    (port,) = free_ports(1)
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    place = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"],
        cwd=folder,
        env=os.environ | quiet | place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 300
        while True:
            assert process.poll() is None and time.monotonic() < end
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    made = Proxy(server, delay=0.2)
    yield made
    made.close()


@pytest.fixture
def behind(config: Config, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration that logs to the server behind the proxy, and asks it for every epoch."""
    monkeypatch.setattr("fmbseg.tracking.live_curve._FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("fmbseg.tracking.mlflow_runs._PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # It asks for no password; whoever gives one all the same must not read it in a log.
    uri = f"http://ann:{_SECRET}@127.0.0.1:{proxy.port}"
    section = config.tracking.model_copy(update={"uri": uri})
    return config.model_copy(update={"tracking": section})


def direct(config: Config, server: int) -> Config:
    section = config.tracking.model_copy(update={"uri": f"http://127.0.0.1:{server}"})
    return config.model_copy(update={"tracking": section})


@pytest.mark.parametrize("fault", ["away", "500", "slow"])
@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays"])
def test_a_training_is_whole_in_mlflow_although_its_server_failed(
    behind: Config,
    proxy: Proxy,
    server: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    comes_back: bool,
) -> None:
    paths = Paths(tmp_path)
    tracker = open_tracker(behind, tmp_path)
    begin = time.monotonic()
    with tracker.training(behind, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is not None
        on_metrics(1, epoch_metrics(1))
        proxy.fault = fault
        on_metrics(2, epoch_metrics(2))
        if comes_back:
            proxy.fault = "none"
        on_metrics(3, epoch_metrics(3))
        write_checkpoint(paths.align, "abc")
    write_result(paths, "voc21", 5.0, "abc")
    open_tracker(behind, tmp_path).evaluation(behind, paths, "fmbseg", ["voc21"])
    assert time.monotonic() - begin < 240  # it waits for no server that does not come back
    if fault != "slow":
        assert "not in MLflow" in caplog.text and proxy.refused > 0
    assert _SECRET not in caplog.text
    # The server is whole again, and the next run finds everything done.
    proxy.fault = "none"
    again = open_tracker(behind, tmp_path)
    again.trained(behind, "fmbseg", paths.align)
    again.evaluation(behind, paths, "fmbseg", ["voc21"])
    there = direct(behind, server)
    (run,) = parent_runs(there)
    assert run.data.metrics["miou/voc21"] == 5.0
    training = [each for each in child_runs(there) if each.info.run_name == "training-fmbseg"]
    assert [curve_of(there, each) for each in training] == [WHOLE]
    assert run.info.status == training[0].info.status == "FINISHED"
    assert MlflowClient(there.tracking.uri).list_artifacts(run.info.run_id, "checkpoint")
