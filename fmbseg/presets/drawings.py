"""What the tiny models do not know, said in one line by whoever shows them photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fmbseg.data.drawn import is_drawn
from fmbseg.models import tiny
from fmbseg.presets import preset


def unknown_to(models: Iterable[str]) -> Callable[[Path], bool]:
    """Which pictures are nothing that some of the models in use know, by where they lie.

    How sure the models are does not tell: with the tiny head the mean probability of COCO-Stuff's
    names is 0.95 on eight photos and 0.98 on eight scenes, with voc20's 0.61 and 0.49.
    """
    known = not any(map(tiny.is_tiny, models))
    return lambda picture: not (known or is_drawn(picture))


def drawings_only(models: Iterable[str], pictures: Iterable[Path]) -> str | None:
    """The line for models that know drawings alone, and pictures that are none.

    Args:
        models: names of those in use.
        pictures: files, or folders of them.

    Returns:
        None where no model is tiny, or all pictures are scenes.
    """
    if not any(map(unknown_to(models), pictures)):
        return None
    base = preset("base")
    needed = f"{base['clip']['model']} {base['sam']['model']}"
    return (
        "the tiny models know drawings of emoji glyphs only, and label photos at random: for "
        f"photos `fmbseg models pull {needed}` and take --preset base (a trained head: "
        "`fmbseg preset base`, and train anew)"
    )
