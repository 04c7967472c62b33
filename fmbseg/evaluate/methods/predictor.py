"""A method at work: what scoring asks of it, and how it is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods import find_method
from fmbseg.inference.decision import Decision, Found
from fmbseg.inference.smoothing import Smoothing
from fmbseg.inference.tiles import Tiled, Tiling


class Predictor(Protocol):
    """A method under test: images and a vocabulary in, label maps out. It never sees truth.

    Attributes:
        checkpoint_sha256: of the trained head, hex; None for methods without training.
    """

    checkpoint_sha256: str | None = None

    def decide(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
    ) -> list[Decision]:
        """Label RGB images of any sizes.

        Args:
            images: RGB.
            vocabulary: K classes.
            benchmark: its name, where the protocol has sizes of its own for it.
        """
        return [found.decision for found in self.segment(images, vocabulary, benchmark)]

    def segment(
        self,
        images: Sequence[Image.Image],
        vocabulary: Vocabulary,
        benchmark: str | None = None,
        smoothing: Smoothing | None = None,
    ) -> Iterator[Found]:
        """The same decisions in the order of the images, with how sure they are.

        Args:
            images: see `decide`, as the next two.
            vocabulary: the classes.
            benchmark: its name.
            smoothing: over images that are frames in their order; None: each stands for itself.

        Raises:
            ConfigError: the method has nothing to smooth.
        """
        ...

    def tiled(self, image: Image.Image, vocabulary: Vocabulary, tiling: Tiling) -> Tiled:
        """Label one RGB image of any size, tile by tile.

        Raises:
            ConfigError: the method, or what it was asked with, does not go by tiles.
        """

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """What the labels depend on, for the result file: JSON values."""
        ...


def load_predictor(
    method: str, config: Config, checkpoint: Path | None = None, encodings: Path | None = None
) -> Predictor:
    """Load the models of a method.

    Args:
        method: one of `METHODS`.
        config: all sections.
        checkpoint: folder of a trained head, or of what a stage has made, for the methods that
            have one.
        encodings: folder where methods keep what does not depend on the classes, for other
            benchmarks that have the same pictures and for the next run; None: nothing is kept.

    Raises:
        ConfigError: no such method.
        CheckpointError: the head is missing or damaged, or was trained with other weights.
        StoreError: what a stage has made for the method is.
        WeightsError: the weights of a model are missing or damaged.
    """
    module, _, name = find_method(method).predictor.partition(":")
    load: Callable[[Config, Path | None, Path | None], Predictor]
    load = getattr(import_module(module), name)
    return load(config, checkpoint, encodings)


def computation(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """What sums depend on, for `Predictor.protocol`; the device's name stays out."""
    return {"threads": config.run.threads, "dtype": str(dtype).removeprefix("torch.")}


def no_tiles(what: str) -> ConfigError:
    """What is said where `what` needs the whole picture."""
    return ConfigError(f"{what} needs the whole picture at once: leave out --tile")
