"""A patch's nearest regions in the training pictures say what it is; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import StoreError
from fmbseg.evaluate.bank import read_bank
from fmbseg.evaluate.methods.encoder_peer import EncoderPeer

# Cosines of patches with regions that are held at once: 256 MB in float32.
_AT_ONCE = 1 << 26


class Retrieval(EncoderPeer):
    """Retrieval from a bank of regions, without captions.

    As FreeDA (Barsellotti et al., CVPR 2024) and ReME (Xuan et al., ICCV 2025) do, which make
    their banks from captions: what is near in the encoder's space is looked up, and compared with
    the words by what CLIP saw there. The bank here is of stage 1's automatic masks; see
    `fmbseg.evaluate.bank`.

    Args:
        config: all sections.
        bank: folder of the bank.
        encodings: see `load_predictor`.

    Raises:
        StoreError: there is no bank, or it was made with other models.
    """

    def __init__(
        self, config: Config, bank: Path | None = None, encodings: Path | None = None
    ) -> None:
        super().__init__(config, encodings)
        if bank is None:
            raise StoreError("no bank of regions: run `fmbseg run bank`")
        found = read_bank(bank, config)
        device = self._device.device
        self._encoder = torch.from_numpy(found.encoder).to(device).float()
        self._clip = torch.from_numpy(found.clip).to(device).float()
        self._record = {"regions": len(found.encoder), "sha256": found.sha256}

    def align(self, features: Tensor) -> Tensor:
        """See `EncoderPeer`; the space is CLIP's."""
        section = self._config.retrieval
        patches = features.flatten(0, -2)
        parts = torch.split(patches, max(1, _AT_ONCE // len(self._encoder)))
        found = [
            retrieved(part, self._encoder, self._clip, section.neighbours, section.temperature)
            for part in parts
        ]
        return torch.cat(found).view(*features.shape[:-1], -1)

    def protocol(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """See `Predictor`."""
        section = self._config.retrieval.model_dump()
        return super().protocol(vocabulary) | {"retrieval": section, "bank": self._record}


def retrieved(
    patches: Tensor, keys: Tensor, values: Tensor, neighbours: int, temperature: float
) -> Tensor:
    """What the nearest regions of a bank say of patches.

    v = sum_j w_j c_j / |sum_j w_j c_j| over the k regions with the highest cosine s_j of their key
    e_j and the patch, w_j = exp(s_j / T) / sum_l exp(s_l / T).

    Args:
        patches: [M, C] features of any length.
        keys: [R, C] unit, e_j.
        values: [R, D] unit, c_j.
        neighbours: k; of a smaller bank all.
        temperature: T.

    Returns:
        [M, D] float32 unit vectors.
    """
    cosine = F.normalize(patches.float(), dim=-1) @ keys.T
    nearest, index = cosine.topk(min(neighbours, len(keys)), dim=1)
    weights = (nearest / temperature).softmax(dim=1)
    return F.normalize(torch.einsum("mk,mkd->md", weights, values[index]), dim=-1)
