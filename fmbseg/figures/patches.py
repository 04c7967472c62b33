"""Patch features as colours: their principal components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from fmbseg.figures.canvas import head_row, panels
from fmbseg.figures.studio import Studio
from fmbseg.models.backbone import resize_for_encoder
from fmbseg.pseudo.encodings import pixels_digest

_ROWS = 4
_SPREAD = (2, 98)  # percentiles that become 0 and 1

Grid = npt.NDArray[np.float32]  # [h, w, D]


def draw(studio: Studio) -> Figure:
    """A row a picture: itself, CLIP's patches, the encoder's, the aligned ones."""
    images = [studio.image(record) for record, _ in studio.detections[:_ROWS]]
    side = studio.segmenter.inference.short_side
    aligned = studio.segmenter.encoder(studio.words)
    backbone = studio.segmenter.backbone
    kinds: list[list[Grid]] = [[], [], []]
    for image in images:
        pixels = resize_for_encoder(image, side, backbone)[None]
        clip = studio.encoder.clip.encode_image(image, pixels_digest(image))
        kinds[0].append(clip.dense.astype(np.float32))
        kinds[1].append(backbone.features(pixels)[0].float().cpu().numpy())
        kinds[2].append(aligned.embed(pixels)[0].float().cpu().numpy())
    figure, axes = panels(max(1, len(images)), 4)
    head_row(axes, ("picture", "CLIP", "encoder", "aligned"))
    for line, image, *found in zip(axes, images, *map(coloured, kinds), strict=False):
        line[0].imshow(np.asarray(image))
        for panel, grid in zip(line[1:], found, strict=True):
            panel.imshow(grid, interpolation="nearest")
    return figure


def coloured(grids: Sequence[Grid]) -> list[Grid]:
    """The first three principal components of all patches together, 0 to 1: [h, w, 3] each.

    A component's sign is chosen so that its loading of greatest size is positive: the same
    features have the same colours, whichever library finds them.
    """
    if not grids:
        return []
    every = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids]).astype(np.float64)
    centred = every - every.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, ::-1][:, :3]
    first = first * np.sign(first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])])
    low, high = np.percentile(centred @ first, _SPREAD, axis=0)
    scaled = np.clip((centred @ first - low) / np.maximum(high - low, 1e-12), 0, 1)
    ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])[:-1]
    return [
        part.reshape(*grid.shape[:2], -1).astype(np.float32)
        for part, grid in zip(np.split(scaled, ends), grids, strict=True)
    ]
