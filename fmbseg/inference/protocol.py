"""Evaluation protocols as records: how an image is resized, cut, upsampled and decided.

`fmbseg` is this project's own; its sizes are parameters. The others follow the code that the
field's numbers were made with (TCL, SCLIP and ProxyCLIP families): everything at the labels' own
size, logits averaged over sliding windows. What those repositories tune for each benchmark on
that benchmark's truth (logit scale, threshold, removal of small classes) is left out: one rule
holds for all benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from fmbseg.config import BackgroundRule, InferenceSection, ProtocolName

BACKGROUND_RULES: Mapping[BackgroundRule, str] = {
    "probability": "highest softmax(logit_scale * similarity) below background_threshold",
    "constant": "no class has a cosine of background_score; its own words are not asked",
    "words": "a pixel most similar to the background's own words, no threshold",
}
assert tuple(BACKGROUND_RULES) == get_args(BackgroundRule)


@dataclass(frozen=True)
class Sizes:
    """Lengths in pixels. Without a window the whole image is encoded in one go."""

    short_side: int
    window: int | None = None
    stride: int | None = None


@dataclass(frozen=True)
class EvaluationProtocol:
    """One way to get label maps out of dense similarities.

    Attributes:
        name: of the record.
        sizes: for every benchmark without an exception.
        exceptions: sizes by benchmark, as the protocol's own configurations have them.
        long_side: no side of the resized image is longer, pixels; None: no limit.
        resize: `patch`: bicubic, both sides rounded to multiples of the model's patch. `pixel`:
            bilinear, both sides rounded to whole pixels (int(x * scale + 0.5)).
        synonyms: the maximum over a class's words, of the cosines of each patch, or of the
            probabilities of each pixel (softmax over the words of all classes).
        background_rule: for vocabularies with a background; see `BACKGROUND_RULES`.
    """

    name: ProtocolName
    sizes: Sizes
    exceptions: Mapping[str, Sizes] = field(default_factory=dict)
    long_side: int | None = None
    resize: Literal["patch", "pixel"] = "pixel"
    synonyms: Literal["cosine", "probability"] = "probability"
    background_rule: BackgroundRule = "probability"

    def sizes_for(self, benchmark: str | None) -> Sizes:
        """The sizes a benchmark is scored with; None: those without an exception."""
        return self.exceptions.get(benchmark or "", self.sizes)

    def record(self) -> dict[str, Any]:
        """What result files say, JSON values; the same for every benchmark."""
        return {
            "name": self.name,
            "resize": {
                "patch": "bicubic, sides rounded to multiples of the patch",
                "pixel": f"bilinear, sides rounded to pixels, at most {self.long_side}",
            }[self.resize],
            **asdict(self.sizes),
            "exceptions": {name: asdict(sizes) for name, sizes in self.exceptions.items()},
            "windows": "whole image" if self.sizes.window is None else "averaged logits",
            "synonyms": f"maximum of the {self.synonyms}",
            "upsampling": "bilinear to the original size",
        }


_MMCV_LONG_SIDE = 2048
_PEERS = (
    EvaluationProtocol(
        name="tcl",
        sizes=Sizes(448, window=448, stride=224),
        long_side=_MMCV_LONG_SIDE,
        # This family scores classes independently and puts a constant channel beside them.
        background_rule="constant",
    ),
    EvaluationProtocol(
        name="sclip",
        sizes=Sizes(336, window=224, stride=112),
        exceptions={
            "coco_stuff": Sizes(448, window=224, stride=112),
            "cityscapes": Sizes(560, window=224, stride=112),
        },
        long_side=_MMCV_LONG_SIDE,
    ),
    EvaluationProtocol(
        name="proxyclip",
        sizes=Sizes(336, window=336, stride=112),
        exceptions={
            "cityscapes": Sizes(448, window=224, stride=112),
            "ade20k": Sizes(448, window=336, stride=112),
        },
        long_side=_MMCV_LONG_SIDE,
    ),
)
assert ("fmbseg", *(record.name for record in _PEERS)) == get_args(ProtocolName)


def protocol_of(section: InferenceSection) -> EvaluationProtocol:
    """The protocol that a section asks for, with its background rule."""
    own = EvaluationProtocol(
        name="fmbseg", sizes=Sizes(section.short_side), resize="patch", synonyms="cosine"
    )
    (record,) = (each for each in (own, *_PEERS) if each.name == section.protocol)
    if section.background_rule is None:
        return record
    return replace(record, background_rule=section.background_rule)


def rule_record(section: InferenceSection) -> dict[str, Any]:
    """What result files say of how classes are decided, JSON values."""
    rule = protocol_of(section).background_rule
    names: Mapping[BackgroundRule, tuple[str, ...]] = {
        "probability": ("logit_scale", "background_threshold"),
        "constant": ("background_score",),
        "words": (),
    }
    return {
        "min_region": section.min_region,
        "same_words": section.same_words,
        **{name: getattr(section, name) for name in names[rule]},
        "background_rule": f"where the vocabulary has a background: {BACKGROUND_RULES[rule]}",
    }
