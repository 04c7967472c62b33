"""Refinements of a label map at test time, by name; each is a module of this room.

They see the image, the similarities and the decision of a method, never the truth. All of them
need a model or a pass over the pixels that the method itself does without, so none is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from fmbseg.config import RefineName
from fmbseg.stage.depends import SAM, Depends


@dataclass(frozen=True)
class Refinement:
    """A row of the table.

    Attributes:
        refiner: the class that does it, `module:Class`; imported when it runs.
        depends: what its labels depend on, besides the method and `evaluate.refine`.
    """

    refiner: str
    depends: Depends = field(default_factory=Depends)


_ROOM = "fmbseg.evaluate.refine"
REFINEMENTS: Mapping[RefineName, Refinement] = {
    "none": Refinement(f"{_ROOM}.refiner:Unrefined"),
    "masks": Refinement(
        f"{_ROOM}.masks:MaskVote", SAM + Depends(("masks",), ("pseudo/encodings.py",))
    ),
    "pamr": Refinement(f"{_ROOM}.pamr:PixelAdaptive"),
    "jbu": Refinement(f"{_ROOM}.jbu:JointBilateral"),
    "propagate": Refinement(
        f"{_ROOM}.propagate:Propagation", Depends(("features.encoder",), (), ("timm",))
    ),
}
assert tuple(REFINEMENTS) == get_args(RefineName)
