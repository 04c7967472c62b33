"""How good the models in use are by themselves: one table on scenes nothing was trained on.

`fmbseg models evaluate` prints it. The scenes are drawn from seeds of the range `evaluation`, in
millions of it that no benchmark uses, and show no glyph that was held out of pretraining except
where a row says so.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fmbseg.config import Config
from fmbseg.machine.device import choose_device
from fmbseg.machine.progress import Progress
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.sam import load_sam
from fmbseg.models.weights import weights_digest
from fmbseg.quality.clip import clip_figures
from fmbseg.quality.encoder import encoder_figures
from fmbseg.quality.figures import Figure
from fmbseg.quality.photos import find_photos, photo_figures
from fmbseg.quality.sam import sam_figures

SCENES = 120  # scenes CLIP sees; the amounts of the others follow from it


def evaluate_models(
    config: Config, scenes: int, bsds500: Path | None, progress: Progress
) -> dict[str, Any]:
    """Every figure of the models named in `config`.

    Args:
        config: models, windows, thresholds and templates are taken from it.
        scenes: CLIP sees as many, SAM half of them; the encoder's probe is fitted on 12.5 times as
            many (1,500 of 120).
        bsds500: folder of BSDS500 (`images/val`, `groundTruth/val`), or None.
        progress: a task a part.

    Returns:
        What `--json` writes: the models with their weights' digests, the parameters that were
        used, the figures, and CLIP's detection class by class.

    Raises:
        WeightsError: a model is unknown, or its weights are missing or damaged.
        DataError: `bsds500` is not that data set.
    """
    # Before the models: a wrong path should not cost their work.
    photos = [] if bsds500 is None else find_photos(bsds500)
    choice = choose_device(config.run)
    names = (config.clip.model, config.sam.model, config.features.encoder)
    digests = {name: weights_digest(name) for name in names}
    clip = load_clip(names[0], choice.device, choice.dtype)
    sam = load_sam(names[1], choice.device, choice.dtype)
    encoder = load_backbone(names[2], choice.device, choice.dtype)
    figures, classes = clip_figures(clip, config, scenes, progress)
    figures += sam_figures(sam, config, max(1, scenes // 2), progress)
    if photos:
        figures += photo_figures(sam, config, photos, progress)
    figures += encoder_figures(encoder, names[2], clip, config, scenes * 25 // 2, progress)
    sections = ("run", "clip", "detection", "query", "sam", "masks", "features")
    return {
        "weights": digests,
        "params": {name: getattr(config, name).model_dump() for name in sections},
        "scenes": scenes,
        "figures": [asdict(figure) for figure in figures],
        "detection_classes": classes,
    }


def quality_table(result: dict[str, Any]) -> str:
    """The figures as plain text, a line each."""
    figures = [Figure(**record) for record in result["figures"]]
    rows = [(figure.model, figure.name, figure.shown, f"{figure.of:,}") for figure in figures]
    rows.insert(0, ("model", "figure", "value", "of"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{model:<{widths[0]}}  {name:<{widths[1]}}  {value:>{widths[2]}}  {of:>{widths[3]}}"
        for model, name, value, of in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)
