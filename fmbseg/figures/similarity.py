"""A class's similarity map before and after alignment (after Figure 3 of the paper)."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from fmbseg.figures.canvas import head_row, panels, show, write
from fmbseg.figures.studio import Studio
from fmbseg.inference.maps import upsample
from fmbseg.pseudo.detection import similarity_to_classes
from fmbseg.pseudo.encodings import pixels_digest

_ROWS = 4
_MAP = "viridis"


def draw(studio: Studio) -> Figure:
    """A row a class: the picture, CLIP's dense map, the aligned encoder's map.

    Each map has a colour scale of its own, from its least to its greatest cosine: the two spaces
    differ in how far cosines spread.
    """
    chosen = studio.detections[:_ROWS]
    figure, axes = panels(max(1, len(chosen)), 3)
    head_row(axes, ("picture", "CLIP", "aligned"))
    for line, (record, row) in zip(axes, chosen, strict=False):
        image, index = studio.image(record), row["class_index"]
        clip = studio.encoder.clip.encode_image(image, pixels_digest(image))
        before = similarity_to_classes(clip.dense, studio.text)[..., index]
        ((found, _),) = studio.segmenter.segment([image], studio.words)
        maps = found.of(torch.tensor([index]))
        own = torch.nonzero(maps.classes == index).flatten()
        size = (image.height, image.width)
        after = upsample(maps.values[own].amax(dim=0, keepdim=True).cpu().float(), size)
        coarse = torch.from_numpy(before.astype(np.float32))[None]
        show(line[0], np.asarray(image))
        write(line[0].set_ylabel, row["class_name"])
        for panel, cosines in ((line[1], upsample(coarse, size)), (line[2], after)):
            panel.imshow(cosines[0].numpy(), cmap=_MAP)
            write(panel.set_xlabel, f"{cosines.min():.2f} to {cosines.max():.2f}")
    return figure
