"""What scoring asks of a refinement, and how it is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from PIL import Image

from fmbseg.config import Config
from fmbseg.evaluate.refine import REFINEMENTS
from fmbseg.inference.decision import Decision
from fmbseg.inference.maps import Maps


class Refiner(Protocol):
    """Decides an image anew, from what a method says of it."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models it needs, besides those of the method."""

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, background: int | None
    ) -> Decision:
        """The decision in the place of the method's own.

        Args:
            image: RGB, H x W pixels.
            maps: the similarities it was decided from, on any grid.
            decision: the method's own.
            background: index of the background class; None: there is none.
        """


class Unrefined:
    """The method's own decision; takes what all refinements take."""

    models: tuple[str, ...] = ()

    def __init__(self, config: Config, encodings: Path | None) -> None:
        pass

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, background: int | None
    ) -> Decision:
        """See `Refiner`."""
        return decision


def refined(
    refiner: Refiner,
    images: Sequence[Image.Image],
    found: Iterable[tuple[Maps, Decision]],
    background: int | None,
) -> list[Decision]:
    """What a method found in images, each refined as it comes."""
    return [
        refiner.refine(image, maps, decision, background)
        for image, (maps, decision) in zip(images, found, strict=True)
    ]


def load_refiner(config: Config, encodings: Path | None = None) -> Refiner:
    """Load what `evaluate.refine` names.

    Args:
        config: all sections.
        encodings: folder where masks are kept for other benchmarks and the next run; None: they
            are made each time.

    Raises:
        WeightsError: the weights of its model are missing or damaged.
    """
    module, _, name = REFINEMENTS[config.evaluate.refine].refiner.partition(":")
    load: Callable[[Config, Path | None], Refiner] = getattr(import_module(module), name)
    return load(config, encodings)
