"""What the refinements share that go by the picture's colours and need no weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.inference.decision import Decision, decide
from fmbseg.inference.maps import Maps


class ByColours(ABC):
    """A `Refiner` that brings the similarities to the picture's own size by its colours.

    Args:
        config: the section evaluate is read.
        encodings: not used, nothing is kept.
    """

    models: tuple[str, ...] = ()

    def __init__(self, config: Config, encodings: Path | None) -> None:
        self._section = config.evaluate

    @abstractmethod
    def at_pixels(self, colours: Tensor, values: Tensor) -> Tensor:
        """Colours [3, H, W] from 0 to 1 and similarities [M, h, w] -> similarities [M, H, W]."""

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, words: Vocabulary
    ) -> Decision:
        """See `Refiner`."""
        colours = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
        refined = self.at_pixels(colours.to(maps.values.device), maps.values)
        size = image.height, image.width
        return decide(Maps(refined, maps.classes), size, words, self._section)
