"""The checkpoint in MLflow: a logged model of its run."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from fmbseg import __version__
from fmbseg.align.record import HEAD, RECORD
from fmbseg.tracking.mlflow_runs import OWN

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL_ID = f"{OWN}model_id"
_CODE = Path(__file__).with_name("pyfunc_model.py")


def log_checkpoint(client: MlflowClient, experiment: str, run_id: str, checkpoint: Path) -> str:
    """Log a trained head as a model of a run, once.

    `mlflow.pyfunc.load_model(f"models:/{model_id}")` gives it back; see `pyfunc_model` for what it
    takes and returns.

    Args:
        client: of the tracking server or database.
        experiment: id of the run's experiment.
        run_id: the run that the head belongs to.
        checkpoint: folder with `checkpoint.json` and `head.safetensors`.

    Returns:
        The model's id.
    """
    known = client.get_run(run_id).data.tags.get(_MODEL_ID)
    if known is not None:
        return str(known)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        _save(checkpoint, Path(name) / "checkpoint", folder)
        model = client.create_logged_model(experiment, "segmenter", source_run_id=run_id)
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.set_tag(run_id, _MODEL_ID, model.model_id)
    return str(model.model_id)


def _save(checkpoint: Path, copy: Path, folder: Path) -> None:
    """Write an MLflow model: the code, the checkpoint, signature and an input example."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    copy.mkdir()
    for name in (RECORD, HEAD):
        shutil.copyfile(checkpoint / name, copy / name)
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (96, 144, 208)).save(stream, "PNG")
    example = pd.DataFrame({"image": [stream.getvalue()]})
    answer = pd.DataFrame({"label_png": [""], "classes": [""], "scores": [""]})
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(_CODE),
        artifacts={"checkpoint": str(copy)},
        signature=infer_signature(example, answer, {"classes": ""}),
        input_example=(example, {"classes": "sky, grass"}),
        pip_requirements=[f"fmbseg=={__version__}"],
    )
