"""Whom the server answers and what the worker runs, without a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.worker import refusal
from fmbseg.web.guard import LOOPBACK, guarded


@pytest.fixture
def client() -> TestClient:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("done")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("done")
        await websocket.close()

    routes = [Route("/", page, methods=["GET", "POST"]), WebSocketRoute("/events", socket)]
    allowed = frozenset({"*", "http://localhost:4200"})
    app = guarded(Starlette(routes=routes), frozenset({*LOOPBACK, "prefect"}), allowed)
    return TestClient(app, base_url="http://127.0.0.1:4200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:4200"}, 200),
        ({"Host": "prefect:4200"}, 200),
        ({"Origin": "http://127.0.0.1:4200"}, 200),
        ({"Origin": "http://localhost:4200"}, 200),
        ({"Host": "prefect", "Origin": "https://prefect"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:4201"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:4200.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "*"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "evil.example:4200", "Origin": "http://evil.example:4200"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "0.0.0.0:4200"}, 400),
    ],
)
def test_other_origins_and_names_are_refused(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    for method in ("GET", "POST"):
        answer: httpx.Response = client.request(method, "/", headers=headers)
        assert answer.status_code == status


def test_a_socket_of_another_origin_is_closed(client: TestClient) -> None:
    own = {"Origin": "http://127.0.0.1:4200", "Host": "127.0.0.1:4200"}
    with client.websocket_connect("/events", headers=own) as socket:
        assert socket.receive_text() == "done"
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/events", headers=own | {"Origin": "https://evil.example"}),
    ):
        pass


STEP = "prefect.deployments.steps.set_working_directory"


def deployment(root: Path, **other: Any) -> Any:
    own = {"entrypoint": "flows/full.py:fmbseg", "pull_steps": [{STEP: {"directory": str(root)}}]}
    return cast(Any, SimpleNamespace(**{**own, **other}))


def test_the_worker_runs_what_the_project_deploys_and_nothing_else(repository: Path) -> None:
    root = repository.resolve()
    own = deployment(root)
    environment = {"FMBSEG_WEIGHTS": "/weights", "CUDA_VISIBLE_DEVICES": "1"}
    assert refusal(None, environment, root, own, root) is None
    assert refusal(None, {}, None, own, root) is None

    assert "name a command" in str(refusal("touch pwned", {}, None, own, root))
    assert "name a command" in str(refusal("", {}, None, own, root))
    for name in ("PATH", "PYTHONPATH", "LD_PRELOAD", "PREFECT_API_URL", "fmbseg_x", ""):
        assert "in the environment" in str(refusal(None, {name: "x"}, None, own, root))
    assert "name the folder" in str(refusal(None, {}, Path("/tmp"), own, root))
    assert "no deployment" in str(refusal(None, {}, None, None, root))
    for entry in ("os:system", "/tmp/full.py:fmbseg", "flows/../x.py:f", None):
        found = refusal(None, {}, None, deployment(root, entrypoint=entry), root)
        assert "no flow of the project" in str(found)
    steps: list[Any] = [
        None,
        [],
        [{STEP: {"directory": "/tmp"}}],
        [{STEP: {"directory": str(root), "requires": "evil"}}],
        [{STEP: {"directory": str(root)}}, {"prefect.deployments.steps.run_shell_script": {}}],
        [{STEP: {"directory": str(root)}, "os.system": "touch pwned"}],
        [{STEP: None}],
    ]
    for each in steps:
        found = refusal(None, {}, None, deployment(root, pull_steps=each), root)
        assert "does not work in" in str(found), each
