"""Frozen encoder and trained head as one graph, with the words as an input."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fmbseg.align.heads import AlignmentHead
from fmbseg.errors import ConfigError, one_line
from fmbseg.inference.shifts import shifted
from fmbseg.models.backbone import Backbone, normalised
from fmbseg.models.timm_features import patch_features

PIXELS, TEXT, SIMILARITY = "pixels", "text", "similarity"
_LONGEST = 4096  # patches along a side: of any picture that is read
# What it is traced with: sides that differ, and no number that stands for something else.
_EXAMPLE = (2, 5, 7, 3)  # pictures, rows and columns of patches, words


class SegmenterGraph(nn.Module):
    """Pixels and texts in, cosines of each patch with each text out.

    Args:
        backbone: on the CPU, in float32.
        head: trained on its features.
        projection: which of the head's.
        shifts: see `shifted`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: Backbone, head: AlignmentHead, projection: int, shifts: int = 1
    ) -> None:
        super().__init__()
        self.encoder = backbone.module
        self.head = head
        self.register_buffer("mean", torch.tensor(backbone.mean))
        self.register_buffer("std", torch.tensor(backbone.std))
        self._layers = backbone.layers
        self._projection = projection
        self._patch, self._shifts = backbone.patch_size, shifts
        self.eval()

    def forward(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Ask for words.

        Args:
            pixels: [N, H, W, 3] uint8 RGB, H and W multiples of the encoder's patch.
            text: [Q, D] float32 unit vectors.

        Returns:
            [N, Q, shifts * H / patch, shifts * W / patch] float32.
        """
        patches = shifted(self._patches, pixels, self._patch, self._shifts)
        return (patches @ text.T).permute(0, 3, 1, 2)

    def _patches(self, pixels: Tensor) -> Tensor:
        maps = patch_features(self.encoder, normalised(pixels, self.mean, self.std), self._layers)
        patches: Tensor = self.head(maps.permute(0, 2, 3, 1), self._projection)
        return patches


def traced(graph: SegmenterGraph, patch: int, dim: int) -> ExportedProgram:
    """The graph of torch.export, for any number of pictures and words and any size.

    Args:
        graph: see there.
        patch: of the encoder, pixels.
        dim: D of the text space.

    Raises:
        ConfigError: the encoder decides by values that are not known beforehand.
    """
    pictures, rows, columns, words = _EXAMPLE
    example = {
        PIXELS: torch.zeros(pictures, rows * patch, columns * patch, 3, dtype=torch.uint8),
        TEXT: torch.zeros(words, dim),
    }
    height, width = (patch * Dim(name, min=1, max=_LONGEST) for name in ("rows", "columns"))
    shapes = {PIXELS: {0: Dim("pictures"), 1: height, 2: width}, TEXT: {0: Dim("words")}}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (), kwargs=example, dynamic_shapes=shapes)
    except Exception as error:  # torch raises anything on what it cannot trace
        raise ConfigError(
            f"this encoder cannot be exported for pictures of any size ({one_line(error)[:200]}): "
            "train a head on another one"
        ) from error


def torch_file(program: ExportedProgram, facts: Mapping[str, str]) -> bytes:
    """The content of a `.pt2` file, for `torch.export.load`; `facts` are its extra files."""
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files=dict(facts))
    return stream.getvalue()
