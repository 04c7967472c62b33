"""What is waited for and what is not, and which runs are gone, without a server of Prefect."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import lost, patience
from tests.flows.proxy import Proxy


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status))


def test_a_server_that_is_away_is_waited_for_and_a_refusal_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    left: list[Exception] = [httpx.ConnectError("refused"), answered(500), answered(503)]
    wrapped = RuntimeError("no slot")
    wrapped.__cause__ = httpx.ReadTimeout("slow")
    left.append(wrapped)

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    assert patience.patiently("a test", call) == "done"
    assert waits == [2, 4, 8, 16]
    for error in (answered(404), answered(401), ValueError("x"), httpx.InvalidURL("x")):
        left.append(error)
        with pytest.raises(type(error)):
            patience.patiently("a test", call)
    assert len(waits) == 4
    monkeypatch.setattr(patience, "_PATIENCE", -1.0)
    left.append(answered(500))
    with pytest.raises(httpx.HTTPStatusError):
        patience.patiently("a test", call)


def test_prefects_client_says_that_it_asks_again(caplog: pytest.LogCaptureFixture) -> None:
    proxy = Proxy(1)
    proxy.fault = "500"
    url = {PREFECT_API_URL: f"http://127.0.0.1:{proxy.port}/api"}
    caplog.set_level(logging.DEBUG, "prefect.client")
    logging.getLogger("prefect.client").addHandler(caplog.handler)
    try:
        with temporary_settings({**url, PREFECT_CLIENT_MAX_RETRIES: 1}):
            with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError):
                client.read_work_pools()
            assert proxy.refused == 2  # 500 is no last word (flows.ASK_AGAIN)
            said = [each for each in caplog.records if "asked again in" in each.getMessage()]
            assert said and all(each.levelno == logging.WARNING for each in said)
            with (
                patience.hastily(),
                get_client(sync_client=True) as client,
                pytest.raises(PrefectHTTPStatusError),
            ):
                client.read_work_pools()
            assert proxy.refused == 3
    finally:
        logging.getLogger("prefect.client").removeHandler(caplog.handler)
        proxy.close()


def run_of(begun: datetime | None, state: Any = None) -> Any:
    return cast(Any, SimpleNamespace(start_time=begun, state=state))


def test_a_run_is_gone_with_its_process_and_not_kept_by_a_later_one_of_its_number() -> None:
    now = datetime.now(UTC)
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeps) as process:
        assert lost._runs(process.pid, run_of(now))
        assert lost._runs(process.pid, run_of(None))
        assert not lost._runs(process.pid, run_of(now - timedelta(hours=1)))  # another one's
        process.kill()
        while process.returncode is None and lost._runs(process.pid, run_of(now)):
            pass  # until it is a zombie
        assert not lost._runs(process.pid, run_of(now))
    assert not lost._runs(process.pid, run_of(now))


def test_a_run_that_is_about_to_begin_is_given_five_minutes() -> None:
    def pending(minutes: float, is_pending: bool = True) -> Any:
        then = datetime.now(UTC) - timedelta(minutes=minutes)
        return run_of(None, SimpleNamespace(timestamp=then, is_pending=lambda: is_pending))

    assert lost._may_start(pending(1))
    assert not lost._may_start(pending(6))
    assert not lost._may_start(pending(1, is_pending=False))
    assert not lost._may_start(run_of(None))


def test_the_processes_of_flow_runs_are_found_with_their_folders(tmp_path: Any) -> None:
    number = "12345678-1234-5678-1234-567812345678"
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    own = os.environ | {lost.FLOW_RUN: number}
    with subprocess.Popen(sleeps, cwd=tmp_path, env=own) as process:
        found = {str(key): folders for key, folders in lost._flow_processes().items()}
        process.kill()
    assert found[number] == {tmp_path}
