"""fmbseg: semantic segmentation of any label set without a single annotation.

CLIP says what is in an image, SAM says where, and a light alignment module teaches a frozen
self-supervised encoder to speak CLIP's text space (FMbSeg, arXiv 2403.09307).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmbseg.inference.segmenter import Segmenter, load_segmenter
    from fmbseg.labelling.labeller import Labeller

__all__ = ["Labeller", "Segmenter", "__version__", "load_segmenter"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily: `fmbseg --help` must not wait for torch.
    if name in ("Segmenter", "load_segmenter"):
        from fmbseg.inference import segmenter as predict

        return getattr(predict, name)
    if name == "Labeller":
        from fmbseg.labelling.labeller import Labeller

        return Labeller
    raise AttributeError(f"module 'fmbseg' has no attribute {name!r}")
