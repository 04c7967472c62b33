"""A linear probe on frozen patch features, a figure of pretraining alone.

The probe is trained on scenes' truth; the encoder never sees it.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbseg.data.scene_classes import SCENE_CLASSES
from fmbseg.data.scenes import render_scene, scene_seed
from fmbseg.models.backbone import patch_features
from fmbseg.models.tiny.augment import to_pixels

SIZE, PATCH = 128, 8


@functools.lru_cache(maxsize=4)
def probe_scenes(images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [N, 3, 128, 128], majority class [N, 256] and its share [N, 256] of each patch."""
    scenes = [
        render_scene(scene_seed("development", i), size=(SIZE, SIZE), include_held_out=False)
        for i in range(images)
    ]
    pixels = to_pixels(np.stack([s.image for s in scenes]))
    labels = torch.from_numpy(np.stack([s.label for s in scenes])).long()
    shares = F.one_hot(labels, len(SCENE_CLASSES)).permute(0, 3, 1, 2).float()
    purity, majority = F.avg_pool2d(shares, PATCH).max(1)
    return pixels, majority.flatten(1), purity.flatten(1)


def linear_probe(encoder: nn.Module, images: int = 1500, steps: int = 400) -> dict[str, float]:
    """Accuracy in percent on the last fifth of the scenes: all patches, and thing patches."""
    pixels, label, purity = probe_scenes(images)
    with torch.no_grad():
        maps = torch.cat([patch_features(encoder, p) for p in torch.split(pixels, 50)])
    split = images * 4 // 5
    right = fit_probe(maps.flatten(2).transpose(1, 2), label, purity, split, steps) == label[split:]
    things = sum(c.kind == "thing" for c in SCENE_CLASSES)
    pure = purity[split:] > 0.5
    thing = pure & (label[split:] < things)
    return {
        "patches": round(100 * right[pure].float().mean().item(), 1),
        "thing patches": round(100 * right[thing].float().mean().item(), 1),
    }


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
    tokens = (tokens - tokens[:split].mean((0, 1))) / (tokens[:split].std((0, 1)) + 1e-5)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        head = nn.Linear(tokens.shape[-1], len(SCENE_CLASSES))
        optimiser = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=0.05)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 3e-3 * (0.5 + 0.5 * float(np.cos(np.pi * step / steps)))
            chosen = torch.randint(0, split, (32,))
            pure = purity[chosen] > 0.5
            loss = F.cross_entropy(head(tokens[chosen])[pure], label[chosen][pure])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        predicted: Tensor = head(tokens[split:]).argmax(-1)
    return predicted
