"""Pretrain the tiny CLIP: `python -m pretraining.clip`.

Supervision: crops with captions, i.e. the names of what is in them; no position and no mask. Loss:
the sigmoid loss of image-text pairs (Zhai et al., 2023) between every crop and the prompt of every
word, twice: for the image embedding, and for the patches' value features of the last block, pooled
over the crop with a softmax of their similarity (as in PACL, Mukhoti et al., 2023). The second
term is what makes the dense features of a model this small worth reading. A third term lets the
tokens that enter the last block predict the patch features of the self-supervised tiny encoder: a
plain vision transformer of this size learns from captions alone far too slowly for two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmbseg.data.templates import TEMPLATES
from fmbseg.models.build import build_clip, tiny_tokenizer
from fmbseg.models.dense import dense_features, last_tokens
from fmbseg.models.tiny import FOLDER, architecture
from fmbseg.scenes.classes import SCENE_CLASSES
from pretraining.augment import recolour, to_pixels
from pretraining.captions import words
from pretraining.loop import Recipe, export_weights, origin, train
from pretraining.samples import PATCH, captioned_crops, materialise
from pretraining.teacher import Teacher

LEAST_THING, LEAST_STUFF = 0.03, 0.12  # share of the crop from which a caption names a class
POOLING = 8.0
TEACHING = 10.0  # weight of the third term, 1 - cosine


class Contrast(nn.Module):
    """CLIP with the scales and biases of the two sigmoid losses, and the map to the teacher."""

    def __init__(self, crops: Tensor) -> None:
        """`crops` [N, 3, 64, 64] in -1..1: what the teacher's features are standardised on."""
        super().__init__()
        record = architecture("clip")
        self.clip = build_clip(record)
        self.teacher = Teacher(record["vision_cfg"]["width"], crops)
        self.scales = nn.Parameter(torch.tensor([10.0, 10.0]).log())
        self.biases = nn.Parameter(torch.tensor([-4.0, -4.0]))

    def visual(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit image [N, D], unit value features [N, P, D], tokens [N, P, C] of the last block."""
        visual: Any = self.clip.visual
        image, tokens = last_tokens(visual, pixels)
        grid = (pixels.shape[2] // PATCH, pixels.shape[3] // PATCH)
        dense = dense_features(visual, tokens, grid, "value").flatten(1, 2)
        return F.normalize(image, dim=-1), dense, tokens[:, 1:]

    def forward(self, pixels: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, W] of pixels [N, 3, 64, 64] and prompts [W, 24]: whole image, patches.

        The third is how far the teacher finds its features from the tokens, [N, P].
        """
        text = self.clip.encode_text(prompts, normalize=True)
        image, dense, tokens = self.visual(pixels)
        far = self.teacher(tokens, pixels)
        with torch.autocast("cpu", enabled=False):
            text = text.float()
            whole = image.float() @ text.T
            local = dense.float() @ text.T
            pooled = ((POOLING * local).softmax(1) * local).sum(1)
            scale = self.scales.exp()
            logits = scale[0] * whole + self.biases[0], scale[1] * pooled + self.biases[1]
        return *logits, far


def main() -> None:
    """Parse arguments, render, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining/clip"))
    parser.add_argument("--out", type=Path, default=FOLDER / "clip.safetensors")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--scenes", type=int, default=14000, help="rendered twice, three crops")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--local-weight", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data = materialise(captioned_crops, range(arguments.scenes), arguments.work / "crops")
    held_out = min(1500, len(data["image"]) // 10)
    crops = len(data["image"]) - held_out
    tokenizer = tiny_tokenizer()
    vocabulary, meaning = words()
    templates = sorted({t for group in TEMPLATES.values() for t in group})
    drawn = torch.nonzero(meaning.any(1)).squeeze(1).numpy()
    undrawn = torch.nonzero(~meaning.any(1)).squeeze(1).numpy()
    least = torch.tensor([LEAST_THING if c.kind == "thing" else LEAST_STUFF for c in SCENE_CLASSES])
    model = Contrast(to_pixels(data["image"][:512]))

    def truth(rows: np.ndarray, word: np.ndarray) -> tuple[Tensor, Tensor]:
        """Is the word true of the crop, and is that certain: bool [N, W] each."""
        share = torch.from_numpy(data["share"][rows].astype(np.float32)) / 255
        of_word = meaning[word].float()
        present = (share > least).float() @ of_word.T > 0
        touched = (share > 0).float() @ of_word.T > 0
        return present, present | ~touched

    def loss_of(rng: np.random.Generator, step: int) -> Tensor:
        rows = np.sort(rng.choice(crops, arguments.batch, replace=False))
        word = np.concatenate([rng.choice(drawn, 128, False), rng.choice(undrawn, 64, False)])
        template = rng.choice(templates, len(word))
        prompts = tokenizer([t.format(vocabulary[w]) for t, w in zip(template, word, strict=True)])
        pixels = recolour(to_pixels(data["image"][rows]))
        if rng.random() < 0.5:
            pixels = pixels.flip(3)
        present, certain = truth(rows, word)
        weights = (1.0, arguments.local_weight)
        *logits_of, far = model(pixels, prompts)
        loss: Tensor = TEACHING * far.mean()
        for logits, weight in zip(logits_of, weights, strict=True):
            each = F.binary_cross_entropy_with_logits(logits, present.float(), reduction="none")
            loss = loss + weight * (each * certain).sum(1).mean()
        return loss

    def report(step: int) -> str:
        names = [c.name for c in SCENE_CLASSES]
        text = model.clip.encode_text(tokenizer([f"a photo of a {n}." for n in names]), True)
        rows = np.arange(crops, crops + held_out)
        images, patches = [], []
        for part in np.array_split(rows, 10):
            image, dense, _ = model.visual(to_pixels(data["image"][part]))
            images.append(image)
            patches.append(dense)
        return held_out_figures(
            torch.cat(images) @ text.T,
            torch.cat(patches) @ text.T,
            torch.from_numpy(data["share"][rows].astype(np.float32)) / 255 > least,
            torch.from_numpy(data["patch"][rows].astype(np.int64)).flatten(1),
        )

    recipe = Recipe(steps=arguments.steps, learning_rate=2e-3, weight_decay=0.03)
    train(
        model,
        recipe,
        loss_of,
        arguments.work / "state.pt",
        origin("clip", arguments.work / "crops", arguments),
        export=lambda: export_weights(model.clip, arguments.out),
        report=report,
        every=500,
    )


def held_out_figures(whole: Tensor, local: Tensor, present: Tensor, patch: Tensor) -> str:
    """Recall at k of crops, and thing-patch accuracy over all classes and among those present."""
    things = sum(c.kind == "thing" for c in SCENE_CLASSES)
    recalls = []
    for scores, truth in zip(whole, present, strict=True):
        k = int(truth.sum())
        if k:
            recalls.append(truth[scores.topk(k).indices].float().mean())
    known = present.gather(1, patch) & (patch < things)
    among = local.masked_fill(~present[:, None], -9).argmax(-1)
    return (
        f"recall@k {torch.stack(recalls).mean():.3f}, thing patches right: "
        f"{(local.argmax(-1) == patch)[known].float().mean():.3f} of all classes, "
        f"{(among == patch)[known].float().mean():.3f} among those present"
    )


if __name__ == "__main__":
    main()
