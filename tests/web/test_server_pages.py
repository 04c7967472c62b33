"""What people see in the pages of MLflow and Prefect: real servers, our runs, a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fmbseg.config import Config, load_config
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker
from tests.flows.stack import free_ports
from tests.tracking.world import PARAMS, parent_runs, train, with_head, write_result
from tests.web.watching import SHAPES, watched

pytestmark = pytest.mark.slow
PATIENCE = 600  # seconds, for a busy machine
FEW = ("voc21", "coco_stuff")


@contextmanager
def serving(
    module: Sequence[str], root: Path, port: int, health: str, **more: str
) -> Iterator[str]:
    """A server of this machine; gives its address."""
    address = f"http://127.0.0.1:{port}"
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", str(port)],
            cwd=root,
            env=os.environ | more,
            stdout=log,
            stderr=log,
        )
        try:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and server.poll() is None:
                try:
                    if httpx.get(f"{address}{health}", timeout=30, trust_env=False).is_success:
                        break
                except httpx.HTTPError:
                    time.sleep(0.5)
            else:
                pytest.fail(f"it does not answer: {(root / 'server.log').read_text()}")
            yield address
        finally:
            server.terminate()
            server.wait(timeout=60)


def opened(browser: Any, shape: str, own: str, address: str) -> tuple[Any, Any]:
    page = browser.new_context(**SHAPES[shape]).new_page()
    page.set_default_timeout(1000 * PATIENCE / 4)
    heard = watched(page, own)
    page.goto(address)
    return page, heard


def test_two_heads_on_mlflows_page_of_comparison(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config(PARAMS, [f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"])
    paths = Paths(tmp_path)
    scores = {"transformer": (61.25, 43.5), "linear": (55.75, 40.125)}
    for head, values in scores.items():
        one = with_head(config, head)
        train(one, paths, sha256=head)
        for benchmark, miou in zip(FEW, values, strict=True):
            write_result(paths, benchmark, miou, head)
        open_tracker(one, tmp_path).evaluation(one, paths, "fmbseg", FEW)
    runs = {run.data.params["align.head"]: run for run in parent_runs(config)}
    assert {*runs} == {*scores}

    store = ("--backend-store-uri", config.tracking.uri, "--workers", "1")
    (port,) = free_ports(1)
    chosen = [runs[head].info.run_id for head in scores]
    where = f"/#/compare-runs?runs={quote(json.dumps(chosen))}"
    where += f"&experiments={quote(json.dumps([runs['linear'].info.experiment_id]))}"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(("mlflow", "server", *store), tmp_path, port, "/health", **quiet) as address:
        page, heard = opened(browser, "light", address, address + where)
        page.wait_for_selector("text=Comparing 2 Runs")
        page.wait_for_selector("text=miou/coco_stuff")
        shown = page.inner_text("body")
        for head, values in scores.items():
            # The name says what the run is and what it reached.
            assert f"{head}-tsupcon" in shown and f"voc21 {values[0]:.1f}" in shown
        # What differs, and only that, when it is asked for.
        page.get_by_text("Show diff only").first.click()
        page.wait_for_selector("text=align.epochs", state="detached")
        rows = page.locator("tr", has_text="align.head").first.inner_text()
        assert "transformer" in rows and "linear" in rows
        # The scores stand side by side.
        for number in ("61.25", "55.75", "43.5", "40.13"):
            page.get_by_text(number, exact=True).first.scroll_into_view_if_needed()
        assert "mlflow.fmbseg" not in page.inner_text("body")
        assert not heard.outside


SHOW = """
import sys
from pathlib import Path
from prefect import flow
from flows.full import show_results
from fmbseg.config import load_config

@flow(name="fmbseg", flow_run_name="our-run")
def ours():
    config = load_config("params.yaml", ["tracking.enabled=false"])
    report = {"stage": "align", "key": "0123456789abcdef", "computed": 18, "taken_over": 0}
    show_results(config, Path("."), [report])

ours()
"""


@pytest.fixture
def results(tmp_path: Path) -> Config:
    """A workspace with results, of as many benchmarks as the demo has."""
    config = load_config(PARAMS)
    (tmp_path / "params.yaml").write_bytes(PARAMS.read_bytes())
    for index, benchmark in enumerate(config.evaluate.benchmarks):
        for method in ("maskclip", "pseudo"):
            write_result(Paths(tmp_path), benchmark, 41.23456789 + index, None, method)
    return config


def test_a_run_on_prefects_page(
    browser: Any, results: Config, tmp_path: Path, repository: Path
) -> None:
    (port,) = free_ports(1)
    api = f"http://127.0.0.1:{port}/api"
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_UI_API_URL": api}
    with serving(("prefect", "server", "start"), tmp_path, port, "/api/health", **home) as address:
        done = subprocess.run(
            [sys.executable, "-c", SHOW],
            cwd=tmp_path,
            env=os.environ | home | {"PREFECT_API_URL": api, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        asked = httpx.post(f"{api}/artifacts/filter", json={}, timeout=60).json()
        made = {each["key"]: each for each in asked}
        assert {*made} == {"fmbseg-miou", "fmbseg-run"}

        run = f"{address}/runs/flow-run/{made['fmbseg-run']['flow_run_id']}"
        page, heard = opened(browser, "light", address, run)
        page.wait_for_selector("text=our-run")
        page.get_by_text("Artifacts", exact=True).first.click()
        page.wait_for_selector("text=fmbseg-miou")
        page.wait_for_selector("text=fmbseg-run")
        assert not heard.outside

        for shape in ("light", "phone"):
            page, heard = opened(
                browser, shape, address, f"{address}/artifacts/artifact/{made['fmbseg-miou']['id']}"
            )
            page.wait_for_selector("text=mIoU of the present results")
            for benchmark in results.evaluate.benchmarks:
                page.wait_for_selector(f"text={benchmark}")
            heads = page.locator("th").all_inner_texts()
            assert heads[:3] == ["method", "benchmark", "mIoU, %"]
            row = page.locator("tr", has_text="maskclip").filter(has_text="voc21")
            assert "41.2" in row.inner_text().split(), "one decimal, not fifteen"
            if shape == "light":  # nothing of it lies beside the screen
                last = page.locator("th").last.bounding_box()
                assert last["x"] + last["width"] <= SHAPES[shape]["viewport"]["width"]
            assert not heard.outside

        page, _ = opened(
            browser, "light", address, f"{address}/artifacts/artifact/{made['fmbseg-run']['id']}"
        )
        page.wait_for_selector("td:has-text('align')")
        assert "0123456789ab" in page.inner_text("table")
