"""Pictures inside a page: no file beside it, no network."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from fmbseg.data.images import read_image

_WIDEST = 1400
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A picture with what is to be seen in it.

    Attributes:
        data: `data:` address of a WebP file.
        width: pixels.
        height: pixels.
        caption: what it shows, for those who see it and those who do not.
    """

    data: str
    width: int
    height: int
    caption: str


def picture(path: Path, caption: str) -> Picture:
    """Read a picture that the pipeline has made; a wide one is made narrower.

    Raises:
        DataError: it is missing or damaged.
    """
    image = read_image(path)
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=_QUALITY, method=4)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{text}", image.width, image.height, caption)
