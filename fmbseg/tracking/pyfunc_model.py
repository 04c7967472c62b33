"""The trained segmenter as an MLflow model.

MLflow runs this file when it loads the model ("models from code"): nothing is pickled. Beside it
lie the head and its record; encoder and CLIP come from where every other use of the checkpoint
takes them, the package or `FMBSEG_WEIGHTS`.

Input: a table with the column `image`, each cell an encoded picture (JPEG, PNG, ...), and the
parameter `classes`, names separated by commas; empty: the classes of the training. Output: a row
an image, `label_png` (base64 of a PNG whose values are indices), `classes` (JSON list of names) and
`scores` (JSON list, a class each: `share` of the pixels, and `similarity`, their mean cosine with
the class, null where it has none).
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from fmbseg.data.images import read_image
from fmbseg.data.labels import as_label
from fmbseg.errors import FmbsegError, one_line
from fmbseg.inference.maps import Maps
from fmbseg.inference.segmenter import Segmentation, Segmenter, load_segmenter

# It asks for type hints, from which it would make a signature; there is one.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")


class SegmenterModel(PythonModel):
    """`fmbseg.inference.segmenter.Segmenter` with MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load head, encoder and text tower."""
        self._segmenter: Segmenter = load_segmenter(context.artifacts["checkpoint"])

    # No annotation at model_input: MLflow would check rows against it instead of the signature.
    def predict(  # type: ignore[no-untyped-def]
        self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Segment every image of a table; see the module for its columns."""
        names = [name.strip() for name in str((params or {}).get("classes", "")).split(",")]
        classes = [name for name in names if name] or None
        try:
            rows = [
                _row(self._segmenter.predict(read_image(data, f"the image of row {row}"), classes))
                for row, data in enumerate(model_input["image"])
            ]
        except FmbsegError as error:
            # Of other errors MLflow's server says that something was unexpected. It puts words of
            # its own before the message, so the sentence is in a field by itself too.
            reason = one_line(error)
            raise MlflowException(reason, error_code=BAD_REQUEST, reason=reason) from error
        return pd.DataFrame(rows, columns=["label_png", "classes", "scores"])


def _row(found: Segmentation) -> dict[str, str]:
    stream = io.BytesIO()
    Image.fromarray(as_label(found.label_map, len(found.classes))).save(stream, "PNG")
    return {
        "label_png": base64.b64encode(stream.getvalue()).decode(),
        "classes": json.dumps(list(found.classes)),
        "scores": json.dumps(_scores(found)),
    }


def _scores(found: Segmentation) -> list[dict[str, float | None]]:
    """How much of the picture each class covers, and how similar its pixels are to it."""
    count, label = len(found.classes), found.label_map
    pixels = np.bincount(label.ravel(), minlength=count)[:count]
    return [
        {
            "share": round(int(number) / label.size, 6),
            "similarity": round(_similarity(found, index), 4) if number else None,
        }
        for index, number in enumerate(pixels)
    ]


def _similarity(found: Segmentation, index: int) -> float:
    """Mean cosine of a class's pixels with it: one class at a time, for all take gigabytes."""
    inside = found.label_map == index
    values = found.maps.values[found.maps.classes == index]
    own = Maps(values, torch.zeros(len(values), dtype=torch.int64))
    height, width = inside.shape
    return float(own.by_class(1, (height, width))[0].numpy()[inside].mean())


set_model(SegmenterModel())
