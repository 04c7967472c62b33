"""Sheets for print: panels of one size with captions, by matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from fmbseg.view.fonts import font_file

_DOTS_PER_INCH = 200
_TEXT_POINTS = 8
_TICK_POINTS = 7
FORMATS = ("png", "pdf")
# A file is the same whenever it is made.
_UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
STAR = "#00c853"
FRAME = "#d50000"


def panels(rows: int, columns: int, cell: tuple[float, float] = (1.5, 1.5)) -> tuple[Figure, Any]:
    """A sheet of empty panels without ticks.

    Args:
        rows: of panels.
        columns: of panels.
        cell: width and height of one, inches.

    Returns:
        The sheet, and its panels [rows, columns].
    """
    width, height = cell
    figure = Figure(
        figsize=(columns * width, rows * height + 0.3), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    return figure, axes


def plots(count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A sheet of `count` plots in two columns, each of `size` inches (width, height)."""
    rows = -(-count // 2)
    figure = Figure(figsize=(2 * size[0], rows * size[1]), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = [*figure.subplots(rows, 2, squeeze=False).flat]
    for unused in axes[count:]:
        unused.axis("off")
    for panel in axes[:count]:
        panel.tick_params(labelsize=_TICK_POINTS)
    return figure, axes[:count]


def show(panel: Axes, picture: Any, caption: str = "", **how: Any) -> None:
    """Put a picture into a panel, with a caption above it if there is one."""
    panel.imshow(picture, **how)
    if caption:
        write(panel.set_title, caption)


def write(to: Callable[..., Any], text: str | Sequence[str]) -> None:
    """Write in a font that has the characters; `to` is a method such as `set_title`."""
    place = font_file([text] if isinstance(text, str) else text)
    font = FontProperties() if place is None else FontProperties(fname=str(place))
    font.set_size(_TEXT_POINTS)
    to(text, fontproperties=font)


def head_row(axes: npt.NDArray[Any], titles: Sequence[str]) -> None:
    """What the columns are, above the first row."""
    for panel, title in zip(axes[0], titles, strict=True):
        write(panel.set_title, title)


def frame(panel: Axes, colour: str = FRAME) -> None:
    """Mark a panel as the one that counts."""
    for spine in panel.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(2.0)


def tinted(
    picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """A picture [H, W, 3] whose mask [H, W] is coloured, and the rest of it paler."""
    pale = picture // 2 + 127
    mixed = (0.45 * picture + 0.55 * np.asarray(colour)).astype(np.uint8)
    return np.where(mask[..., None], mixed, pale)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a sheet in each of `FORMATS`."""
    for ending in FORMATS:
        figure.savefig(folder / f"{name}.{ending}", metadata=_UNDATED[ending])
