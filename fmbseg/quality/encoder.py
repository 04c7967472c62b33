"""The frozen encoder: do its patch features separate classes, by a linear probe and by k-NN?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fmbseg.config import Config
from fmbseg.machine.progress import Progress
from fmbseg.models import tiny
from fmbseg.models.backbone import Backbone, resize_for_encoder
from fmbseg.models.build import build_encoder
from fmbseg.models.clip import ClipModel
from fmbseg.models.records import weights_record
from fmbseg.quality.figures import PURITY, SIZE, Figure, held_out_scene, percent
from fmbseg.quality.probe import fit_probe, patch_truth
from fmbseg.scenes.classes import SCENE_CLASSES, THING_CLASSES

NEIGHBOURS = 20
BANK, QUERIES = 20_000, 5_000  # most patches that k-NN looks among and looks up
_BATCH = 25
Images = npt.NDArray[np.uint8]


def encoder_figures(
    encoder: Backbone,
    name: str,
    clip: ClipModel,
    config: Config,
    scenes: int,
    progress: Progress,
) -> list[Figure]:
    """Probe and k-NN of the encoder, of the same one with random weights, and of CLIP's tokens.

    Both are fitted on the truth of `scenes` scenes, for these figures only, and scored on a fourth
    as many others.

    Args:
        encoder: the frozen encoder.
        name: its name in the registry; only for the package's own one random weights are drawn.
        clip: its last layer's patch tokens, before the projection, are compared.
        config: `features.short_side` is the encoder's resolution.
        scenes: whose truth is used.
        progress: counts scenes encoded.
    """
    count = scenes * 5 // 4
    with progress.task("encoder: draw scenes", count) as task:
        images, labels = [], []
        for index in range(count):
            scene = held_out_scene("probe", index)
            images.append(scene.image)
            labels.append(scene.label)
            task.advance()
    short_side = config.features.short_side

    def resized(batch: list[Images]) -> Images:
        pictures = map(Image.fromarray, batch)
        return np.stack([resize_for_encoder(each, short_side, encoder) for each in pictures])

    sources: dict[str, Callable[[list[Images]], Tensor]] = {
        "": lambda batch: encoder.features(resized(batch))
    }
    record = weights_record(name, "frozen encoder")
    if record.architecture == "tiny":
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            module = build_encoder(tiny.architecture("encoder"))
        untrained = Backbone(module, record, encoder.device, encoder.dtype)
        sources["with random weights: "] = lambda batch: untrained.features(resized(batch))
    sources["CLIP's last tokens: "] = lambda batch: clip_tokens(clip, np.stack(batch))
    figures = []
    for prefix, features in sources.items():
        parts = []
        with progress.task(f"encoder: {prefix or 'features: '}scenes", count) as task:
            for start in range(0, count, _BATCH):
                batch = images[start : start + _BATCH]
                parts.append(features(batch).cpu())
                task.advance(len(batch))
        maps = torch.cat(parts)
        del parts  # at base size each copy is gigabytes
        grid = (maps.shape[1], maps.shape[2])
        truths = [patch_truth(label, grid) for label in labels]
        truth, purity = (torch.stack([pair[i] for pair in truths]) for i in range(2))
        figures += probe_figures(prefix, maps.flatten(1, 2), truth, purity)
    return figures


def probe_figures(prefix: str, tokens: Tensor, truth: Tensor, purity: Tensor) -> list[Figure]:
    """Right thing patches of purity above 0.5 on the last fifth of the scenes.

    Args:
        prefix: of the figures' names.
        tokens: [N, P, D] float32.
        truth: [N, P] int64, index into SCENE_CLASSES.
        purity: [N, P].
    """
    split = len(tokens) * 4 // 5
    predicted = fit_probe(tokens, truth, purity, split)
    pure = purity > PURITY
    thing = pure & (truth < len(THING_CLASSES))
    right = predicted == truth[split:]
    bank, queries = thing[:split], thing[split:]
    neighbours = nearest_neighbours(
        tokens[:split][bank], truth[:split][bank], tokens[split:][queries]
    )
    wanted = _spread(truth[split:][queries], QUERIES)
    return [
        percent("encoder", f"{prefix}linear probe, thing patches", right[queries]),
        percent("encoder", f"{prefix}linear probe, all patches", right[pure[split:]]),
        percent("encoder", f"{prefix}k-NN (k = {NEIGHBOURS}), thing patches", neighbours == wanted),
    ]


def nearest_neighbours(bank: Tensor, classes: Tensor, queries: Tensor) -> Tensor:
    """The most frequent class among the `NEIGHBOURS` most similar patches, by cosine.

    Of equally frequent classes the one whose neighbours are most similar in sum.

    Args:
        bank: [B, D], of which at most `BANK` evenly spread ones are taken.
        classes: [B] int64.
        queries: [Q, D], at most `QUERIES`, as above.

    Returns:
        [min(Q, QUERIES)] int64.
    """
    bank, classes = F.normalize(_spread(bank, BANK), dim=-1), _spread(classes, BANK)
    found = []
    for part in torch.split(F.normalize(_spread(queries, QUERIES), dim=-1), 500):
        similarity, index = (part @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1)
        votes = torch.zeros(len(part), len(SCENE_CLASSES))
        # A vote counts 1 and a little more the nearer it is: that decides between equals only.
        votes.scatter_add_(1, classes[index], 1 + similarity / (4 * NEIGHBOURS))
        found.append(votes.argmax(dim=1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


@torch.no_grad()
def clip_tokens(clip: ClipModel, images: Images) -> Tensor:
    """CLIP's patch tokens after its last block and final norm, before the projection.

    CLIP takes squares of one size: each quarter of a scene is resized to it (tiny CLIP's is that
    of a quarter), and the four maps are put together again.

    Args:
        clip: the model.
        images: [N, 128, 128, 3] uint8.

    Returns:
        [N, 2 h, 2 w, C] float32.
    """
    half, side = SIZE // 2, clip.image_size
    rows = []
    for top in (0, half):
        maps = []
        for left in (0, half):
            quarter = torch.from_numpy(images[:, top : top + half, left : left + half].copy())
            pixels = quarter.permute(0, 3, 1, 2).float()
            pixels = F.interpolate(pixels, (side, side), mode="bilinear").to(clip.device) / 255
            mean, std = (
                torch.tensor(value, device=clip.device)[:, None, None]
                for value in (clip.mean, clip.std)
            )
            found = clip.module.visual.forward_intermediates(
                (pixels - mean) / std,
                indices=1,
                normalize_intermediates=True,
                intermediates_only=True,
            )
            maps.append(found["image_intermediates"][0])
        rows.append(torch.cat(maps, dim=3))
    return torch.cat(rows, dim=2).permute(0, 2, 3, 1).float()


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most) * len(rows) // most]
