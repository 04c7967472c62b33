"""Embeddings of prompts by their content: with 80 templates they take minutes on a CPU.

They lie in the cache of encodings, outside its budget: losing them costs time only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmbseg.models import tiny
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.encoding_cache import EncodingCache

# What turns words into embeddings, besides the model.
_SOURCES = (
    *(Path(__file__).with_name(name) for name in ("build.py", "clip.py")),
    tiny.FOLDER / "clip.json",
    tiny.BPE_FILE,
)


@dataclass(frozen=True)
class TextCache:
    """Query embeddings of one CLIP, by words and templates.

    Attributes:
        folder: of the encodings.
        model: the model's digest (`model_digest`).
    """

    folder: Path
    model: str

    def queries(
        self,
        words: Sequence[str],
        templates: Sequence[str],
        device: torch.device,
        compute: Callable[[], Tensor],
    ) -> Tensor:
        """The embeddings [Q, D] float32 of words in templates, computed where they are not there.

        Device and number of threads count: sums depend on them.
        """
        key = json_digest(
            {
                "model": self.model,
                "device": device.type,
                "threads": torch.get_num_threads(),
                "libraries": [version(name) for name in ("torch", "open_clip_torch")],
                "sources": [file_digest(path) for path in _SOURCES],
            }
        )
        cache = EncodingCache(self.folder, "text-embeddings", key, budget_bytes=sys.maxsize)
        asked = json_digest({"words": list(words), "templates": list(templates)})
        # As bits: they are not rounded.
        if (arrays := cache.get(asked)) is not None:
            return torch.from_numpy(arrays["queries"].view(np.float32)).to(device)
        found = compute()
        cache.put(asked, {"queries": found.cpu().numpy().view(np.int32)})
        return found
