"""What several results depend on in common; rows and methods add their own."""

from __future__ import annotations

from fmbseg.config import InferenceSection
from fmbseg.stage.depends import Depends

RUN = Depends(params=("run.dtype", "run.threads"))  # sums depend on both
READING = Depends((), ("data",), ("numpy", "opencv-python-headless", "pillow"))
NETWORKS = Depends((), ("models",), ("torch",))
TEXT = Depends(("clip.model", "clip.templates"), (), ("open_clip_torch",))
CLIP = Depends(("clip",), (), ("open_clip_torch",))
SAM = Depends(("sam",), (), ("segment-anything", "torchvision"))
INFERENCE = Depends(tuple(f"evaluate.{name}" for name in InferenceSection.model_fields))
"""How what compares patches with words is asked; a head is published with it."""
SCORING = (
    READING
    + NETWORKS
    + Depends(("evaluate.batch_size",), ("evaluate", "inference"), TEXT.libraries)
    + RUN
)
"""What every score depends on, besides the images; a method adds its own."""
