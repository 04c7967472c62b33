"""What can be scored, in the order of tables; each method is a module of this room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmbseg.stage.depends import Depends


@dataclass(frozen=True)
class Method:
    """A method under test.

    Attributes:
        name: as in `--method NAME` and `metrics/NAME/`.
        predictor: the class that labels images, `module:Class`; imported when it runs.
        depends: what its labels depend on, besides what all methods share.
        head: the stage that trains its head; None: nothing is trained.
    """

    name: str
    predictor: str
    depends: Depends
    head: str | None = None


_ALIGNED = Depends(sources=("align",), libraries=("timm",))
_TABLE = (
    Method("fmbseg", "fmbseg.evaluate.methods.aligned:Aligned", _ALIGNED, head="align"),
    Method(
        "maskclip",
        "fmbseg.evaluate.methods.maskclip:MaskClip",
        Depends(params=("clip",), sources=("pseudo",)),
    ),
    Method(
        "pseudo",
        "fmbseg.evaluate.methods.pseudo:PseudoLabels",
        Depends(
            params=("clip", "detection", "label", "masks", "query", "sam"),
            sources=("pseudo",),
            libraries=("pycocotools", "segment-anything", "torchvision"),
        ),
    ),
    Method("oracle", "fmbseg.evaluate.methods.aligned:Aligned", _ALIGNED, head="oracle"),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _TABLE}
