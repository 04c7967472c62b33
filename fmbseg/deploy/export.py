"""A trained segmenter written as a graph and a file of words."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fmbseg import __version__
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.deploy.graph import SegmenterGraph, torch_file, traced
from fmbseg.deploy.words import words_file
from fmbseg.errors import ConfigError
from fmbseg.inference.segmenter import Segmenter
from fmbseg.store.ledger import Ledger

if TYPE_CHECKING:  # onnxruntime is an extra
    from fmbseg.deploy.onnx_file import Agreement

ONNX, TORCH = ".onnx", ".pt2"
WORDS = ".classes.npz"
"""What is put behind the model's stem for its file of words."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        model: the graph's file.
        words: the file of words.
        size: of the graph's file, bytes.
        agreement: of onnxruntime with torch; None: it is not ONNX.
    """

    model: Path
    words: Path
    size: int
    agreement: Agreement | None = None


def require_format(out: Path, int8: bool) -> None:
    """Refuse, before long work, what cannot be written.

    Raises:
        ConfigError: another ending, or int8 for what has none.
        ModuleNotFoundError: what writes ONNX is not installed.
    """
    if out.suffix not in (ONNX, TORCH):
        raise ConfigError(f"{out} ends neither in {ONNX} nor in {TORCH}: name the file so")
    if int8 and out.suffix != ONNX:
        raise ConfigError(f"--int8 is for {ONNX}: name the file so")
    if out.suffix == ONNX:
        import_module("fmbseg.deploy.onnx_file")


def export_model(
    segmenter: Segmenter, vocabulary: Vocabulary, out: Path, *, int8: bool = False
) -> Exported:
    """Write encoder and head as one graph, and the words of a vocabulary beside it.

    The graph has the projection that the vocabulary asks; texts are its input, so it takes other
    words too.

    Args:
        segmenter: on the CPU, in float32.
        vocabulary: what is to be looked for.
        out: FILE.onnx, or FILE.pt2 for `torch.export.load`; the words go to FILE.classes.npz.
        int8: whether the weights of matrix products are written as int8.

    Raises:
        ConfigError: another ending, an encoder that cannot be exported, or a way of asking that
            needs more than a graph.
        StoreError: a file of that name is not by fmbseg, or was changed since.
    """
    require_format(out, int8)
    words = words_file(segmenter, vocabulary)
    graph, patch, dim, facts = _graph(segmenter, vocabulary)
    program = traced(graph, patch, dim)
    answers: Agreement | None = None
    if out.suffix == TORCH:
        content = torch_file(program, facts)
    else:
        from fmbseg.deploy.onnx_file import TOLERANCE, agreement, onnx_file, quantised

        content = onnx_file(program, facts)
        answers = agreement(content, graph, patch, dim)
        if answers.difference > TOLERANCE:
            raise ConfigError(
                f"onnxruntime differs from torch by {answers.difference:.2g} on this encoder: "
                f"export as FILE{TORCH}"
            )
        if int8:
            content = quantised(content)
            answers = agreement(content, graph, patch, dim)
    out.parent.mkdir(parents=True, exist_ok=True)
    ledger, beside = Ledger(out.parent), f"{out.stem}{WORDS}"
    ledger.write(beside, words)
    ledger.write(out.name, content)
    return Exported(out, out.with_name(beside), len(content), answers)


def _graph(
    segmenter: Segmenter, vocabulary: Vocabulary
) -> tuple[SegmenterGraph, int, int, dict[str, str]]:
    """The graph, its patch and text dimension, and what its file says of itself."""
    checkpoint, backbone = segmenter.checkpoint, segmenter.backbone
    projection = segmenter.projection(vocabulary)
    info = checkpoint.info
    facts = {
        "fmbseg": __version__,
        "head_sha256": checkpoint.sha256,
        "encoder": info.encoder.name,
        "clip": info.clip.name,
        "projection": info.vocabularies[projection].name,
        "patch": str(backbone.patch_size),
    }
    shifts = segmenter.inference.shifts
    graph = SegmenterGraph(backbone, checkpoint.head, projection, shifts)
    return graph, backbone.patch_size, checkpoint.head.config.out_dim, facts
