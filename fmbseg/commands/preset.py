"""`fmbseg preset`: another set of models, written into params.yaml."""

from __future__ import annotations

from typing import Annotated

import typer

from fmbseg.commands.options import DEFAULT_PARAMS, Params


def preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="tiny, base or paper.")],
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write a set of models, with the sizes and thresholds that go with them, into params.yaml.

    tiny: the models that come with the package. base: CLIP ViT-B/16, SAM ViT-B, DINOv2 ViT-B/14.
    paper: CLIP ViT-L/14, SAM ViT-H, DINOv2 ViT-L/14. Comments stay; images, benchmarks, device and
    tracking are not touched. What changes is printed.
    """
    from fmbseg.presets import apply_preset

    changes = apply_preset(name, params)
    for change in changes:
        old = "not set" if change.old is None else change.old
        print(f"{change.name}: {old} -> {change.new}")
    if changes:
        print(f"{params}: {len(changes)} parameters changed to preset {name}")
    else:
        print(f"{params} has the parameters of preset {name} already")
    _say_what_is_missing(name)


def _say_what_is_missing(name: str) -> None:
    from fmbseg.errors import WeightsError
    from fmbseg.models.weights import resolve
    from fmbseg.presets import preset

    sections = preset(name)
    missing = []
    for model in (
        sections["clip"]["model"],
        sections["sam"]["model"],
        sections["features"]["encoder"],
    ):
        try:
            resolve(model)
        except WeightsError:
            missing.append(model)
    if missing:
        print(f"its weights are not here yet: `fmbseg models pull {' '.join(missing)}`")
