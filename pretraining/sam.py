"""Pretrain the tiny SAM: `python -m pretraining.sam`.

Supervision: the visible masks of scenes' instances, without their classes. Prompts: one to five
points inside an instance, or its box. Loss, as in SAM (Kirillov et al., 2023): focal-weighted
cross entropy and dice of the best of the three masks, here also of the one with the highest
predicted IoU, since that is what is used; and the squared error of the predicted IoU.
Two phases: first scenes enter at half of Sam's input size, where a step is cheap, and the image
encoder's tokens predict the features of the self-supervised tiny encoder beside the masks; then at
Sam's own size, where a token is small enough for the outlines of small instances.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fmbseg.models.build import build_sam
from fmbseg.models.tiny import FOLDER, architecture
from pretraining.augment import recolour, to_pixels
from pretraining.loop import Recipe, export_weights, origin, train
from pretraining.samples import instance_scene, materialise
from pretraining.teacher import Teacher

SCENE = 128  # longer side of the scenes in pixels, and side of Sam's input in the first phase
LEAST_PIXELS = 24
TEACHING = 1.0  # weight of the teacher's term, 1 - cosine
BOX = 0  # the kind of prompt that is a box; other kinds are numbers of points


@dataclass(frozen=True)
class Phase:
    """What a step of a phase sees.

    Attributes:
        size: side of the input in pixels.
        scenes: number of scenes.
        prompts: number of prompts a scene.
        taught: whether the tokens predict the encoder's features.
    """

    size: int
    scenes: int
    prompts: int
    taught: bool


@dataclass(frozen=True)
class Prompts:
    """K prompts of one kind and what they mean, in pixels of the scenes.

    Attributes:
        scene: [K] int64, the row of the scene that each is for.
        points: [K, P, 2] (x, y) inside the instances; None: boxes.
        boxes: [K, 4] (x0, y0, x1, y1); None: points.
        masks: [K, 128, 128] bool, the instances.
    """

    scene: Tensor
    points: Tensor | None
    boxes: Tensor | None
    masks: Tensor


class Promptable(nn.Module):
    """Sam with a batched, differentiable forward over padded scenes of 128 px.

    Inputs may be smaller than Sam's own: its position embeddings shrink with them.

    Attributes:
        size: side of Sam's own input in pixels.
    """

    def __init__(self, images: Tensor) -> None:
        """`images` [N, 3, 128, 128] in -1..1: what the teacher's features are standardised on."""
        super().__init__()
        record = architecture("sam")
        self.sam = build_sam(record)
        self.size: int = record["image_encoder"]["img_size"]
        self.teacher = Teacher(record["image_encoder"]["embed_dim"], images)

    def encode(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [N, C, G, G] and tokens [N, G * G, W] of pixels [N, 3, S, S] in -1..1.

        `valid` [N, 1, S, S] is 0 on the padding. S: a multiple of the patch, at most `size`.
        """
        inputs = ((pixels + 1) * 127.5 - self.sam.pixel_mean) / self.sam.pixel_std
        encoder = self.sam.image_encoder
        tokens = encoder.patch_embed(inputs * valid)  # SAM pads after normalising
        positions = encoder.pos_embed.permute(0, 3, 1, 2)
        positions = F.interpolate(positions, tokens.shape[1:3], mode="area")
        tokens = tokens + positions.permute(0, 2, 3, 1)
        for block in encoder.blocks:
            tokens = block(tokens)
        embeddings: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
        return embeddings, tokens.flatten(1, 2)

    def decode(self, embeddings: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Logits [K, 3, 4 G, 4 G] and predicted IoU [K, 3] of prompts for scenes [N, C, G, G]."""
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        scale, points, boxes = self.size / SCENE, prompts.points, prompts.boxes
        # Half precision would move points by whole pixels: their encoding multiplies by large
        # frequencies.
        with torch.autocast("cpu", enabled=False):
            sparse, dense = encoder(
                points=None if points is None else (points * scale, torch.ones(points.shape[:2])),
                boxes=None if boxes is None else boxes * scale,
                masks=None,
            )
            grid = embeddings.shape[-2:]
            image_pe = encoder.pe_layer(grid)[None]
        low, iou = decoder(
            # The decoder takes one image, and adds the dense prompt of each mask to it. So all
            # scenes go through it at once.
            image_embeddings=torch.zeros_like(embeddings[:1]),
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse,
            # Without a mask the dense prompt is the same everywhere.
            dense_prompt_embeddings=dense[..., :1, :1] + embeddings[prompts.scene],
            multimask_output=True,
        )
        return low, iou


def enlarge(images: Tensor, size: int) -> Tensor:
    """[N, C, 128, 128] -> [N, C, size, size], as Pillow enlarges."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def draw_kind(rng: np.random.Generator) -> int:
    """A box (15 %), one point (51 %) or two to five."""
    if rng.random() < 0.15:
        return BOX
    return 1 if rng.random() < 0.6 else int(rng.integers(2, 6))


def draw_prompts(
    rng: np.random.Generator, instances: NDArray[np.generic], count: int, kind: int
) -> Prompts:
    """`count` prompts for instances drawn at random out of each scene of [N, 128, 128].

    All are of one kind, as they are in use: SAM tells prompts with absent points from others.
    Scenes in which all instances are too small have none.
    """
    scene: list[int] = []
    places: list[NDArray[np.floating[Any]]] = []
    masks: list[NDArray[np.bool_]] = []
    for number, instance in enumerate(instances):
        sizes = np.bincount(instance.ravel().astype(np.int64))
        ids = [k for k in range(1, len(sizes)) if sizes[k] >= LEAST_PIXELS]
        for _ in range(count if ids else 0):
            mask = instance == ids[rng.integers(len(ids))]
            ys, xs = np.nonzero(mask)
            if kind == BOX:
                corners = np.array([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]])
                places.append(corners + rng.normal(0, 1.5, (2, 2)))
            else:
                chosen = rng.integers(0, len(xs), kind)
                places.append(np.stack([xs[chosen], ys[chosen]], axis=1) + 0.5)
            scene.append(number)
            masks.append(mask)
    given = torch.from_numpy(np.array(places, np.float32))
    return Prompts(
        scene=torch.tensor(scene),
        points=None if kind == BOX else given,
        boxes=given.flatten(1) if kind == BOX else None,
        masks=torch.from_numpy(np.array(masks)),
    )


def mask_loss(low: Tensor, iou: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Loss of logits [K, 3, L, L] against truths [K, 128, 128] inside `valid` [K, 1, L, L]."""
    side = low.shape[-1]
    truth = F.interpolate(masks[:, None].float(), (side, side), mode="bilinear", antialias=True)
    truth = truth.expand_as(low)
    probability = low.sigmoid() * valid
    each = F.binary_cross_entropy_with_logits(low, truth, reduction="none")
    focal = (probability - truth).abs().detach()
    cross = (each * (0.25 + focal) * valid).sum((-1, -2)) / valid.sum((-1, -2))
    overlap = (probability * truth).sum((-1, -2))
    total = probability.sum((-1, -2)) + truth.sum((-1, -2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    each_mask = 6 * cross + dice
    best = each_mask.min(-1).values
    chosen = each_mask.gather(-1, iou.argmax(-1, keepdim=True))
    with torch.no_grad():
        hard, target = (low > 0) & (valid > 0), truth > 0.5
        union = (hard | target).sum((-1, -2)).clamp(min=1)
        actual = (hard & target).sum((-1, -2)) / union
    shaped = (best.mean() + chosen.mean()) / 2 + 0.05 * each_mask.mean()
    return shaped + F.mse_loss(iou, actual)


def main() -> None:
    """Parse arguments, render, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining/sam"))
    parser.add_argument("--out", type=Path, default=FOLDER / "sam.safetensors")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--half-size-steps", type=int, default=2500, help="of them, at half size")
    parser.add_argument("--scenes", type=int, default=9000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data = materialise(instance_scene, range(arguments.scenes), arguments.work / "scenes")
    held_out = 60
    model = Promptable(to_pixels(data["image"][:128]))
    first = Phase(SCENE, scenes=12, prompts=8, taught=True)
    second = Phase(model.size, scenes=8, prompts=4, taught=False)

    def phase_of(step: int) -> Phase:
        return first if step < arguments.half_size_steps else second

    def valid_of(rows: NDArray[np.generic], side: int) -> Tensor:
        """1 on the image and 0 on the padding, [N, 1, side, side]."""
        sizes = torch.from_numpy(data["size"][rows].astype(np.int64)) * side / SCENE
        centres = torch.arange(side) + 0.5
        inside = [centres < sizes[:, k, None] for k in range(2)]
        return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()

    def loss_of(rng: np.random.Generator, step: int) -> Tensor:
        phase = phase_of(step)
        rows = np.sort(rng.choice(arguments.scenes - held_out, phase.scenes, replace=False))
        images, instances = data["image"][rows], data["instance"][rows]
        for k in np.flatnonzero(rng.random(len(rows)) < 0.5):
            height, width = data["size"][rows[k]]
            for scene in (images[k], instances[k]):
                scene[:height, :width] = scene[:height, :width][:, ::-1].copy()
        pixels = recolour(enlarge(to_pixels(images), phase.size))
        valid = valid_of(rows, phase.size)
        embeddings, tokens = model.encode(pixels, valid)
        drawn = draw_prompts(rng, instances, phase.prompts, draw_kind(rng))
        low, iou = model.decode(embeddings, drawn)
        inside = valid_of(rows, low.shape[-1])[drawn.scene]
        loss = mask_loss(low.float(), iou.float(), drawn.masks, inside)
        if not phase.taught:
            return loss
        patches = F.avg_pool2d(valid, phase.size // embeddings.shape[-1]).flatten(1)
        taught: Tensor = (model.teacher(tokens, pixels) * patches).sum() / patches.sum()
        return loss + TEACHING * taught

    def report(step: int) -> str:
        size = phase_of(step - 1).size
        figures = []
        for kind in (1, 5, BOX):
            rng = np.random.default_rng(7)
            chosen, best = [], []
            for row in range(arguments.scenes - held_out, arguments.scenes):
                rows = np.array([row])
                pixels = enlarge(to_pixels(data["image"][rows]), size)
                embeddings, _ = model.encode(pixels, valid_of(rows, size))
                drawn = draw_prompts(rng, data["instance"][rows], 6, kind)
                low, iou = model.decode(embeddings, drawn)
                logits = F.interpolate(low, (SCENE, SCENE), mode="bilinear")
                height, width = data["size"][row].tolist()
                hard = (logits > 0)[..., :height, :width]
                truth = drawn.masks[:, None, :height, :width]
                actual = (hard & truth).sum((-1, -2)) / (hard | truth).sum((-1, -2)).clamp(min=1)
                chosen.append(actual.gather(1, iou.argmax(1, keepdim=True)).mean())
                best.append(actual.max(1).values.mean())
            name = "box" if kind == BOX else f"{kind} points"
            figures.append(
                f"{name}: IoU most confident {torch.stack(chosen).mean():.3f}, "
                f"best of 3 {torch.stack(best).mean():.3f}"
            )
        return "; ".join(figures)

    recipe = Recipe(
        steps=arguments.steps, learning_rate=arguments.learning_rate, weight_decay=0.03, muon=2.0
    )
    train(
        model,
        recipe,
        loss_of,
        arguments.work / "state.pt",
        origin("sam", arguments.work / "scenes", arguments),
        export=lambda: export_weights(model.sam, arguments.out),
        report=report,
        every=500,
    )


if __name__ == "__main__":
    main()
