"""Names that a parameter may have; the table of what each stands for is where that is made."""

from typing import Annotated, Literal

from pydantic import Field

SceneLayoutName = Literal[
    "voc2012", "pascal_context", "coco_stuff164k", "cityscapes", "ade20k", "camvid", "folder"
]
Templates = Literal["single", "subset7", "custom9", "imagenet80"]
Dense = Literal["value", "sclip", "clearclip", "naclip"]
HeadName = Literal["transformer", "mlp", "linear"]
LossName = Literal["tsupcon", "supcon", "text", "cross_entropy", "infonce"]
ProtocolName = Literal["fmbseg", "tcl", "sclip", "proxyclip"]
BackgroundRule = Literal["probability", "constant", "words"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
RefineName = Literal["none", "masks", "pamr", "jbu", "propagate"]
BenchmarkName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")]
