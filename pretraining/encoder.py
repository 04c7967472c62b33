"""Pretrain the tiny self-supervised encoder: `python -m pretraining.encoder`.

Supervision: what the generator knows of its own pasting. The same glyphs are pasted, moved, turned
and recoloured into two scenes, over the same two textures, of which each scene shows another part,
size and light. Positives are patches on the same spot of a glyph, and patches of one texture (its
recipe and seed); negatives are patches on other glyphs and of other textures; patches far apart on
one glyph are neither. No class name, no text and no CLIP feature is read, and neither glyphs of
one class nor textures of one recipe are known to belong together. The loss is InfoNCE over the
patches of a batch (van den Oord et al., 2018), with several positives.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fmbseg.models.build import build_encoder
from fmbseg.models.timm_features import feature_info, patch_features
from fmbseg.models.tiny import FOLDER, architecture
from fmbseg.quality.encoder import probe_figures
from fmbseg.quality.probe import probe_scenes
from pretraining.augment import recolour, to_pixels
from pretraining.loop import Recipe, export_weights, origin, train
from pretraining.samples import corresponding_pair, materialise

NEAR = 0.25  # two patches are at the same spot when both glyph coordinates differ by less
TEMPERATURE = 0.1


class Projected(nn.Module):
    """The encoder and a projection that is thrown away after pretraining."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder(architecture("encoder"))
        dim = feature_info(self.encoder)[-1]["num_chs"]
        self.projection = nn.Sequential(nn.Linear(dim, 256), nn.GELU(), nn.Linear(256, 64))

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, 64, 64] -> unit patch features [N * 64, 64]."""
        maps = patch_features(self.encoder, pixels)
        tokens = maps.flatten(2).transpose(1, 2).flatten(0, 1)
        return F.normalize(self.projection(tokens).float(), dim=-1)


def correspondence_loss(z: Tensor, region: Tensor, uv: Tensor) -> Tensor:
    """InfoNCE over patches: unit z [M, D], region [M] (glyph; below 0 texture), uv [M, 2]."""
    similarity = z @ z.T / TEMPERATURE
    itself = torch.eye(len(z), dtype=torch.bool)
    same = (region[:, None] == region[None]) & ~itself
    distance = (uv[:, None] - uv[None]).abs().amax(-1)
    positive = same & ((distance < NEAR) | (region < 0)[:, None])
    unknown = same & ~positive  # the same glyph far apart: neither
    others = similarity.masked_fill(unknown | itself, float("-inf"))
    log_sum = others.logsumexp(1)
    count = positive.sum(1)
    known = count > 0
    mean_positive = (similarity * positive).sum(1) / count.clamp(min=1)
    return (log_sum - mean_positive)[known].mean()


def main() -> None:
    """Parse arguments, render, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining/encoder"))
    parser.add_argument("--out", type=Path, default=FOLDER / "encoder.safetensors")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--pairs", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=48, help="pairs a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=Path, help="weights to go on from; default: random ones")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data = materialise(corresponding_pair, range(arguments.pairs), arguments.work / "pairs")
    model = Projected()
    if arguments.start is not None:
        model.encoder.load_state_dict(load_file(arguments.start))

    def loss_of(rng: np.random.Generator, step: int) -> Tensor:
        chosen = np.sort(rng.choice(arguments.pairs, arguments.batch, replace=False))
        pixels = recolour(to_pixels(data["image"][chosen].reshape(-1, 64, 64, 3)))
        region = torch.from_numpy(data["region"][chosen].reshape(-1).astype(np.int64))
        uv = torch.from_numpy(data["uv"][chosen].reshape(-1, 2).astype(np.float32))
        purity = torch.from_numpy(data["purity"][chosen].reshape(-1).astype(np.float32))
        z = model(pixels)
        pure = torch.nonzero(purity > 0.6).squeeze(1)
        on, off = pure[region[pure] >= 0], pure[region[pure] < 0]
        keep = torch.cat([on[torch.randperm(len(on))[:1100]], off[torch.randperm(len(off))[:500]]])
        with torch.autocast("cpu", enabled=False):
            return correspondence_loss(z[keep], region[keep], uv[keep])

    def report(step: int) -> str:
        pixels, truth, purity = probe_scenes()
        maps = torch.cat([patch_features(model.encoder, part) for part in torch.split(pixels, 50)])
        figures = probe_figures("", maps.flatten(2).transpose(1, 2), truth, purity)
        return "; ".join(f"{figure.name} {figure.shown}" for figure in figures)

    recipe = Recipe(steps=arguments.steps, learning_rate=arguments.learning_rate)
    train(
        model,
        recipe,
        loss_of,
        arguments.work / "state.pt",
        origin("encoder", arguments.work / "pairs", arguments),
        export=lambda: export_weights(model.encoder, arguments.out),
        report=report,
        every=600,
    )


if __name__ == "__main__":
    main()
