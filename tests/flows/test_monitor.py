"""The flow that looks for drift, and has stage 1 make the labels anew where there is any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.testing.utilities import prefect_test_harness

from flows.deployments import prefect_files
from flows.monitor import PAGE, RELABEL, monitor


def test_what_drift_starts_is_deployed() -> None:
    for text in prefect_files().values():
        deployed = yaml.safe_load(text)["deployments"]
        names = [f"fmbseg/{one['name']}" for one in deployed if "full.py" in one["entrypoint"]]
        assert RELABEL in names
        (own,) = (one for one in deployed if one["entrypoint"] == "flows/monitor.py:monitor")
        assert RELABEL in own["description"]


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    flow, _, deployment = RELABEL.partition("/")
    with prefect_test_harness(server_startup_timeout=600):
        with get_client(sync_client=True) as client:
            client.create_deployment(client.create_flow_from_name(flow), deployment)
        yield


@pytest.fixture
def project(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two months of predictions, in which dogs have become cats."""
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text())
    for month, shares in (("may", (0.8, 0.2)), ("june", (0.1, 0.9))):
        (tmp_path / month).mkdir()
        for number in range(30):
            areas = [{"index": index, "share": share} for index, share in enumerate(shares)]
            record = {"classes": ["dog", "cat"], "areas": areas}
            (tmp_path / month / f"{number}.json").write_text(json.dumps(record))
            (tmp_path / month / f"{number}.label.png").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _scheduled() -> list[FlowRun]:
    """Runs of the deployment that drift starts."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(RELABEL)
        runs: list[FlowRun] = client.read_flow_runs(limit=200)
        return [run for run in runs if run.deployment_id == deployment.id]


@pytest.mark.slow
def test_drift_schedules_stage_1(server: None, project: Path) -> None:
    before = len(_scheduled())
    assert monitor("may", "may") is False
    assert monitor("may", "june", relabel=False) is True
    assert len(_scheduled()) == before
    assert monitor("may", "june", overrides=["label.min_similarity=0.2"]) is True
    (started,) = _scheduled()[before:]
    assert started.parameters == {"preset": None, "overrides": ["label.min_similarity=0.2"]}
    assert "cat" in (project / PAGE).read_text(encoding="utf-8")
    with get_client(sync_client=True) as client:
        shown = [one for one in client.read_artifacts(limit=200) if one.key == "fmbseg-monitor"]
    assert any(one.description and one.description.startswith("drift: ") for one in shown)


@pytest.mark.slow
def test_a_mistake_fails_the_run_in_one_line(server: None, project: Path) -> None:
    state = monitor("may", "july", return_state=True)
    assert state.is_failed()
    assert state.message == "july is no folder: name one of labels, predictions or pictures"
    assert not (project / PAGE).exists()
