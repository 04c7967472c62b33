"""The trained segmenter as an MLflow model.

MLflow runs this file when it loads the model ("models from code"): nothing is pickled. Beside it
lie the head and its record; encoder and CLIP come from where every other use of the checkpoint
takes them, the package or `FMBSEG_WEIGHTS`.

Input: a table with the column `image`, each cell an encoded picture (JPEG, PNG, ...), and the
parameter `classes`, names separated by commas; empty: the classes of the training. Output: a row
an image, `label_png` (base64 of a PNG whose values are indices) and `classes` (JSON list of names).
"""

from __future__ import annotations

import base64
import io
import json
import warnings
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from fmbseg.data.images import read_image
from fmbseg.data.labels import as_label
from fmbseg.inference.segmenter import Segmenter, load_segmenter

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
        rows = []
        for row, data in enumerate(model_input["image"]):
            found = self._segmenter.predict(read_image(data, f"the image of row {row}"), classes)
            stream = io.BytesIO()
            Image.fromarray(as_label(found.label_map, len(found.classes))).save(stream, "PNG")
            label = base64.b64encode(stream.getvalue()).decode()
            rows.append({"label_png": label, "classes": json.dumps(list(found.classes))})
        return pd.DataFrame(rows, columns=["label_png", "classes"])


set_model(SegmenterModel())
