"""Embeddings of prompts by their content: with 80 templates they take minutes on a CPU.

This is a cache, not an out: losing it costs time only.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fmbseg.models import tiny
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.paths import Paths

_log = logging.getLogger(__name__)
# What turns words into embeddings, besides the model.
_SOURCES = (
    *(Path(__file__).with_name(name) for name in ("build.py", "clip.py")),
    tiny.FOLDER / "clip.json",
    tiny.BPE_FILE,
)


class TextCache:
    """Query embeddings of one CLIP, a file a list of words and templates.

    Args:
        folder: of all text embeddings.
        model: gives the model's digest (`model_digest`); asked for when something is looked up.
    """

    def __init__(self, folder: Path, model: Callable[[], str]) -> None:
        self._folder = folder
        self._model = model

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
                "words": list(words),
                "templates": list(templates),
                "model": self._model(),
                "device": device.type,
                "threads": torch.get_num_threads(),
                "libraries": [version(name) for name in ("torch", "open_clip_torch")],
                "sources": [file_digest(path) for path in _SOURCES],
            }
        )
        path = self._folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as archive:
                return torch.from_numpy(archive["queries"]).to(device)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("damaged text embeddings %s made again (%s)", path.name, error)
        found = compute()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, queries=found.cpu().numpy())
        write_atomically(path, buffer.getvalue())
        return found


def project_text_cache(model: Callable[[], str]) -> TextCache | None:
    """The cache of the project that this process runs in; None outside a project."""
    work = Paths().work
    return TextCache(work / "text", model) if work.is_dir() else None
