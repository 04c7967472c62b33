"""A graph as ONNX: written, quantised, and held against torch by onnxruntime."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch.export import ExportedProgram

from fmbseg.deploy.graph import PIXELS, SIMILARITY, TEXT, SegmenterGraph
from fmbseg.errors import ConfigError

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference of a cosine between onnxruntime and torch."""
_LARGEST = 2_000_000_000  # bytes that a file of protobuf can hold
# Grids of the pictures that both are asked about: one patch, and sizes that were not traced.
_GRIDS = ((1, 1), (4, 9), (11, 6))
_WORDS = 12


def onnx_file(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """The content of an ONNX file.

    Args:
        program: see `traced`.
        facts: what the file says of itself (`custom_metadata_map` of onnxruntime).

    Raises:
        ConfigError: the weights are more than a file can hold.
    """
    weights = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    if weights > _LARGEST:
        raise ConfigError(
            f"the weights take {weights / 1e9:.1f} GB, an ONNX file holds 2: export as FILE.pt2"
        )
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=[PIXELS, TEXT],
            output_names=[SIMILARITY],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None  # it is, where no file was named
    model = made.model_proto
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def quantised(content: bytes) -> bytes:
    """The same with the weights of its matrix products as int8, a scale a channel.

    Activations are quantised as they come, so no picture is needed. Convolutions stay as they are:
    onnxruntime's CPU kernels of int8 convolutions are slower than those of float32.
    """
    with tempfile.TemporaryDirectory() as name, _quiet():
        path = Path(name) / "int8.onnx"
        quantize_dynamic(
            onnx.load_from_string(content),
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return path.read_bytes()


@dataclass(frozen=True)
class Agreement:
    """How a file answers beside torch, over pictures of noise.

    Attributes:
        difference: largest of a cosine.
        same: share of patches whose most similar word is the same.
    """

    difference: float
    same: float


def agreement(content: bytes, graph: SegmenterGraph, patch: int, dim: int) -> Agreement:
    """Ask onnxruntime and torch the same, at sizes that the graph was not traced with."""
    session = open_session(content)
    rng = np.random.default_rng(0)
    difference, same = 0.0, []
    for rows, columns in _GRIDS:
        pixels = rng.integers(0, 256, (1, rows * patch, columns * patch, 3), dtype=np.uint8)
        text = rng.normal(size=(_WORDS, dim)).astype(np.float32)
        text /= np.linalg.norm(text, axis=1, keepdims=True)
        found = similarity(session, pixels, text)
        with torch.no_grad():
            wanted = graph(torch.from_numpy(pixels), torch.from_numpy(text)).numpy()
        difference = max(difference, float(np.abs(found - wanted).max()))
        same.append((found.argmax(1) == wanted.argmax(1)).ravel())
    return Agreement(difference, float(np.concatenate(same).mean()))


def open_session(content: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A file in onnxruntime, on the CPU; with 0 threads it takes as many as there are cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def similarity(
    session: onnxruntime.InferenceSession,
    pixels: npt.NDArray[np.uint8],
    text: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Arguments and result as those of `SegmenterGraph.forward`."""
    (found,) = session.run([SIMILARITY], {PIXELS: pixels, TEXT: text})
    return np.asarray(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser tell of their own steps, nothing that a user could act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
