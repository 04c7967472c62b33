"""An epoch of the alignment, beside two ways to do without what makes it cheap.

The plain way sends all patches of a picture through the whole head, though the loss looks at few of
them. The other one keeps no features and encodes the pictures anew in each epoch. Both train
`train_head` itself on the same scenes, draws and labels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.comparing import Claim, Work

SCENES, SIDE = 64, 128
# Classes of the four vocabularies that the demo trains with.
CLASSES = (171, 59, 19, 150)


class Anew:
    """Features that nobody has kept: a picture is encoded when it is asked for."""

    def __init__(self, encoder: Any, pictures: Sequence[Any]) -> None:
        self._encoder, self._pictures = encoder, pictures
        self.dim = encoder.dim
        self.image_ids = tuple(map(str, range(len(pictures))))

    def __len__(self) -> int:
        return len(self._pictures)

    def grid(self, index: int) -> tuple[int, int]:
        """(h, w), patches of a picture."""
        return SIDE // self._encoder.patch_size, SIDE // self._encoder.patch_size

    def load(self, index: int) -> Any:
        """[h, w, C] float16, made now."""
        features = self._encoder.features(self._pictures[index][None])[0]
        return features.half().cpu().numpy()


class Kept(Anew):
    """The same, made once."""

    def __init__(self, encoder: Any, pictures: Sequence[Any]) -> None:
        super().__init__(encoder, pictures)
        self._values = [super(Kept, self).load(index) for index in range(len(pictures))]

    def load(self, index: int) -> Any:
        """[h, w, C] float16, as they were made."""
        return self._values[index]


def plain_tokens(self: Any, groups: Sequence[Any], wanted: Any) -> Any:
    """The head's tokens of all patches, of which some are taken."""
    import torch

    return torch.cat([self.tokens(group).flatten(0, 1) for group in groups])[wanted]


def prepare(device: str, beside: str) -> tuple[Work, Work]:
    """An epoch of ours, and of the other way."""
    import torch
    from torch.nn import functional as F

    from fmbseg.align.heads import AlignmentHead
    from fmbseg.align.training import Target, train_head
    from fmbseg.config import load_config
    from fmbseg.machine.device import find_device
    from fmbseg.machine.progress import silent_progress
    from fmbseg.models.backbone import load_backbone
    from fmbseg.scenes.render import render_scene, scene_seed

    section = load_config("params.yaml").align.model_copy(update={"epochs": 1})
    chosen = find_device("cuda" if device == "cuda" else "cpu", "float32")
    encoder = load_backbone("tiny-encoder", chosen.device)
    seeds = (scene_seed("development", index) for index in range(SCENES))
    pictures = [np.asarray(render_scene(seed, size=(SIDE, SIDE)).image) for seed in seeds]
    kept, anew = Kept(encoder, pictures), Anew(encoder, pictures)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    targets = []
    for classes in CLASSES:
        # Regions of 4 x 4 patches, of eight classes a picture.
        coarse = [rng.choice(rng.integers(0, classes, 8), (4, 4)) for _ in pictures]
        labels = [np.kron(each, np.ones((4, 4))).astype(np.uint8) for each in coarse]
        text = F.normalize(torch.randn(classes, 128, generator=generator), dim=1)
        targets.append(Target(labels, text))
    place, numbers = tempfile.TemporaryDirectory(), count()

    def train(features: Any) -> tuple[float, Any]:
        folder = Path(place.name) / str(next(numbers))
        found = train_head(features, targets, section, 0, folder, silent_progress(), None, chosen)
        weights = [each.detach().flatten() for each in found.head.parameters()]
        return found.curve[-1].loss, torch.cat(weights)

    def all_patches() -> tuple[float, Any]:
        with mock.patch.object(AlignmentHead, "tokens_at", plain_tokens):
            return train(kept)

    return partial(train, kept), all_patches if beside == "patches" else partial(train, anew)


def same(ours: Any, other: Any) -> str:
    """Losses beside each other, and the largest difference of a weight."""
    apart = float((ours[1] - other[1]).abs().max())
    return f"loss {ours[0]:.7f} and {other[0]:.7f}, weights within {apart:.0e}"


CLAIMS = (
    Claim(
        "training-patches",
        f"an epoch of the head on {SCENES} scenes, four vocabularies, beside all patches through "
        "the whole head",
        2.0,
        lambda device: prepare(device, "patches"),
        same,
    ),
    Claim(
        "training-features",
        "the same beside encoding the pictures anew",
        5.0,
        lambda device: prepare(device, "features"),
        same,
        rounds=3,
    ),
)
