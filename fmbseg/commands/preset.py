"""`fmbseg preset`: another set of models, written into params.yaml."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.models import weights_file
from fmbseg.commands.options import DEFAULT_PARAMS, Params, WeightsDir, use_weights


def preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tiny, base or paper.")],
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write a set of models, with the sizes and thresholds that go with them, into params.yaml.

    tiny: the models that come with the package. base: CLIP ViT-B/16, SAM ViT-B, DINOv2 ViT-B/14.
    paper: CLIP ViT-L/14, SAM ViT-H, DINOv2 ViT-L/14. Comments stay; images, benchmarks, device and
    tracking are not touched. What changes is printed.
    """
    use_weights(weights_dir, made=True)
    from fmbseg.presets.writing import apply_preset

    changes = apply_preset(name, params)
    for change in changes:
        old = "not set" if change.old is None else change.old
        print(f"{change.name}: {old} -> {change.new}")
    if changes:
        print(f"{params}: {len(changes)} parameters changed to preset {name}")
    else:
        print(f"{params} has the parameters of preset {name} already")
    _say_what_is_missing(name, weights_dir)


def _say_what_is_missing(name: str, weights_dir: Path | None) -> None:
    from fmbseg.models.weights import WEIGHTS_VARIABLE
    from fmbseg.presets import preset

    sections = preset(name)
    names = (sections["clip"]["model"], sections["sam"]["model"], sections["features"]["encoder"])
    missing = [name for name in names if weights_file(name) is None]
    if missing:
        command = f"fmbseg models pull {' '.join(missing)}"
        if weights_dir is not None or not os.environ.get(WEIGHTS_VARIABLE):
            command += f" --weights-dir {shlex.quote(str(weights_dir or 'DIR'))}"
        print(f"its weights are not here yet: `{command}`")
