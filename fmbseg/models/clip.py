"""CLIP: text embeddings, global window embeddings and the dense map of sections 1.1 and 1.2."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch import Tensor

from fmbseg.config import ClipSection, Dense
from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import ConfigError
from fmbseg.machine.device import autocast, batches_with_backoff
from fmbseg.models import tiny
from fmbseg.models.build import build_clip, tiny_tokenizer
from fmbseg.models.dense import joint_projection, last_tokens, visual_tokens
from fmbseg.models.finite import require_finite
from fmbseg.models.image_windows import ImageWindows
from fmbseg.models.last_block import LastBlock
from fmbseg.models.loading import load_module
from fmbseg.models.records import WeightsRecord, weights_record
from fmbseg.models.text import TextEmbeddings
from fmbseg.models.text_cache import TextCache
from fmbseg.models.weights import model_digest
from fmbseg.store.encoding_cache import Arrays

_log = logging.getLogger(__name__)
_PROMPTS_AT_ONCE = 256
# Published with OpenAI's archives beside the tensors of the model.
_ARCHIVE_FIELDS = ("input_resolution", "context_length", "vocab_size")


@dataclass(frozen=True)
class ClipEncoding:
    """What CLIP sees in one image, all from one pass a window.

    Values are always rounded to float16, so that a stored encoding and a fresh one are equal.

    Attributes:
        windows: [n, D] float16, unit image embedding of each window.
        dense: [h, w, D] float16, unit patch features stitched over the windows.
    """

    windows: npt.NDArray[np.float16]
    dense: npt.NDArray[np.float16]

    def arrays(self) -> Arrays:
        """See `Encoded`."""
        return {"windows": self.windows, "dense": self.dense}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """See `Encoded`."""
        return cls(arrays["windows"], arrays["dense"])


class ClipModel:
    """A CLIP with its tokenizer and normalisation; computes without gradients.

    The image tower runs in `dtype` (autocast when it is not float32), the text tower and
    everything after the towers in float32.

    Attributes:
        module: the `open_clip.CLIP`, float32 weights.
        image_size: side of the square input, pixels.
        patch_size: pixels.
        embed_dim: D.
        mean: of the pixels, scale 0 to 1.
        std: of the pixels, scale 0 to 1.
        text_cache: keeps embeddings of vocabularies; None: they are made each time.
    """

    def __init__(
        self,
        module: open_clip.CLIP,
        tokenizer: SimpleTokenizer,
        record: WeightsRecord,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.module = module.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.dtype = dtype
        self.mean, self.std = record.mean, record.std
        visual = module.visual
        self.image_size: int = visual.image_size[0]
        self.patch_size: int = visual.patch_size[0]
        self.embed_dim: int = visual.output_dim
        self.text_cache: TextCache | None = None
        self._tokenizer = tokenizer

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings of prompts.

        Returns:
            [n, D] float32, unit, on the model's device.
        """
        tokens = self._tokenizer(list(prompts))
        length = self._tokenizer.context_length
        # A row that ends with the end token is full; only those may have been cut.
        full = torch.nonzero(tokens[:, -1] == self._tokenizer.eot_token_id).flatten().tolist()
        cut = [prompts[i] for i in full if len(self._tokenizer.encode(prompts[i])) + 2 > length]
        if cut:
            _log.warning("%d prompts are cut at %d tokens, e.g. %r", len(cut), length, cut[0])
        parts = tokens.to(self.device).split(_PROMPTS_AT_ONCE)
        return torch.cat([self.module.encode_text(part, normalize=True) for part in parts])

    @torch.no_grad()
    def text_embeddings(self, vocabulary: Vocabulary, templates: str = "single") -> TextEmbeddings:
        """Embeddings of a vocabulary; a query is the normalised mean over the templates.

        Args:
            vocabulary: K classes with their synonyms.
            templates: name of a set in `fmbseg.data.templates.TEMPLATES`.

        Raises:
            ConfigError: unknown templates.
        """
        if templates not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise ConfigError(f"unknown templates {templates!r}: choose one of {known}")
        (words, owners), sentences = vocabulary.queries, TEMPLATES[templates]

        def embed(some: Sequence[str]) -> Tensor:
            prompts = [sentence.format(word) for word in some for sentence in sentences]
            embedded = self.encode_text(prompts).view(len(some), len(sentences), -1)
            return F.normalize(embedded.mean(dim=1), dim=-1)

        def compute() -> Tensor:
            # Of thousands of words in 80 sentences only the means are held.
            starts = range(0, len(words), _PROMPTS_AT_ONCE)
            return torch.cat([embed(words[start : start + _PROMPTS_AT_ONCE]) for start in starts])

        cache = self.text_cache
        queries = cache.queries(words, sentences, self.device, compute) if cache else compute()
        query_class = torch.tensor(owners, dtype=torch.int64, device=self.device)
        # Classes stand in order: each has the rows after those of the one before.
        counts = torch.bincount(query_class, minlength=len(vocabulary)).tolist()
        rows = torch.split(queries, counts)
        anchors = F.normalize(torch.stack([own.sum(dim=0) for own in rows]), dim=-1)
        return TextEmbeddings(queries, query_class, anchors, vocabulary.thresholds)

    @torch.no_grad()
    def encode_windows(
        self, pixels: Tensor | npt.NDArray[np.uint8], dense: Dense = "value"
    ) -> tuple[Tensor, Tensor]:
        """Global and dense embeddings of windows, from one pass (see `visual_tokens`).

        Args:
            pixels: uint8 [N, S, S, 3] RGB, or float [N, 3, S, S] normalised; S = `image_size`.
            dense: way of the patches through the last block.

        Returns:
            image [N, D] and dense [N, S / patch, S / patch, D], float32, unit.

        Raises:
            ConfigError: windows of another size.
        """
        inputs = self._normalised(torch.as_tensor(pixels))
        side = self.image_size
        if inputs.shape[1:] != (3, side, side):
            found = " x ".join(str(length) for length in inputs.shape[:1:-1])
            raise ConfigError(f"windows are {found} px: this CLIP takes {side} x {side}")
        with autocast(self.device, self.dtype):
            return visual_tokens(self.module.visual, inputs, dense)

    def encode_image_windows(self, image: Image.Image, section: ClipSection) -> ClipEncoding:
        """Encode the sliding windows of one image (1.1 Detection and Querying).

        The image is resized to `section.short_side`. Where windows are not of `image_size`, crops
        are resized to it and their dense maps back to the crop's own patches. Windows of different
        images never share a batch; where memory runs out, batches are halved (see
        `batches_with_backoff` on the last bit).

        Args:
            image: RGB.
            section: sizes in pixels, way to the dense features, batch size.

        Raises:
            ConfigError: window or stride is not a multiple of the patch size, or an embedding is
                NaN or infinite.
        """
        cut = ImageWindows.cut(image, section, self.image_size, self.patch_size)
        total = torch.zeros(*cut.grid, self.embed_dim, device=self.device)
        windows = []

        def encode(part: slice) -> tuple[Tensor, Tensor]:
            embeddings, dense = self.encode_windows(cut.pixels(part), section.dense)
            return embeddings, F.normalize(cut.regridded(dense), dim=-1)

        batches = batches_with_backoff(len(cut.offsets), section.batch_size, encode)
        for part, (embeddings, dense) in batches:
            windows.append(embeddings)
            cut.add(total, part, dense)
        for found in (*windows, total):
            require_finite(found, "CLIP's embeddings", self.dtype)
        # Normalising the sum of overlapping windows is normalising their mean.
        return ClipEncoding(_half(torch.cat(windows)), _half(F.normalize(total, dim=-1)))

    @torch.no_grad()
    def last_block(self, image: Image.Image, section: ClipSection) -> LastBlock:
        """What the last block's attention has of one image, joined over its sliding windows.

        Args:
            image: RGB, cut as in `encode_image_windows`.
            section: sizes in pixels and batch size.

        Raises:
            ConfigError: window or stride is not a multiple of the patch size.
        """
        cut = ImageWindows.cut(image, section, self.image_size, self.patch_size)
        visual = self.module.visual
        grid = (self.image_size // self.patch_size,) * 2

        def project(part: slice) -> Tensor:
            with autocast(self.device, self.dtype):
                tokens = last_tokens(visual, self._normalised(torch.as_tensor(cut.pixels(part))))[1]
                joint = joint_projection(visual.transformer.resblocks[-1], tokens[:, 1:])
            return cut.regridded(joint.float().view(len(joint), *grid, -1))

        total: Tensor | None = None
        for part, joint in batches_with_backoff(len(cut.offsets), section.batch_size, project):
            if total is None:
                total = joint.new_zeros(*cut.grid, joint.shape[-1])
            cut.add(total, part, joint)
        assert total is not None  # at least one window covers every image
        return LastBlock(visual, total / cut.counts(total.device))

    def _normalised(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.device)
        if pixels.dtype != torch.uint8:
            return pixels.float()
        mean, std = (torch.tensor(each, device=self.device) for each in (self.mean, self.std))
        return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def load_clip(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights_dir: Path | str | None = None,
    text_cache: Path | None = None,
) -> ClipModel:
    """Load a CLIP of the registry.

    Args:
        name: of the model.
        device: it runs on.
        dtype: of the image tower.
        weights_dir: looked into first.
        text_cache: folder of encodings, where embeddings of vocabularies are kept; None: they are
            made each time.

    Raises:
        WeightsError: the name is no CLIP, or its weights are missing, damaged or do not fit.
    """
    record = weights_record(name, "CLIP")
    if record.architecture == "tiny":
        config, tokenizer = tiny.architecture("clip"), tiny_tokenizer()
    else:
        config = open_clip.get_model_config(record.architecture)
        tokenizer = SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    config = {**config, "quick_gelu": record.activation == "quick_gelu"}
    module = load_module(record, lambda: build_clip(config), weights_dir, unused=_ARCHIVE_FIELDS)
    model = ClipModel(module, tokenizer, record, device, dtype)
    if text_cache is not None:
        model.text_cache = TextCache(text_cache, model_digest(name, weights_dir))
    return model


def _half(x: Tensor) -> npt.NDArray[np.float16]:
    return cast("npt.NDArray[np.float16]", x.to(torch.float16).cpu().numpy())
