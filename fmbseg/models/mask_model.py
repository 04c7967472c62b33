"""What stage 1 needs of a mask model, whichever it is; SAM (`fmbseg.models.sam`) is one.

Another one is a class with the methods of `MaskModel`, and a record in `registry.yaml` that names
the class (`implementation: package.module:Class`). `sam.model` then takes the record's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from fmbseg.config import MasksSection
from fmbseg.models.records import WeightsRecord, weights_record
from fmbseg.store.encoding_cache import Arrays, Encoded


class MaskEncoding(Encoded, Protocol):
    """What a mask model sees in one image; all prompts of the image share it."""

    @property
    def original_size(self) -> tuple[int, int]:
        """(H, W) of the image, pixels."""


Encoding = TypeVar("Encoding", bound=MaskEncoding)


class MaskModel(Protocol[Encoding]):
    """A promptable mask model; computes without gradients, images are [H, W, 3] uint8 RGB."""

    @staticmethod
    def encoding_class() -> type[Encoding]:
        """The class of its encodings."""

    @classmethod
    def load(
        cls,
        record: WeightsRecord,
        device: torch.device | str,
        dtype: torch.dtype,
        weights_dir: Path | str | None,
    ) -> Self:
        """Build the model of a record and fill it (see `fmbseg.models.loading.load_module`).

        Raises:
            WeightsError: the weights are missing, damaged or do not fit.
        """

    def encode(self, image: npt.NDArray[np.uint8]) -> Encoding:
        """Encode one image; all prompts of the image share the result."""

    def predict_points(
        self, encoding: Encoding, points: npt.NDArray[np.floating], batch_size: int = 64
    ) -> PromptMasks:
        """Masks of point prompts; the P points of a prompt are one object (1.1 Querying).

        Args:
            encoding: of the image.
            points: [B, P, 2] (x, y) in pixels of the original image, all foreground.
            batch_size: prompts at once.
        """

    def automatic_masks(
        self, encoding: Encoding, section: MasksSection, batch_size: int = 64
    ) -> AutomaticMasks:
        """Masks of everything in an image (1.2 Classification).

        Args:
            encoding: of the image.
            section: grid of points, thresholds, areas.
            batch_size: prompts at once.
        """


@dataclass(frozen=True)
class PromptMasks:
    """Candidates of each prompt, for B prompts.

    Attributes:
        masks: [B, C, H, W] bool; SAM gives C = 3.
        predicted_iou: [B, C] float32, the model's own estimate of each mask's quality.
    """

    masks: npt.NDArray[np.bool_]
    predicted_iou: npt.NDArray[np.float32]


@dataclass(frozen=True)
class AutomaticMasks:
    """Masks of a whole image, the highest predicted IoU first.

    Attributes:
        masks: [M, H, W] bool.
        predicted_iou: [M] float32.
        stability: [M] float32, IoU of the mask at a raised and at a lowered threshold.
    """

    masks: npt.NDArray[np.bool_]
    predicted_iou: npt.NDArray[np.float32]
    stability: npt.NDArray[np.float32]

    def arrays(self) -> Arrays:
        """Everything it holds, as integers; eight pixels a byte."""
        return {
            "shape": np.array(self.masks.shape, dtype=np.int32),
            "bits": np.packbits(self.masks),
            # As bits: they are not rounded.
            "predicted_iou": self.predicted_iou.view(np.int32),
            "stability": self.stability.view(np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """The masks whose `arrays` these are."""
        shape = arrays["shape"].tolist()
        bits = np.unpackbits(arrays["bits"], count=int(np.prod(shape)))
        return cls(
            masks=bits.view(np.bool_).reshape(shape),
            predicted_iou=arrays["predicted_iou"].view(np.float32),
            stability=arrays["stability"].view(np.float32),
        )


def mask_model_class(name: str) -> type[MaskModel[Any]]:
    """The class that a mask model's record names; loads no weights.

    Raises:
        WeightsError: the name is no mask model.
    """
    record = weights_record(name, "mask model")
    module, _, implementation = str(record.implementation).partition(":")
    found: type[MaskModel[Any]] = getattr(import_module(module), implementation)
    return found


def load_mask_model(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
) -> MaskModel[Any]:
    """Load a mask model of the registry.

    Raises:
        WeightsError: the name is no mask model, or its weights are missing, damaged or do not fit.
    """
    return mask_model_class(name).load(
        weights_record(name, "mask model"), device, dtype, weights_dir
    )
