"""The logged model behind `mlflow models serve`, asked over HTTP as docs/serving.md says."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from fmbseg.inference.segmenter import load_segmenter
from fmbseg.tracking.logged_model import log_checkpoint
from tests.flows.stack import free_ports
from tests.heads import write_head

pytestmark = pytest.mark.slow

_START = 300  # seconds that a busy machine may take to load torch
NAMES = ["dog", "sky", "grass"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_head(folder, 0, "voc20")
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A logged model with a head of random weights: its `uri`, `database` and `folder`."""
    folder = tmp_path_factory.mktemp("served")
    database = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=database)
    experiment = client.create_experiment("served", (folder / "mlruns").as_uri())
    run_id = client.create_run(experiment).info.run_id
    uri = f"models:/{log_checkpoint(client, experiment, run_id, checkpoint)}"
    return {"uri": uri, "database": database, "folder": str(folder)}


@pytest.fixture(scope="module")
def server(model: dict[str, str], repository: Path) -> Iterator[str]:
    """The address of MLflow's server with that model."""
    (port,) = free_ports(1)
    command = ["models", "serve", "--model-uri", model["uri"], "--env-manager", "local"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": model["database"]}
    environment |= {"PYTHONPATH": str(repository)}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, "--port", str(port), "--workers", "1"],
        env=environment,
        cwd=model["folder"],
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end:
        assert process.poll() is None, "the server has ended"
        try:
            if httpx.get(f"{address}/ping", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError("the server does not answer")


def _ask(server: str, data: bytes, classes: str = ", ".join(NAMES)) -> httpx.Response:
    table = {"columns": ["image"], "data": [[base64.b64encode(data).decode()]]}
    body = {"dataframe_split": table, "params": {"classes": classes}}
    return httpx.post(f"{server}/invocations", json=body, timeout=120)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_goes_in_and_map_and_scores_come_out(
    server: str, checkpoint: Path, picture: Image.Image
) -> None:
    answer = _ask(server, _png(picture))
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    label = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["label_png"]))))
    wanted = load_segmenter(checkpoint).predict(picture, classes=NAMES)
    assert np.array_equal(label, wanted.label_map)
    assert json.loads(row["classes"]) == NAMES
    scores: list[dict[str, Any]] = json.loads(row["scores"])
    shares = np.bincount(label.ravel(), minlength=3) / label.size
    assert [each["share"] for each in scores] == pytest.approx(shares, abs=1e-5)
    assert len(set(label.ravel())) > 1


@pytest.mark.parametrize(
    ("data", "classes", "reason"),
    [
        (b"no picture", "dog", "the image of row 0 is broken, truncated or no image"),
        (_png(Image.new("RGB", (64, 64)))[:60], "dog", "the image of row 0 is broken, truncated"),
        (_png(Image.new("I;16", (64, 64))), "dog", "has more than 8 bits a channel: convert it"),
        (_png(Image.new("RGB", (64, 64))), "dog, dog", "'dog' stands twice"),
    ],
    ids=["no picture", "truncated", "16 bits", "a name twice"],
)
def test_a_bad_picture_gives_400_and_a_sentence(
    server: str, data: bytes, classes: str, reason: str
) -> None:
    answer = _ask(server, data, classes)
    assert answer.status_code == 400
    body = answer.json()
    assert reason in body["reason"] and "\n" not in body["reason"]
    assert body["message"].endswith(body["reason"])
    assert "stack_trace" not in body


@pytest.fixture(scope="module")
def own_server(model: dict[str, str], repository: Path) -> Iterator[str]:
    """The address of `fmbseg serve` for the same model."""
    options = ["--model", model["uri"], "--port", "0"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": model["database"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "fmbseg", "serve", *options],
        env=environment | {"PYTHONPATH": str(repository)},
        cwd=model["folder"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().partition("/invocations")[0]
    finally:
        process.terminate()
        process.wait(60)


def test_fmbseg_serve_answers_the_same_and_nobody_elses_pages(
    server: str, own_server: str, picture: Image.Image
) -> None:
    answer, wanted = (_ask(each, _png(picture)) for each in (own_server, server))
    assert answer.status_code == 200 and answer.json() == wanted.json()
    assert _ask(own_server, b"no picture").status_code == 400
    for headers, status in (
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Origin": own_server}, 200),
    ):
        for path in ("ping", "version"):
            found = httpx.get(f"{own_server}/{path}", headers=headers, timeout=60)
            assert found.status_code == status, (headers, path)


def test_a_model_that_is_not_there_is_one_line(model: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fmbseg", "serve", "--model", "models:/none/1", "--port", "0"],
        env=os.environ | {"MLFLOW_TRACKING_URI": model["database"]},
        cwd=model["folder"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("fmbseg: model models:/none/1 cannot be loaded")


def test_the_server_goes_on_after_a_bad_picture(server: str) -> None:
    assert _ask(server, b"").status_code == 400
    assert _ask(server, _png(Image.new("RGB", (64, 64)))).status_code == 200
