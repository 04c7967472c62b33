"""Every mask of the mask model takes the label of most of its pixels."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.regions import paint, vote
from fmbseg.inference.decision import Decision
from fmbseg.inference.maps import Maps
from fmbseg.machine.device import choose_device
from fmbseg.pseudo.encodings import MaskEncodings, pixels_digest


class MaskVote:
    """A vote within the automatic masks, smaller masks over larger ones (`regions.vote`).

    It votes on the final labels, background included, so no threshold is left to be swept.

    Args:
        config: the sections sam, masks and run are read.
        encodings: see `load_refiner`.
    """

    def __init__(self, config: Config, encodings: Path | None) -> None:
        self.models = (config.sam.model,)
        self._encodings = MaskEncodings(config, encodings, choose_device(config.run))

    def refine(
        self, image: Image.Image, maps: Maps, decision: Decision, words: Vocabulary
    ) -> Decision:
        """See `Refiner`."""
        masks = self._encodings.masks_of(image, pixels_digest(image))
        return Decision(vote(decision.labels, paint(masks.masks)))
