"""How often pictures go through the image towers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fmbseg.models import tiny

_SIDES = {
    tiny.architecture("clip")["vision_cfg"]["image_size"]: "clip",
    tiny.architecture("sam")["image_encoder"]["img_size"]: "sam",
}
assert len(_SIDES) == 2


@contextmanager
def count_encodings() -> Iterator[Counter[str]]:
    """Counts images that go into the tiny CLIP's and SAM's image towers while the block runs."""
    counts: Counter[str] = Counter()

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        # The patch embedding is what both towers begin with, and nothing else is like it.
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            counts[_SIDES[inputs[0].shape[-1]]] += len(inputs[0])

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield counts
    finally:
        handle.remove()
