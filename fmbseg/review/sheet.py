"""The ranking as one self-contained HTML page: pictures, what is doubtful in them, and why."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.data.labels import unlabelled
from fmbseg.errors import plain
from fmbseg.export.source import NOTHING, LabelledImage, Source
from fmbseg.machine.progress import Progress
from fmbseg.pseudo.tables import rows_by_image
from fmbseg.review.collect import repainted
from fmbseg.review.ranking import Ranking
from fmbseg.store.digest import json_digest
from fmbseg.view.fonts import font_for
from fmbseg.view.overlay import blend, colours_of, unpainted

SHEET = "review.html"
_TEMPLATE = Path(__file__).with_name("sheet.html")
_SIDE = 384  # pixels, of the longer side of a picture on the page
_QUALITY = 82
_SHOWN = 5  # masks a picture
_WORTH = 0.1  # doubt of a mask that is worth a number


@dataclass(frozen=True)
class _Doubtful:
    """One mask on the page.

    Attributes:
        number: in its picture, from 1.
        index: in the ranking's masks.
        visible: [H, W] bool.
    """

    number: int
    index: int
    visible: npt.NDArray[np.bool_]


def sheet(
    ranking: Ranking,
    source: Source,
    config: Config,
    why: Sequence[str],
    pictures: int,
    progress: Progress,
) -> str:
    """The page.

    Args:
        ranking: of the source's pictures.
        source: the labels.
        config: as in `collect`.
        why: of each mask.
        pictures: so many are shown, the most doubtful ones.
        progress: advanced by pictures.
    """
    names = source.classes.names
    shown = ranking.pictures[:pictures]
    of_picture: dict[int, list[int]] = {index: [] for index in shown}
    for index in ranking.masks:
        members = of_picture.get(ranking.collected.masks.image[index])
        worth = ranking.doubt[index] >= _WORTH
        if members is not None and worth and len(members) < _SHOWN:
            members.append(index)
    cards = []
    with progress.task("sheet", len(shown)) as task:
        for position, picture in enumerate(shown, 1):
            cards.append(
                _card(ranking, source, config, why, position, picture, of_picture[picture])
            )
            task.advance()
    present = {ranking.collected.masks.classes[i] for found in of_picture.values() for i in found}
    options = [escape(names[index]) for index in sorted(present, key=lambda i: names[i])]
    title = (
        f"Where to look first: {len(shown)} of {len(source.images)} pictures, "
        f"{len(ranking.doubt)} masks"
    )
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        options="".join(f'<option value="{name}">{name}</option>' for name in options),
        cards="\n".join(cards),
        foot=escape(_foot(ranking)),
        key=json_digest([image.image_id for image in source.images])[:12],
    )


def escape(text: str) -> str:
    """A name as text of a page, also within quotes."""
    return html.escape(plain(text))


def _foot(ranking: Ranking) -> str:
    parts = ["Doubt is a model's guess at the odds that a mask has the wrong class."]
    if ranking.like:
        parts.append(f"{len(ranking.like)} near-duplicates of pictures before them are left out.")
    if corrected := ranking.collected.corrected:
        parts.append(f"{corrected} pictures that people have corrected are left out.")
    return " ".join(parts)


def _card(
    ranking: Ranking,
    source: Source,
    config: Config,
    why: Sequence[str],
    position: int,
    picture: int,
    members: Sequence[int],
) -> str:
    image, names = ranking.collected.images[picture], source.classes.names
    seen, overlay = _panels(ranking, source, config, image, members)
    doubt = f"{100 * ranking.picture_doubt[picture]:.0f} % of it may be wrong"
    if (missing := 100 * ranking.collected.unlabelled[picture]) >= 1:
        doubt += f"; {missing:.0f} % has no label"
    rows = []
    for number, index in enumerate(members, 1):
        name = escape(names[ranking.collected.masks.classes[index]])
        value = 100 * ranking.doubt[index]
        rows.append(
            f'<li data-name="{name}" data-doubt="{value:.1f}"><span class="number">{number}</span>'
            f'<span class="doubt">{value:.0f} %</span>'
            f'<span>{name}<span class="why">{escape(why[index])}</span></span></li>'
        )
    name = escape(image.image_id)
    return (
        f'<article id="{name}"><figure><img loading="lazy" alt="{name}" src="{seen}">'
        f'<figcaption>{name}</figcaption></figure><figure><img loading="lazy" alt="its labels" '
        f'src="{overlay}"><figcaption>labels; numbers: what is doubtful</figcaption></figure>'
        f"<div><h2>{position}. {doubt}</h2><ol>{''.join(rows)}</ol></div>"
        "</article>"
    )


def _panels(
    ranking: Ranking, source: Source, config: Config, image: LabelledImage, members: Sequence[int]
) -> tuple[str, str]:
    """The picture, and its labels with the doubtful masks numbered, as data URLs."""
    assert source.scores is not None  # it has been collected
    rows = rows_by_image(source.scores, [image.image_id])[image.image_id]
    own = [row for row in rows if source.words in (None, row["vocabulary"])]
    painted, label = repainted(image, own, source, config)
    visible = painted.visible()
    by_id = {painted.rows[index]["mask_id"]: where for index, where in visible.items()}
    masks = ranking.collected.masks
    doubtful = [
        _Doubtful(number, index, by_id[masks.mask_id[index]])
        for number, index in enumerate(members, 1)
    ]
    picture = read_image(image.path)
    names = source.classes.names
    values = np.where(label == NOTHING, unlabelled(len(names)), label)
    coloured = blend(
        picture, unpainted(values, source.classes.background, len(names)), colours_of(names)
    )
    return _url(_fitted(picture)), _url(_numbered(_fitted(coloured), doubtful))


def _numbered(picture: Image.Image, doubtful: Sequence[_Doubtful]) -> Image.Image:
    """Numbers in the middle of what is doubtful."""
    draw = ImageDraw.Draw(picture)
    size = max(14, picture.width // 20)
    font = font_for(["0"], size)
    for each in reversed(doubtful):
        height, width = each.visible.shape
        y, x = _middle(each.visible)
        place = ((x + 0.5) * picture.width / width, (y + 0.5) * picture.height / height)
        half = 0.72 * size
        box = (place[0] - half, place[1] - half, place[0] + half, place[1] + half)
        draw.ellipse(box, fill=(32, 32, 32), outline=(255, 255, 255), width=max(1, size // 10))
        draw.text(place, str(each.number), fill=(255, 255, 255), font=font, anchor="mm")
    return picture


def _middle(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (y, x) of a mask that lies deepest in it."""
    import cv2

    padded = np.pad(mask, 1).view(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)


def _fitted(picture: Image.Image) -> Image.Image:
    scale = _SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
