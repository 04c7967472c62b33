"""A workspace's results and trainings, and what MLflow has of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from fmbseg.config import Config
from fmbseg.store.atomic import seal
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker

PARAMS = Path(__file__).parents[2] / "params.yaml"
KEY = "content key of the training"


def with_head(config: Config, kind: str) -> Config:
    return config.model_copy(update={"align": config.align.model_copy(update={"head": kind})})


def write_checkpoint(folder: Path, sha256: str, epochs: int = 3, key: str = KEY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.json").write_text(json.dumps({"sha256": sha256}))
    (folder / "head.safetensors").write_bytes(b"weights")
    write_curve(folder, epochs)
    seal(folder, "manifest.json", {"key": key})


def write_curve(folder: Path, epochs: int = 3) -> None:
    rows = [
        ",".join(map(str, (epoch, *epoch_metrics(epoch).values()))) + "\n"
        for epoch in range(1, epochs + 1)
    ]
    (folder / "curve.csv").write_text("epoch,loss,lr\n" + "".join(rows))


def epoch_metrics(epoch: int) -> dict[str, float]:
    return {"loss": 1 / epoch, "lr": 0.1 * epoch}


def train(
    config: Config, paths: Paths, sha256: str = "abc", epochs: tuple[int, ...] = (1, 2, 3)
) -> None:
    """A training that does these epochs, and publishes its head."""
    tracker = open_tracker(config, paths.root)
    with tracker.training(config, "fmbseg", paths.align, lambda: KEY) as on_metrics:
        assert on_metrics is not None
        for epoch in epochs:
            on_metrics(epoch, epoch_metrics(epoch))
        write_checkpoint(paths.align, sha256)


def write_result(
    paths: Paths,
    benchmark: str,
    miou: float,
    sha256: str | None,
    method: str = "fmbseg",
    **more: Any,
) -> None:
    result = {
        "benchmark": benchmark,
        "method": method,
        "miou": miou,
        "miou_present": miou + 1,
        "pixel_accuracy": None,
        "per_class_iou": {"dog": miou, "tree, bush": None},
        "images": 4,
        "protocol": {"split": f"val of {benchmark}", "limit": None, "short_side": 128},
        "checkpoint_sha256": sha256,
        "vocabulary_sha256": "v",
        **more,
    }
    path = paths.metrics / method / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def all_runs(config: Config) -> list[Run]:
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def parent_runs(config: Config) -> list[Run]:
    return [run for run in all_runs(config) if "mlflow.parentRunId" not in run.data.tags]


def child_runs(config: Config) -> list[Run]:
    return [run for run in all_runs(config) if "mlflow.parentRunId" in run.data.tags]


def curve_of(config: Config, run: Run) -> list[tuple[int, float]]:
    """All points (epoch, loss), those that were logged twice also twice."""
    client = MlflowClient(tracking_uri=config.tracking.uri)
    history = client.get_metric_history(run.info.run_id, "loss")
    return sorted((point.step, point.value) for point in history)
