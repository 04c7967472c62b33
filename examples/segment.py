"""Segment a picture with a trained head, tell what is in it, and draw it.

    python examples/segment.py data/align photo.jpg "dog, grass, sky" overlay.png

The head is the folder of a checkpoint; `make demo` trains one into data/align. No CLIP image tower
and no SAM is loaded: one pass of the frozen encoder and the head.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import fmbseg
from fmbseg.view.overlay import overlay


def main(checkpoint: str, picture: str, names: str, out: str) -> None:
    """Print each class with its share of the picture and its mean cosine; write the overlay."""
    segmenter = fmbseg.load_segmenter(checkpoint)
    found = segmenter.predict(picture, classes=[name.strip() for name in names.split(",")])
    for index, name in enumerate(found.classes):
        pixels = found.label_map == index
        if pixels.any():
            cosine = found.scores[index][pixels].mean()
            print(f"{name}: {pixels.mean():.1%} of the picture, mean cosine {cosine:.2f}")
    with Image.open(picture) as image:
        overlay(image, found.label_map.astype(np.uint8), found.classes).save(Path(out))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
