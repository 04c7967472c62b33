"""What can be scored, in the order of tables; each method is a module of this room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fmbseg.config import OF_HEADS, Config
from fmbseg.errors import ConfigError
from fmbseg.evaluate.refine import REFINEMENTS
from fmbseg.stage.depends import CLIP, INFERENCE, SAM, TEXT, Depends
from fmbseg.store.paths import Paths


@dataclass(frozen=True)
class Method:
    """A method under test.

    Attributes:
        name: as in `--method NAME` and `metrics/NAME/`.
        predictor: the class that labels images, `module:Class`; imported when it runs.
        depends: what its labels depend on, besides what all methods share (`SCORING`).
        head: the stage that trains its head; None: it has none.
        made: the stage that makes what else it works with; None: models are all it needs.
    """

    name: str
    predictor: str
    depends: Depends
    head: str | None = None
    made: str | None = None

    @property
    def refined(self) -> bool:
        """Whether `evaluate.refine` means anything to it."""
        return "evaluate.refine" in self.depends.params

    def depends_with(self, config: Config) -> Depends:
        """What its labels depend on, with the refinement that is asked for."""
        if not self.refined:
            return self.depends
        return self.depends + REFINEMENTS[config.evaluate.refine].depends

    @property
    def follows_protocol(self) -> bool:
        """Whether `evaluate.protocol` means anything to it."""
        return "evaluate.protocol" in self.depends.params

    def head_folder(self, paths: Paths) -> Path | None:
        """Where the pipeline's own head lies; None: it has none."""
        return None if self.head is None else paths.data / self.head

    def made_folder(self, paths: Paths) -> Path | None:
        """Where what its stage `made` lies; None: it has none."""
        return None if self.made is None else paths.data / self.made


_REFINED = Depends(("evaluate.refine",))
_ALIGNED = INFERENCE + Depends(sources=("align",), libraries=("timm",)) + _REFINED
_ASKED = tuple(n for n in INFERENCE.params if n.removeprefix("evaluate.") not in OF_HEADS)
_DENSE = CLIP + Depends(_ASKED, ("pseudo",)) + _REFINED
# What gives the whole image to CLIP's last block has no use for a protocol's windows.
_WHOLE = tuple(name for name in _ASKED if name != "evaluate.protocol")
_JOINED = CLIP + Depends(_WHOLE, ("pseudo",))
_ENCODER = Depends(("features.encoder",), (), ("timm",))
_TABLE = (
    Method("fmbseg", "fmbseg.evaluate.methods.aligned:Aligned", _ALIGNED, head="align"),
    Method(
        "maskclip",
        "fmbseg.evaluate.methods.maskclip:MaskClip",
        _DENSE,
    ),
    *(
        Method(name.lower(), f"fmbseg.evaluate.methods.self_attention:{name}", _DENSE)
        for name in ("SClip", "ClearClip", "NaClip")
    ),
    Method("stitch", "fmbseg.evaluate.methods.joined:Stitch", _JOINED + _REFINED),
    Method("proxyclip", "fmbseg.evaluate.methods.joined:ProxyClip", _JOINED + _ENCODER + _REFINED),
    Method(
        "retrieval",
        "fmbseg.evaluate.methods.retrieval:Retrieval",
        TEXT + _ENCODER + Depends((*_ASKED, "retrieval")) + _REFINED,
        made="bank",
    ),
    Method(
        "talk2dino",
        "fmbseg.evaluate.methods.talk2dino:Talk2Dino",
        TEXT + _ENCODER + Depends(_ASKED) + _REFINED,
        made="talk2dino",
    ),
    Method(
        "corrclip",
        "fmbseg.evaluate.methods.corrclip:CorrClip",
        _JOINED + _ENCODER + SAM + Depends(("masks",)),
    ),
    Method(
        "pseudo",
        "fmbseg.evaluate.methods.pseudo:PseudoLabels",
        CLIP
        + SAM
        + Depends(("detection", "label", "masks", "query"), ("pseudo",), ("pycocotools",)),
    ),
    Method("oracle", "fmbseg.evaluate.methods.aligned:Aligned", _ALIGNED, head="oracle"),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _TABLE}


def find_method(name: str) -> Method:
    """A method by its name; raises ConfigError where there is none."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}: use one of {', '.join(METHODS)}")
    return METHODS[name]
