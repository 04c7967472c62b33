"""Servers that other machines reach: a password, a name, and one line where one is missing."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from fmbseg import cli
from fmbseg.errors import ConfigError
from fmbseg.web.guard import LOOPBACK, guarded
from fmbseg.web.serve import LOGIN, open_door

# Of this machine, but not one of the names that need no password.
FAR = "127.0.0.2"


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


async def events(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


APP = Starlette(routes=[Route("/", page, methods=["GET", "POST"]), WebSocketRoute("/e", events)])


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (("ann", "wörd"), 200),
        (None, 401),
        (("ann", ""), 401),
        (("ann", "w"), 401),
        (("", "wörd"), 401),
        (("ann", "wörd "), 401),
    ],
)
def test_user_and_password_are_asked_for(given: tuple[str, str] | None, status: int) -> None:
    app = guarded(APP, frozenset(LOOPBACK), frozenset(), "ann:wörd")
    client = TestClient(app, base_url="http://127.0.0.1:1")
    answer: httpx.Response = client.post("/", auth=given)  # type: ignore[arg-type]
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate", "Basic").startswith("Basic")
    assert ("www-authenticate" in answer.headers) == (status == 401)  # or no browser would ask


def test_nor_does_a_socket_open_without_them() -> None:
    client = TestClient(
        guarded(APP, frozenset(LOOPBACK), frozenset(), "a:b"), base_url="http://127.0.0.1:1"
    )
    own = {"Host": "127.0.0.1:1"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/e", headers=own):
        pass
    good = own | {"Authorization": "Basic YTpi"}
    with client.websocket_connect("/e", headers=good):
        pass


def test_a_real_server_off_this_machines_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOGIN, "ann:secret")
    door = open_door(FAR, 0, ["box.example"])
    # It ends with this process.
    threading.Thread(target=door.serve, args=[APP], daemon=True).start()
    url, ann = door.address, ("ann", "secret")
    assert url.startswith(f"http://{FAR}:")
    end = time.monotonic() + 60
    while True:
        try:
            first = httpx.get(url, timeout=10, trust_env=False)
            break
        except httpx.TransportError:
            assert time.monotonic() < end
    assert first.status_code == 401
    port = url.rpartition(":")[2]
    for headers, status in (
        ({}, 200),
        ({"Host": f"box.example:{port}", "Origin": f"http://box.example:{port}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
    ):
        answer = httpx.post(url, headers=headers, auth=ann, timeout=10, trust_env=False)
        assert answer.status_code == status, headers


@pytest.mark.parametrize("command", [["demo"], ["serve", "--model", "models:/none/1"]])
@pytest.mark.parametrize(
    ("login", "options", "reason"),
    [
        ("", ["--host", FAR], f"other machines reach {FAR}: choose user and password, as {LOGIN}="),
        ("ann", ["--host", FAR], "choose user and password"),
        ("ann:", ["--host", "0.0.0.0"], "choose user and password"),
        ("ann:x", ["--host", "0.0.0.0"], "say what it is called, with --name"),
        ("ann:x", ["--host", "192.0.2.1"], "take another --port or --host"),
    ],
)
def test_a_server_without_password_or_name_does_not_start(
    command: list[str],
    login: str,
    options: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(LOGIN, login)
    assert cli._main([*command, *options, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1


def test_without_one_it_listens_at_this_machine_alone() -> None:
    door = open_door("127.0.0.1", 0)
    assert door.login is None and door.names == {*LOOPBACK}
    with door.listener, pytest.raises(ConfigError, match="take another --port"):
        open_door("127.0.0.1", int(door.address.rpartition(":")[2]))
