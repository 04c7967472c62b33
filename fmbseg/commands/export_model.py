"""`fmbseg export-model`: a trained segmenter as a file that runs without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ClassNames,
    HeadFolder,
    Overrides,
    Params,
    VocabularyName,
    WeightsDir,
    lenient_config,
    named_classes,
    require_place,
    use_weights,
)
from fmbseg.store.paths import Paths

_CHECKPOINT = Paths().align


def export_model(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="FILE.onnx, or FILE.pt2 for torch.export.load.")
    ],
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX: weights of matrix products as int8.")
    ] = False,
    checkpoint: HeadFolder = _CHECKPOINT,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write encoder and head as one model that needs neither CLIP nor fmbseg.

    The model takes pictures of any size whose sides are multiples of the patch, and embeddings of
    any number of words; FILE.classes.npz has those of the classes you name (default: the first
    vocabulary of the training) and how they are asked. The model is held against torch before it is
    written.
    """
    use_weights(weights_dir)
    config = lenient_config(params, overrides)
    words = named_classes(classes, vocabulary) if classes or vocabulary else None
    from fmbseg.deploy.export import export_model as export
    from fmbseg.deploy.export import require_format
    from fmbseg.inference.segmenter import load_segmenter

    require_format(out, int8)
    require_place(out)
    section = ask_as_trained(config, checkpoint, overrides or ()).evaluate
    cpu = config.run.model_copy(update={"device": "cpu", "dtype": "float32"})
    segmenter = load_segmenter(checkpoint, section, cpu)
    made = export(segmenter, words or segmenter.checkpoint.info.vocabularies[0], out, int8=int8)
    checked = ""
    if (answers := made.agreement) is not None:
        checked = f", differs from torch by {answers.difference:.1g} at most"
        checked += f" ({100 * answers.same:.1f} % of patches the same)" if int8 else ""
    print(f"{made.model} ({made.size / 1e6:.1f} MB{checked}) and {made.words}")
