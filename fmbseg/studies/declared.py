"""The studies, declared once for `fmbseg ablate`, the flow `fmbseg-ablation`, its deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from fmbseg.config import AlignSection, ClipSection

Changes = tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Variants that are held side by side.

    Attributes:
        about: what is varied.
        variants: by name, what each changes: section.key=value. A name is a folder's, too.
        names: whether scores of seen and of unseen names are shown apart.
    """

    about: str
    variants: Mapping[str, Changes]
    names: bool = False


def _each(section: type[AlignSection] | type[ClipSection], field: str) -> dict[str, Changes]:
    """A variant for each value that a parameter may have."""
    prefix = "align" if section is AlignSection else "clip"
    values = get_args(section.model_fields[field].annotation)
    return {value: (f"{prefix}.{field}={value}",) for value in values}


def _both(first: Mapping[str, Changes], second: Mapping[str, Changes]) -> dict[str, Changes]:
    pairs = product(first.items(), second.items())
    return {f"{one} {other}": (*a, *b) for (one, a), (other, b) in pairs}


def _numbers(parameter: str, values: Sequence[float], unit: float = 1) -> dict[str, Changes]:
    return {f"{value:g}": (f"{parameter}={value * unit:g}",) for value in values}


_HEADS, _LOSSES = _each(AlignSection, "head"), _each(AlignSection, "loss")
STUDIES: Mapping[str, Study] = {
    "heads": Study("the alignment head", _HEADS),
    "losses": Study("the loss that the head is trained with", _LOSSES),
    "heads-losses": Study("every head with every loss", _both(_HEADS, _LOSSES)),
    "labels": Study(
        "the pseudo labels of stage",
        {
            "1.1 + 1.2": (),
            "1.1 alone": ("label.use_masks=false",),
            "1.2 alone": ("label.use_queries=false",),
        },
    ),
    "points": Study("query points of a class in stage 1.1", _numbers("query.points", (1, 3, 5, 9))),
    "dense": Study("CLIP's dense features in stage 1", _each(ClipSection, "dense")),
    "images": Study(
        "percent of the training images, in as many steps",
        _numbers("align.image_share", (1, 10, 25, 50, 100), 0.01),
    ),
    "noise": Study(
        "percent of the labels' regions with a wrong class",
        _numbers("align.label_noise", (0, 20, 40, 60), 0.01),
    ),
    "names": Study(
        "percent of the class names that the head is not trained with",
        _numbers("align.unseen_names", (0, 25, 50), 0.01),
        names=True,
    ),
}
