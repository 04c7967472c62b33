"""What scoring asks of a refinement, and how it is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.evaluate.refine import REFINEMENTS
from fmbseg.inference.decision import Decision
from fmbseg.inference.maps import Maps, Similarities


class Refiner(Protocol):
    """Decides an image anew, from what a method says of it."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models it needs, besides those of the method."""

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, words: Vocabulary
    ) -> Decision:
        """The decision in the place of the method's own.

        Args:
            image: RGB, H x W pixels.
            maps: the similarities it was decided from, on any grid.
            decision: the method's own.
            words: the vocabulary.
        """


class Unrefined:
    """The method's own decision; takes what all refinements take."""

    models: tuple[str, ...] = ()

    def __init__(self, config: Config, encodings: Path | None) -> None:
        pass

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, words: Vocabulary
    ) -> Decision:
        """See `Refiner`."""
        return decision


def refined(
    refiner: Refiner,
    images: Sequence[Image.Image],
    found: Iterable[tuple[Similarities, Decision]],
    words: Vocabulary,
) -> Iterator[tuple[Similarities, Decision]]:
    """What a method found in images, each refined as it comes."""
    for image, (similarities, decision) in zip(images, found, strict=True):
        if isinstance(refiner, Unrefined):
            yield similarities, decision
            continue
        present = torch.from_numpy(np.unique(decision.best[decision.best < len(words)]))
        maps = similarities.of(present)
        yield maps, refiner.refine(image, maps, decision, words)


def refuse_refined(refiner: Refiner) -> None:
    """Raise ConfigError where there is a refinement: each needs all similarities of a picture."""
    if not isinstance(refiner, Unrefined):
        raise ConfigError(
            "evaluate.refine needs the whole picture at once: --set evaluate.refine=none, or leave "
            "out --tile"
        )


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
