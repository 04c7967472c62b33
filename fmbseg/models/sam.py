"""SAM: one encoding an image; points (section 1.1), boxes and automatic masks (section 1.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_point_grid,
    calculate_stability_score,
)
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import nms

from fmbseg.config import MasksSection
from fmbseg.errors import DataError, WeightsError
from fmbseg.machine.device import autocast, batches_with_backoff
from fmbseg.models import tiny
from fmbseg.models.build import build_sam
from fmbseg.models.loading import load_module
from fmbseg.models.mask_model import AutomaticMasks, PromptMasks
from fmbseg.models.records import WeightsRecord, weights_record
from fmbseg.models.sam_decoder import SharedDecoder
from fmbseg.models.sam_encoder import PartedEncoder
from fmbseg.store.encoding_cache import Arrays

# Floats of upsampled mask logits held at once, on the padded square and on the image: 128 MB.
_LOGITS_AT_ONCE = 2**25
# Floats of all prompts' patches that the CPU works on at once: what fits its cache.
_CACHED = 2**20
# Masks that passed the thresholds, before duplicates are removed: their bits, eight a byte, boxes,
# predicted IoU, stability and area.
_Candidates = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class SamEncoding:
    """SAM's encoding of one image, rounded to float16 so that stored and fresh ones are equal.

    Attributes:
        features: [C, h, w] float16.
        input_size: (height, width) of the image resized to SAM's long side, pixels.
        original_size: (H, W) of the image, pixels.
    """

    features: npt.NDArray[np.float16]
    input_size: tuple[int, int]
    original_size: tuple[int, int]

    def arrays(self) -> Arrays:
        """See `Encoded`."""
        return {
            "features": self.features,
            "sizes": np.array([self.input_size, self.original_size], dtype=np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """See `Encoded`."""
        (height, width), (original_height, original_width) = arrays["sizes"].tolist()
        return cls(arrays["features"], (height, width), (original_height, original_width))


class SamModel:
    """A SAM, a `fmbseg.models.mask_model.MaskModel`; computes without gradients.

    The image encoder runs in `dtype` (autocast when it is not float32). The decoder always runs
    in float32: the position encoding of points loses whole pixels in half precision. Where memory
    runs out, fewer prompts are decoded at once (see `batches_with_backoff` on the last bit).

    Attributes:
        module: the `segment_anything.modeling.Sam`, float32 weights.
        image_size: long side that images are resized to, pixels.
    """

    def __init__(
        self,
        module: Sam,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.dtype = dtype
        self.image_size: int = module.image_encoder.img_size
        self._transform = ResizeLongestSide(self.image_size)
        self._encoder: Callable[[Tensor], Tensor] = self.module.image_encoder
        in_parts = self.device.type == "cpu" and dtype == torch.float32
        if in_parts and isinstance(self.module.image_encoder, ImageEncoderViT):
            self._encoder = PartedEncoder(self.module.image_encoder)
        self._decoder = SharedDecoder(self.module.mask_decoder)

    @staticmethod
    def encoding_class() -> type[SamEncoding]:
        """See `MaskModel`."""
        return SamEncoding

    @classmethod
    def load(
        cls,
        record: WeightsRecord,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        weights_dir: Path | str | None = None,
    ) -> Self:
        """See `MaskModel`."""
        return cls(load_module(record, lambda: _build(record), weights_dir), device, dtype)

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8]) -> SamEncoding:
        """See `MaskModel`.

        Raises:
            DataError: another shape or dtype.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(f"image is {image.dtype} {image.shape}: give uint8 [H, W, 3] RGB")
        resized = torch.as_tensor(self._transform.apply_image(image), device=self.device)
        inputs = self.module.preprocess(resized.permute(2, 0, 1).contiguous()[None])
        with autocast(self.device, self.dtype):
            features = self._encoder(inputs)
        return SamEncoding(
            features=features[0].to(torch.float16).cpu().numpy(),
            input_size=(resized.shape[0], resized.shape[1]),
            original_size=(image.shape[0], image.shape[1]),
        )

    def predict_points(
        self,
        encoding: SamEncoding,
        points: npt.NDArray[np.floating],
        batch_size: int = 64,
    ) -> PromptMasks:
        """See `MaskModel`.

        Raises:
            DataError: another shape.
        """
        if points.ndim != 3 or points.shape[2] != 2:
            raise DataError(f"points are {points.shape}: give [B, P, 2], x and y in pixels")
        return self._predict(encoding, points, batch_size)

    def predict_boxes(
        self,
        encoding: SamEncoding,
        boxes: npt.NDArray[np.floating],
        batch_size: int = 64,
    ) -> PromptMasks:
        """Masks of box prompts, one box an object.

        Args:
            encoding: of the image.
            boxes: [B, 4] (x0, y0, x1, y1) in pixels of the original image.
            batch_size: prompts a decoder call.

        Raises:
            DataError: another shape, or a right or lower edge before the left or upper one.
        """
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise DataError(f"boxes are {boxes.shape}: give [B, 4], x0 y0 x1 y1 in pixels")
        if (boxes[:, :2] > boxes[:, 2:]).any():
            raise DataError("a box ends before it begins: give x0 y0 x1 y1, not width and height")
        return self._predict(encoding, boxes, batch_size)

    @torch.no_grad()
    def _predict(
        self, encoding: SamEncoding, prompts: npt.NDArray[np.floating], batch_size: int
    ) -> PromptMasks:
        """Masks of point prompts [B, P, 2] or boxes [B, 4]."""
        masks = np.zeros((len(prompts), 3, *encoding.original_size), dtype=np.bool_)
        predicted = np.zeros((len(prompts), 3), dtype=np.float32)
        image = self._image(encoding)

        def decode(part: slice) -> None:
            for rows, tokens, patches in self._attend(image, encoding, prompts[part]):
                here = slice(part.start + rows.start, part.start + rows.stop)
                iou = self._decoder.predicted_iou(tokens)
                predicted[here] = iou.cpu().numpy()
                every = torch.ones_like(iou, dtype=torch.bool)
                logits = self._decoder.logits(tokens, patches, self._grid, every)
                flat = masks[here].reshape(-1, *encoding.original_size)
                for some, upsampled in self._upsampled(logits, encoding):
                    flat[some] = (upsampled > self.module.mask_threshold).cpu().numpy()

        for _ in batches_with_backoff(len(prompts), batch_size, decode):
            pass  # each batch has written its rows
        return PromptMasks(masks, predicted)

    @torch.no_grad()
    def automatic_masks(
        self, encoding: SamEncoding, section: MasksSection, batch_size: int = 64
    ) -> AutomaticMasks:
        """See `MaskModel`; the masks of `SamAutomaticMaskGenerator` without crops.

        Of these, those whose share of the image is between `min_area` and `max_area`, and never an
        empty one. Masks of too low a predicted IoU are dropped before they are upsampled, and the
        image is not encoded again.
        """
        kept: list[_Candidates] = []
        image = self._image(encoding)
        covered = np.zeros(encoding.original_size, dtype=np.bool_)
        for points in _passes(section, encoding.original_size):
            columns, rows = points.astype(np.int64).T
            asked = points[~covered[rows, columns]]
            found = self._of_points(image, encoding, asked, section, batch_size)
            _cover(covered, found, section)
            kept += found
        return _distinct(kept, encoding.original_size, section)

    def _of_points(
        self,
        image: Tensor,
        encoding: SamEncoding,
        points: npt.NDArray[np.float64],
        section: MasksSection,
        batch_size: int,
    ) -> list[_Candidates]:
        """What passes the thresholds of the masks of points [B, 2] (x, y), each its own prompt.

        `image` is what `_image` gives.
        """

        def decode(part: slice) -> list[_Candidates]:
            found = []
            for _, tokens, patches in self._attend(image, encoding, points[part, None]):
                iou = self._decoder.predicted_iou(tokens)
                # A threshold of 0 keeps all, negative estimates too, as in the stock generator.
                least = section.min_predicted_iou
                confident = iou > least if least > 0 else torch.ones_like(iou, dtype=torch.bool)
                logits = self._decoder.logits(tokens, patches, self._grid, confident)
                iou = iou[confident]
                found += [
                    self._candidates(upsampled, iou[rows], section)
                    for rows, upsampled in self._upsampled(logits, encoding)
                ]
            return found

        batches = batches_with_backoff(len(points), batch_size, decode)
        return [candidates for _, found in batches for candidates in found]

    def _candidates(self, logits: Tensor, iou: Tensor, section: MasksSection) -> _Candidates:
        threshold = self.module.mask_threshold
        stability = calculate_stability_score(logits, threshold, section.stability_offset)
        if section.min_stability > 0:
            stable = stability >= section.min_stability
            logits, iou, stability = logits[stable], iou[stable], stability[stable]
        masks = logits > threshold
        return (
            torch.from_numpy(np.packbits(masks.flatten(1).cpu().numpy(), axis=1)),
            batched_mask_to_box(masks).float().cpu(),
            iou.cpu(),
            stability.float().cpu(),
            masks.flatten(1).sum(dim=1).cpu(),
        )

    @cached_property
    def _places(self) -> Tensor:
        """[P, C], the position encoding of each patch."""
        places: Tensor = self.module.prompt_encoder.get_dense_pe()[0]
        return places.flatten(1).T.contiguous()

    @property
    def _grid(self) -> tuple[int, int]:
        """(h, w) patches of the padded image."""
        height, width = self.module.prompt_encoder.image_embedding_size
        return height, width

    def _image(self, encoding: SamEncoding) -> Tensor:
        """[P, C]: what all prompts of an image share, patch by patch."""
        features = torch.from_numpy(encoding.features).to(self.device).float()
        nothing: Tensor = self.module.prompt_encoder.no_mask_embed.weight
        return features.flatten(1).T.contiguous() + nothing

    def _attend(
        self, image: Tensor, encoding: SamEncoding, prompts: npt.NDArray[np.floating]
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Points [B, P, 2] or boxes [B, 4]: some rows at a time, tokens and patches of each."""
        corners = prompts.reshape(len(prompts), -1, 2)
        # Rounded as in the stock predictor.
        places = torch.as_tensor(
            self._transform.apply_coords(corners, encoding.original_size),
            dtype=torch.float32,
            device=self.device,
        )
        points = boxes = None
        if prompts.ndim == 3:
            points = places, torch.ones(places.shape[:2], dtype=torch.int, device=self.device)
        else:
            boxes = places.flatten(1)
        sparse, _ = self.module.prompt_encoder(points=points, boxes=boxes, masks=None)
        step = len(prompts)
        if self.device.type == "cpu":
            step = max(1, _CACHED // image.nelement())
        for start in range(0, len(prompts), step):
            rows = slice(start, min(start + step, len(prompts)))
            yield rows, *self._decoder.attend(image, self._places, sparse[rows])

    def _upsampled(self, logits: Tensor, encoding: SamEncoding) -> Iterator[tuple[slice, Tensor]]:
        """Logits [M, 4h, 4w] at the image's size, a bounded number at a time: rows, [m, H, W]."""
        height, width = encoding.original_size
        step = max(1, _LOGITS_AT_ONCE // (self.image_size**2 + height * width))
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            yield rows, self._at_image_size(logits[rows, None], encoding).squeeze(1)

    def _at_image_size(self, logits: Tensor, encoding: SamEncoding) -> Tensor:
        """`Sam.postprocess_masks` to the bit; what lies in the padding is not computed."""
        scale, (height, width) = self.image_size // logits.shape[-1], encoding.input_size
        # One more row and column: the last pixels lie between it and their own.
        part = logits[..., : -(-height // scale) + 1, : -(-width // scale) + 1]
        square = F.interpolate(part, scale_factor=scale, mode="bilinear", align_corners=False)
        square = square[..., :height, :width]
        if encoding.original_size == encoding.input_size:
            return square
        return F.interpolate(square, encoding.original_size, mode="bilinear", align_corners=False)


def load_sam(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
) -> SamModel:
    """Load a SAM of the registry, for what no other mask model need have.

    Raises:
        WeightsError: the name is no SAM, or its weights are missing, damaged or do not fit.
    """
    record = weights_record(name, "mask model")
    if record.library != "segment_anything":
        raise WeightsError(f"{name} is a mask model of {record.library}, where a SAM is needed")
    return SamModel.load(record, device, dtype, weights_dir)


def _build(record: WeightsRecord) -> Sam:
    """The architecture of a record, with random weights."""
    if record.architecture == "tiny":
        return build_sam(tiny.architecture("sam"))
    return sam_model_registry[record.architecture]()


def _passes(section: MasksSection, size: tuple[int, int]) -> Iterator[npt.NDArray[np.float64]]:
    """The points of a grid [n * n, 2] (x, y), pixels, in the passes in which they are asked.

    With the sampler `object-aware` every other row and column first, then all others: most of those
    lie in a mask by then (the idea is MobileSAMv2's, whose boxes come from a detector).
    """
    height, width = size
    side = section.points_per_side
    grid: npt.NDArray[np.float64] = build_point_grid(side) * [width, height]
    if section.sampler == "grid":
        yield grid
        return
    row, column = np.divmod(np.arange(side * side), side)
    first = (row % 2 == 0) & (column % 2 == 0)
    yield grid[first]
    yield grid[~first]


def _cover(covered: npt.NDArray[np.bool_], found: list[_Candidates], section: MasksSection) -> None:
    """Mark the pixels [H, W] of certain masks; not of those that are too large to be one thing."""
    pixels = covered.size
    for packed, _, iou, _, area in found:
        certain = ((iou >= section.certain_iou) & (area <= section.max_area * pixels)).numpy()
        if certain.any():
            bits = np.bitwise_or.reduce(packed.numpy()[certain], axis=0)
            covered |= np.unpackbits(bits, count=pixels).view(np.bool_).reshape(covered.shape)


def _distinct(
    candidates: list[_Candidates], size: tuple[int, int], section: MasksSection
) -> AutomaticMasks:
    """Non-maximum suppression by boxes over the whole image, then the area filter."""
    pixels = size[0] * size[1]
    if not candidates:
        nothing = np.zeros(0, dtype=np.float32)
        return AutomaticMasks(np.zeros((0, *size), dtype=np.bool_), nothing, nothing)
    packed, boxes, iou, stability, area = map(torch.cat, zip(*candidates, strict=True))
    keep = nms(boxes, iou, section.max_box_iou)
    area = area[keep]
    fits = (area >= max(1, section.min_area * pixels)) & (area <= section.max_area * pixels)
    keep = keep[fits]
    bits = packed[keep].numpy()
    masks = np.unpackbits(bits, axis=1, count=pixels).view(np.bool_).reshape(-1, *size)
    return AutomaticMasks(masks, iou[keep].numpy(), stability[keep].numpy())
