"""The checkpoint as a logged model: loaded back by MLflow, and champion only when it is better."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from fmbseg.inference.segmenter import load_segmenter
from fmbseg.tracking.logged_model import log_checkpoint


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def experiment(client: MlflowClient, tmp_path: Path) -> str:
    return str(client.create_experiment(tmp_path.name, (tmp_path / "mlruns").as_uri()))


def _scored(client: MlflowClient, experiment: str, miou: float, images: str = "voc val") -> str:
    run_id = str(client.create_run(experiment).info.run_id)
    client.log_metric(run_id, "miou/voc21", miou)
    client.set_tag(run_id, "benchmark.voc21", images)
    return run_id


def test_mlflow_gives_back_the_segmenter(
    client: MlflowClient, experiment: str, checkpoint: Path
) -> None:
    run_id = _scored(client, experiment, 1.0)
    model_id = log_checkpoint(client, experiment, run_id, checkpoint)
    assert log_checkpoint(client, experiment, run_id, checkpoint) == model_id

    loaded = mlflow.pyfunc.load_model(f"models:/{model_id}")
    assert loaded.metadata.signature is not None
    assert list(loaded.input_example["image"]) != []

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    table = pd.DataFrame({"image": [stream.getvalue()]})
    found = loaded.predict(table, params={"classes": "dog, sky, grass"})
    assert found["classes"].tolist() == ['["dog", "sky", "grass"]']
    label = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["label_png"][0]))))
    wanted = load_segmenter(checkpoint).predict(image, classes=["dog", "sky", "grass"])
    assert np.array_equal(label, wanted.label_map)
    assert len(set(label.ravel())) > 1
    scores = json.loads(found["scores"][0])
    assert sum(each["share"] for each in scores) == pytest.approx(1, abs=1e-5)
    for index, each in enumerate(scores):
        own = wanted.scores[index][label == index]
        assert each["share"] == pytest.approx(len(own) / label.size, abs=1e-6)
        mean = each["similarity"]
        assert mean == pytest.approx(own.mean(), abs=1e-4) if len(own) else mean is None
    # Without class names: those of the training.
    assert "potted plant" in loaded.predict(table)["classes"][0]


@pytest.mark.slow
def test_mlflows_own_command_predicts(
    client: MlflowClient,
    experiment: str,
    checkpoint: Path,
    database: str,
    tmp_path: Path,
    repository: Path,
) -> None:
    model_id = log_checkpoint(client, experiment, _scored(client, experiment, 1.0), checkpoint)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    table = {"columns": ["image"], "data": [[base64.b64encode(stream.getvalue()).decode()]]}
    (tmp_path / "in.json").write_text(
        json.dumps({"dataframe_split": table, "params": {"classes": "dog, sky, grass"}})
    )
    command = ["models", "predict", "--model-uri", f"models:/{model_id}", "--env-manager", "local"]
    files = ["--input-path", tmp_path / "in.json", "--output-path", tmp_path / "out.json"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": database, "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-m", "mlflow", *command, *files], env=environment, check=True)
    (row,) = json.loads((tmp_path / "out.json").read_text())["predictions"]
    label = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["label_png"]))))
    wanted = load_segmenter(checkpoint).predict(image, classes=["dog", "sky", "grass"])
    assert np.array_equal(label, wanted.label_map)
