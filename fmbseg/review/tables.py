"""The ranking as tables: a row a mask, a row a picture, and the order of the pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from fmbseg.review.ranking import Ranking

MASKS, PICTURES, ORDER = "masks.csv", "pictures.csv", "order.txt"


def masks_csv(ranking: Ranking, names: Sequence[str], why: Sequence[str]) -> str:
    """A row a mask, the most doubtful first; a sign about which nothing is known is empty."""
    collected = ranking.collected
    masks, signs = collected.masks, ranking.signs
    heads = ["rank", "image_id", "mask_id", "source", "class", "doubt", "pixels", "similarity"]
    rows: list[Sequence[Any]] = [[*heads, *(f"sign: {name}" for name in signs), "why"]]
    for position, index in enumerate(ranking.masks, 1):
        rows.append(
            [
                position,
                collected.images[masks.image[index]].image_id,
                masks.mask_id[index],
                masks.source[index],
                names[masks.classes[index]],
                _number(ranking.doubt[index]),
                masks.pixels[index],
                _number(masks.similarity[index]),
                *(_number(values[index]) for values in signs.values()),
                why[index],
            ]
        )
    return _csv(rows)


def pictures_csv(ranking: Ranking) -> str:
    """A row a picture, the most doubtful first, near-duplicates of one after all others."""
    images = ranking.collected.images
    rows: list[Sequence[Any]] = [["rank", "image_id", "file", "doubt", "like"]]
    for position, index in enumerate((*ranking.pictures, *ranking.like), 1):
        like = ranking.like.get(index)
        rows.append(
            [
                position,
                images[index].image_id,
                images[index].path,
                _number(ranking.picture_doubt[index]),
                "" if like is None else images[like].image_id,
            ]
        )
    return _csv(rows)


def order_txt(ranking: Ranking) -> str:
    """A line a picture, its id, the most doubtful first; without near-duplicates."""
    images = ranking.collected.images
    return "".join(f"{images[index].image_id}\n" for index in ranking.pictures)


def _number(value: float) -> str:
    return "" if value != value else f"{value:.4f}"


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
