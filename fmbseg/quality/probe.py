"""A linear probe on frozen patch features, a figure of pretraining alone.

The probe is trained on scenes' truth; the encoder never sees it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbseg.data.labels import patch_majority
from fmbseg.scenes.classes import SCENE_CLASSES
from fmbseg.scenes.render import render_scene, scene_seed

SIZE, PATCH = 128, 8
SCENES = 1875  # a fifth of them is scored, on the others the probe is fitted


@cache
def probe_scenes() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [N, 3, 128, 128], majority class [N, 256] and its share [N, 256] of each patch."""
    images, truths = [], []
    for index in range(SCENES):
        seed = scene_seed("development", index)
        scene = render_scene(seed, size=(SIZE, SIZE), include_held_out=False)
        images.append(scene.image)
        truths.append(patch_truth(scene.label, (SIZE // PATCH, SIZE // PATCH)))
    majority, purity = (torch.stack(part) for part in zip(*truths, strict=True))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, majority, purity


def patch_truth(label: np.ndarray, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Majority class [h * w] int64 of each patch, and the share of it that the class covers.

    Args:
        label: [H, W] int64, index into SCENE_CLASSES.
        grid: (h, w) patches the picture is divided into.
    """
    majority, share = patch_majority(label, grid)
    return torch.from_numpy(majority).flatten(), torch.from_numpy(share).float().flatten()


def fit_probe(
    tokens: Tensor, label: Tensor, purity: Tensor, split: int, steps: int = 400
) -> Tensor:
    """Train a linear layer on the first scenes, patches of purity above 0.5; apply it to the rest.

    Args:
        tokens: [N, P, D] frozen features.
        label: [N, P] int64, index into SCENE_CLASSES.
        purity: [N, P], share of the patch that the class covers.
        split: number of scenes trained on.
        steps: of AdamW, 32 scenes each.

    Returns:
        [N - split, P] int64, predicted classes.
    """
    mean, deviation = tokens[:split].mean((0, 1)), tokens[:split].std((0, 1)) + 1e-5

    def standardised(rows: Tensor) -> Tensor:  # a few at a time: there may be gigabytes
        return (rows - mean) / deviation

    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        head = nn.Linear(tokens.shape[-1], len(SCENE_CLASSES))
        optimiser = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=0.05)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
            chosen = torch.randint(0, split, (32,))
            pure = purity[chosen] > 0.5
            loss = F.cross_entropy(head(standardised(tokens[chosen]))[pure], label[chosen][pure])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        rest = torch.split(tokens[split:], 32)
        return torch.cat([head(standardised(rows)).argmax(-1) for rows in rest])
