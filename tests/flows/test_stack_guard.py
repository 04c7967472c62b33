"""Who the stack's servers answer, and what its worker runs: real servers, asked as a page would."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("guarded") / "fmbseg"
    copy_project(repository, root)
    with Stack(root, free_ports(2)).running() as made:
        yield made


def basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def create_run(project: Stack, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Ask the server for a run of the deployment `full`, with any headers."""
    own = basic(project.login)
    found = httpx.get(f"{project.api}/deployments/name/fmbseg/full", headers=own, timeout=60)
    url = f"{project.api}/deployments/{found.json()['id']}/create_flow_run"
    # As a page can without being asked: its content has no type that needs a preflight.
    content = json.dumps(body).encode()
    return httpx.post(url, content=content, headers=headers, timeout=60)


def ended(project: Stack, run_id: str) -> tuple[str, str]:
    """Name and message of the state that a run ends in."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        with project._client() as api:
            state = api.read_flow_run(UUID(run_id)).state
        if state is not None and state.is_final():
            return state.name or "", state.message or ""
        time.sleep(1.0)
    raise AssertionError("the run did not end")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Host": "evil.example"}, 400),  # a name that was made to lead to this machine
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
    ],
)
def test_other_origins_and_hosts_are_refused(
    project: Stack, headers: dict[str, str], status: int
) -> None:
    before = len(project.runs("full"))
    answer = create_run(project, {"job_variables": {"command": "touch pwned"}}, **headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    # Not with the password either, but for the missing one.
    login = basic(project.login)
    if headers:
        again = create_run(project, {}, **headers, **login)
        assert again.status_code == status
    assert len(project.runs("full")) == before


def test_what_a_browser_asks_before_it_posts_is_refused(project: Stack) -> None:
    preflight = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, authorization",
    }
    answer = httpx.options(f"{project.api}/flow_runs/", headers=preflight, timeout=60)
    assert answer.status_code == 403


def test_its_own_pages_may_ask(project: Stack) -> None:
    port = project.ports[0]
    for name in ("127.0.0.1", "localhost"):
        own = basic(project.login) | {"Origin": f"http://{name}:{port}"}
        answer = httpx.post(f"{project.api}/flows/count", json={}, headers=own, timeout=60)
        assert answer.status_code == 200
    wants = {"Accept": "text/html"}
    url = f"http://127.0.0.1:{port}/"
    page = httpx.get(url, headers=wants, follow_redirects=True, timeout=60)
    assert page.status_code == 200 and "<html" in page.text.lower()


def test_the_login_is_this_users_alone(project: Stack) -> None:
    for name in (".stack/login", "prefect.toml"):
        assert (project.root / name).stat().st_mode & 0o077 == 0
    secret = project.login.partition(":")[2]
    assert len(secret) > 20
    logs = [path.read_text(errors="replace") for path in (project.root / ".stack").glob("*.log")]
    assert logs and not any(secret in text for text in logs)
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert secret.encode() not in place.read_bytes()
        except OSError:
            continue


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"command": "touch pwned"}, "name a command"),
        ({"env": {"PYTHONPATH": "/tmp"}}, "set PYTHONPATH in the environment"),
        ({"working_dir": "/tmp"}, "name the folder /tmp"),
    ],
)
def test_the_worker_runs_no_command_of_others(
    project: Stack, variables: dict[str, Any], reason: str
) -> None:
    answer = create_run(project, {"job_variables": variables}, **basic(project.login))
    assert answer.status_code == 201
    name, message = ended(project, answer.json()["id"])
    assert name == "Crashed" and "refused" in message and reason in message
    assert not (project.root / "pwned").exists()


def test_a_deployment_with_a_step_of_its_own_is_refused(project: Stack) -> None:
    own = basic(project.login)
    found = httpx.get(f"{project.api}/deployments/name/fmbseg/full", headers=own, timeout=60).json()
    step = {"prefect.deployments.steps.run_shell_script": {"script": "touch pwned"}}
    made = httpx.post(
        f"{project.api}/deployments/",
        json={
            "name": "other",
            "flow_id": found["flow_id"],
            "entrypoint": found["entrypoint"],
            "work_pool_name": found["work_pool_name"],
            "pull_steps": [*found["pull_steps"], step],
        },
        headers=own,
        timeout=60,
    )
    url = f"{project.api}/deployments/{made.json()['id']}/create_flow_run"
    run = httpx.post(url, json={}, headers=own, timeout=60)
    name, message = ended(project, run.json()["id"])
    assert name == "Crashed" and "does not work in" in message
    assert not list(project.root.rglob("pwned"))


def test_the_deployment_still_works_from_the_command_line(project: Stack) -> None:
    state, message, tasks = project.deployment("full", 'stages=["scenes"]', "record=false")
    assert state == "Completed", message
    assert tasks
    given = ("--job-variable", 'env={"FMBSEG_OWN_WEIGHTS": "1"}')
    scenes = ("-p", 'stages=["scenes"]', "-p", "record=false")
    project.run("prefect", "deployment", "run", "fmbseg/full", "--watch", *scenes, *given)
