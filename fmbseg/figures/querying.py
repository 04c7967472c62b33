"""Query points and the masks that they give (after Figure 2 of the paper)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fmbseg.data.palette import palette
from fmbseg.figures.canvas import STAR, frame, panels, show, tinted, write
from fmbseg.figures.studio import Studio
from fmbseg.pseudo.encodings import pixels_digest

_ROWS = 4


def draw(studio: Studio) -> Figure:
    """A row a class: the picture with its points, then the mask model's masks."""
    chosen = studio.detections[:_ROWS]
    figure, axes = panels(max(1, len(chosen)), 4)
    for line, (record, row) in zip(axes, chosen, strict=False):
        image = studio.image(record)
        pixels = np.asarray(image)
        points = np.array(row["points"], dtype=np.float32).reshape(1, -1, 2)
        encoding = studio.encoder.sam.encode_image(image, pixels_digest(image))
        found = studio.encoder.sam.model.predict_points(encoding, points)
        show(line[0], pixels, row["class_name"])
        line[0].scatter(*points[0].T, marker="*", s=40, c=STAR, edgecolors="black", linewidths=0.4)
        colour = palette(row["class_index"] + 1)[-1].tolist()
        best = int(found.predicted_iou[0].argmax())
        for index, panel in enumerate(line[1:]):
            if index >= found.masks.shape[1]:
                panel.axis("off")
                continue
            show(panel, tinted(pixels, found.masks[0, index], colour))
            write(panel.set_title, f"IoU {found.predicted_iou[0, index]:.2f}")
            if index == best:
                frame(panel)
    return figure
