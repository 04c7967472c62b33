"""What the tiny models do not know, said in one line by whoever shows them photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fmbseg.data.drawn import is_drawn
from fmbseg.models import tiny
from fmbseg.presets import preset


def drawings_only(models: Iterable[str], pictures: Iterable[Path]) -> str | None:
    """The line for models that know drawings alone, and pictures that are none.

    Args:
        models: names of those in use.
        pictures: files, or folders of them.

    Returns:
        None where no model is tiny, or all pictures are scenes.
    """
    if not any(map(tiny.is_tiny, models)) or all(map(is_drawn, pictures)):
        return None
    base = preset("base")
    needed = f"{base['clip']['model']} {base['sam']['model']}"
    return (
        "the tiny models know drawings of emoji glyphs only, and label photos at random: for "
        f"photos `fmbseg models pull {needed}` and take --preset base (a trained head: "
        "`fmbseg preset base`, and train anew)"
    )
