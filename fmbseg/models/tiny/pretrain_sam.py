"""Pretrain the tiny SAM: `python -m fmbseg.models.tiny.pretrain_sam`.

Supervision: the visible masks of scenes' instances, without their classes. Prompts: one to five
points inside an instance, or its box. Loss, as in SAM (Kirillov et al., 2023): focal-weighted
cross entropy and dice of the best of the three masks, and the squared error of the predicted IoU.
Beside it the image encoder's tokens predict the features of the self-supervised tiny encoder.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fmbseg.models.sam import build_sam
from fmbseg.models.tiny import FOLDER, architecture
from fmbseg.models.tiny.augment import recolour, to_pixels
from fmbseg.models.tiny.loop import Recipe, export_weights, train
from fmbseg.models.tiny.samples import instance_scene, materialise
from fmbseg.models.tiny.teacher import Teacher

SIZE, LOW = 128, 64  # input and low-resolution mask side in pixels
LEAST_PIXELS = 24
TEACHING = 1.0  # weight of the teacher's term, 1 - cosine
BOX = 0  # the kind of prompt that is a box; other kinds are numbers of points


@dataclass(frozen=True)
class Prompts:
    """K prompts of one kind and what they mean.

    Attributes:
        points: [K, P, 2] (x, y) inside the instances; None: boxes.
        boxes: [K, 4] (x0, y0, x1, y1); None: points.
        masks: [K, 128, 128] bool, the instances.
    """

    points: Tensor | None
    boxes: Tensor | None
    masks: NDArray[np.bool_]


class Promptable(nn.Module):
    """Sam with a batched, differentiable forward."""

    def __init__(self, images: Tensor) -> None:
        """`images` [N, 3, 128, 128] in -1..1: what the teacher's features are standardised on."""
        super().__init__()
        record = architecture("sam")
        self.sam = build_sam(record)
        self.teacher = Teacher(record["image_encoder"]["embed_dim"], images)

    def encode(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [N, C, 16, 16] and tokens [N, 256, W] of pixels [N, 3, 128, 128] in -1..1.

        `valid` [N, 1, 128, 128] is 0 on the padding.
        """
        inputs = ((pixels + 1) * 127.5 - self.sam.pixel_mean) / self.sam.pixel_std
        overheard: list[Tensor] = []
        encoder = self.sam.image_encoder
        hook = encoder.neck.register_forward_pre_hook(lambda _, given: overheard.append(given[0]))
        embeddings: Tensor = encoder(inputs * valid)  # SAM pads after normalising
        hook.remove()
        return embeddings, overheard[0].flatten(2).transpose(1, 2)

    def decode(self, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Logits [K, 3, 64, 64] and predicted IoU [K, 3] of one image's prompts."""
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        points = prompts.points
        given = None if points is None else (points, torch.ones(points.shape[:2]))
        # Half precision would move points by whole pixels: their encoding multiplies by large
        # frequencies.
        with torch.autocast("cpu", enabled=False):
            sparse, dense = encoder(points=given, boxes=prompts.boxes, masks=None)
            image_pe = encoder.get_dense_pe()
        low, iou = decoder(
            image_embeddings=embedding[None],
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return low, iou


def draw_kind(rng: np.random.Generator) -> int:
    """A box (15 %), one point (51 %) or two to five."""
    if rng.random() < 0.15:
        return BOX
    return 1 if rng.random() < 0.6 else int(rng.integers(2, 6))


def draw_prompts(
    rng: np.random.Generator, instance: NDArray[np.generic], count: int, kind: int
) -> Prompts | None:
    """`count` prompts for instances drawn at random, or None where all are too small.

    All are of one kind, as they are in use: SAM tells prompts with absent points from others.
    """
    sizes = np.bincount(instance.ravel().astype(np.int64))
    ids = [k for k in range(1, len(sizes)) if sizes[k] >= LEAST_PIXELS]
    if not ids:
        return None
    places = np.zeros((count, max(2, kind), 2), np.float32)  # a box is two corners
    masks = np.zeros((count, SIZE, SIZE), bool)
    for row in range(count):
        mask = instance == ids[rng.integers(len(ids))]
        ys, xs = np.nonzero(mask)
        masks[row] = mask
        if kind == BOX:
            corners = np.array([[xs.min(), ys.min()], [xs.max() + 1, ys.max() + 1]])
            places[row] = corners + rng.normal(0, 1.5, (2, 2))
        else:
            chosen = rng.integers(0, len(xs), kind)
            places[row, :kind] = np.stack([xs[chosen], ys[chosen]], axis=1) + 0.5
    if kind == BOX:
        return Prompts(None, torch.from_numpy(places.reshape(count, 4)), masks)
    return Prompts(torch.from_numpy(places[:, :kind]), None, masks)


def mask_loss(low: Tensor, iou: Tensor, masks: NDArray[np.bool_], valid: Tensor) -> Tensor:
    """Loss of logits [K, 3, 64, 64] against truths [K, 128, 128] inside the unpadded part."""
    truth = F.avg_pool2d(torch.from_numpy(masks).float()[:, None], SIZE // LOW)
    truth = truth.expand_as(low)
    probability = low.sigmoid() * valid
    each = F.binary_cross_entropy_with_logits(low, truth, reduction="none")
    focal = (probability - truth).abs().detach() ** 1.0
    cross = (each * (0.25 + focal) * valid).sum((-1, -2)) / valid.sum()
    overlap = (probability * truth).sum((-1, -2))
    total = probability.sum((-1, -2)) + truth.sum((-1, -2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    each_mask = 6 * cross + dice
    best = each_mask.min(-1).values.mean()
    with torch.no_grad():
        hard, target = (low > 0) & (valid > 0), truth > 0.5
        union = (hard | target).sum((-1, -2)).clamp(min=1)
        actual = (hard & target).sum((-1, -2)) / union
    return best + 0.05 * each_mask.mean() + F.mse_loss(iou, actual)


def main() -> None:
    """Parse arguments, render, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pretraining/sam"))
    parser.add_argument("--out", type=Path, default=FOLDER / "sam.safetensors")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--scenes", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=12, help="scenes a step")
    parser.add_argument("--prompts", type=int, default=4, help="prompts a scene")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data = materialise(instance_scene, range(arguments.scenes), arguments.work / "scenes")
    held_out = 60
    model = Promptable(to_pixels(data["image"][:128]))

    def valid_of(rows: NDArray[np.generic]) -> Tensor:
        """1 on the image and 0 on the padding, [N, 1, 128, 128]."""
        sizes = torch.from_numpy(data["size"][rows].astype(np.int64))
        side = torch.arange(SIZE)
        inside = [side < sizes[:, k, None] for k in range(2)]
        return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()

    def loss_of(rng: np.random.Generator, step: int) -> Tensor:
        rows = np.sort(rng.choice(arguments.scenes - held_out, arguments.batch, replace=False))
        valid = valid_of(rows)
        pixels = recolour(to_pixels(data["image"][rows]))
        embeddings, tokens = model.encode(pixels, valid)
        losses = []
        for k, row in enumerate(rows):
            drawn = draw_prompts(rng, data["instance"][row], arguments.prompts, draw_kind(rng))
            if drawn is not None:
                low, iou = model.decode(embeddings[k], drawn)
                inside = F.max_pool2d(valid[k], SIZE // LOW)[0]
                losses.append(mask_loss(low.float(), iou.float(), drawn.masks, inside))
        patches = F.avg_pool2d(valid, SIZE // 16).flatten(1)
        taught: Tensor = (model.teacher(tokens, pixels) * patches).sum() / patches.sum()
        return torch.stack(losses).mean() + TEACHING * taught

    def report() -> str:
        figures = []
        for kind in (1, 5, BOX):
            rng = np.random.default_rng(7)
            chosen, best = [], []
            for row in range(arguments.scenes - held_out, arguments.scenes):
                pixels = to_pixels(data["image"][row : row + 1])
                embedding = model.encode(pixels, valid_of(np.array([row])))[0][0]
                drawn = draw_prompts(rng, data["instance"][row], 6, kind)
                if drawn is None:
                    continue
                low, iou = model.decode(embedding, drawn)
                logits = F.interpolate(low, (SIZE, SIZE), mode="bilinear")
                height, width = data["size"][row].tolist()
                hard = (logits > 0)[..., :height, :width]
                truth = torch.from_numpy(drawn.masks)[:, None, :height, :width]
                actual = (hard & truth).sum((-1, -2)) / (hard | truth).sum((-1, -2)).clamp(min=1)
                chosen.append(actual.gather(1, iou.argmax(1, keepdim=True)).mean())
                best.append(actual.max(1).values.mean())
            name = "box" if kind == BOX else f"{kind} points"
            figures.append(
                f"{name}: IoU most confident {torch.stack(chosen).mean():.3f}, "
                f"best of 3 {torch.stack(best).mean():.3f}"
            )
        return "; ".join(figures)

    recipe = Recipe(steps=arguments.steps, learning_rate=arguments.learning_rate, weight_decay=0.03)
    train(
        model,
        recipe,
        loss_of,
        arguments.work / "state.pt",
        export=lambda: export_weights(model.sam, arguments.out),
        report=report,
        every=500,
    )


if __name__ == "__main__":
    main()
