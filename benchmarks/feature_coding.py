"""Features on disk: float16, product quantisation, or encoded again when they are needed.

    python -m benchmarks.feature_coding [--project DIR] [--images N]

In a project whose head is trained. A product quantiser cuts a feature's C channels into M groups
and keeps for each group the nearest of 256 centroids: M bytes a patch in place of 2 C (Jegou et
al., Product Quantization for Nearest Neighbor Search, PAMI 2011). Centroids are learned by k-means
on patches of the first half of the pictures; everything is measured on the second half: the cosine
between a feature and its decoded self, how often the trained head names the same class, the mIoU of
its answers over patches against the truth's majority under each, and times a picture.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2, vq
from torch.nn import functional as F

from fmbseg.align.checkpoint import load_checkpoint
from fmbseg.align.feature_store import StoredFeatures
from fmbseg.config import Config, load_config
from fmbseg.data.datasets import load_dataset
from fmbseg.data.images import read_image
from fmbseg.data.labels import UNLABELLED, patch_majority
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.models.backbone import image_features, load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.store.paths import Paths

CENTROIDS = 256  # a byte a group
LEARNED_ON = 8_000  # patches at most

Values = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Quantiser:
    """A product quantiser.

    Attributes:
        centroids: [M, 256, C / M] float32.
    """

    centroids: Values

    @property
    def groups(self) -> int:
        """M, and bytes a patch."""
        return self.centroids.shape[0]

    def encode(self, values: Values) -> Codes:
        """[n, C] float -> [n, M] uint8, the nearest centroid of each group."""
        parts = np.split(values, self.groups, axis=1)
        codes = [vq(part, near)[0] for part, near in zip(parts, self.centroids, strict=True)]
        return np.stack(codes, axis=1).astype(np.uint8)

    def decode(self, codes: Codes) -> Values:
        """[n, M] uint8 -> [n, C] float32."""
        found = [near[code] for near, code in zip(self.centroids, codes.T, strict=True)]
        return np.concatenate(found, axis=1)


def learn(values: Values, groups: int, seed: int = 0, rounds: int = 10) -> Quantiser:
    """Learn the centroids by k-means.

    Args:
        values: [n, C] patches, n >= 256.
        groups: M, a divisor of C.
        seed: of the first centroids.
        rounds: of k-means.

    Raises:
        ValueError: M does not divide C.
    """
    if values.shape[1] % groups:
        raise ValueError(f"{groups} groups do not divide {values.shape[1]} channels")
    parts = np.split(values, groups, axis=1)
    learned = [
        kmeans2(part, CENTROIDS, iter=rounds, minit="points", rng=seed + number)[0]
        for number, part in enumerate(parts)
    ]
    return Quantiser(np.stack(learned).astype(np.float32))


class Project:
    """The features, pictures, truth and trained head of a project."""

    def __init__(self, root: Path, images: int | None) -> None:
        self.config: Config = load_config(root / "params.yaml")
        paths = Paths(root)
        self.features = StoredFeatures(sorted(paths.feature_store.glob("*/[0-9]*")))
        data = self.config.data
        dataset = load_dataset(data.name, root / data.root, data.split)
        self.places = {name: number for number, (name, _) in enumerate(dataset.image_files)}
        self.dataset = dataset
        found = load_checkpoint(paths.align)
        self.head = found.head.eval()
        words = found.info.vocabularies[0]  # the data set's own
        clip = load_clip(self.config.clip.model)
        templates = words.templates or self.config.clip.templates
        self.text = clip.text_embeddings(words, templates).anchors
        self.classes = len(words)
        self.images = range(len(self.features))[:images]

    def values(self, image: int) -> Values:
        """[h * w, C] float32."""
        loaded = self.features.load(image).astype(np.float32)
        return loaded.reshape(-1, loaded.shape[-1])

    def answers(self, image: int, values: Values) -> npt.NDArray[np.int64]:
        """[h, w] the head's classes."""
        grid = self.features.grid(image)
        with torch.inference_mode():
            patches = torch.from_numpy(values).reshape(1, *grid, -1)
            said = (self.head(patches)[0] @ self.text.T).argmax(dim=-1)
        found: npt.NDArray[np.int64] = said.numpy()
        return found

    def truth(self, image: int) -> npt.NDArray[np.int64]:
        """[h, w] the truth's majority under each patch, 255 where there is none."""
        label = self.dataset[self.places[self.features.image_ids[image]]].label
        assert label is not None
        return patch_majority(label, self.features.grid(image), ignore=UNLABELLED)[0]


def row(project: Project, quantiser: Quantiser | None, held_out: Sequence[int]) -> str:
    """Measure one coding (None: float16), a line of Markdown."""
    cosines: list[Values] = []
    same = patches = 0
    encoding = decoding = 0.0
    scored = ConfusionMatrix(project.classes)
    for image in held_out:
        values = project.values(image)
        start = time.process_time()
        codes = None if quantiser is None else quantiser.encode(values)
        encoded = time.process_time()
        decoded = project.values(image) if quantiser is None else quantiser.decode(codes)
        decoding += time.process_time() - encoded
        encoding += encoded - start
        said = project.answers(image, decoded)
        same += int((said == project.answers(image, values)).sum())
        patches += said.size
        scored.update(said, project.truth(image))
        both = torch.from_numpy(values), torch.from_numpy(decoded)
        cosines.append(F.cosine_similarity(*both).numpy())
    cosine = np.concatenate(cosines)
    channels = project.features.dim
    size = 2 * channels if quantiser is None else quantiser.groups
    name = "float16" if quantiser is None else f"{quantiser.groups} groups"
    each = 1000 / len(held_out)
    return (
        f"| {name} | {size} | {2 * channels / size:.0f} | {cosine.mean():.4f}, "
        f"{np.quantile(cosine, 0.05):.4f} | {100 * same / patches:.1f} % | {scored.miou():.1f} | "
        f"{encoding * each:.2f} | {decoding * each:.2f} |"
    )


def encoding_again(project: Project, held_out: Sequence[int]) -> float:
    """Processor milliseconds a picture: read, resized, through the encoder."""
    section = project.config.features
    encoder = load_backbone(section.encoder, "cpu", torch.float32)
    files = dict(project.dataset.image_files)
    names = [project.features.image_ids[image] for image in held_out]
    image_features(read_image(files[names[0]]), section.short_side, encoder)
    start = time.process_time()
    for name in names:
        image_features(read_image(files[name]), section.short_side, encoder)
    return 1000 * (time.process_time() - start) / len(names)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--project", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--images", type=int, metavar="N", help="the first N; default: all")
    parser.add_argument("--shares", default="16,8,4,2", help="channels a group")
    given = parser.parse_args()
    torch.set_num_threads(1)
    project = Project(given.project, given.images)
    half = len(project.images) // 2
    first, second = project.images[:half], project.images[half:]
    pool = np.concatenate([project.values(image) for image in first])
    rng = np.random.default_rng(0)
    chosen = pool[rng.permutation(len(pool))[:LEARNED_ON]]
    print(
        "| coding | bytes a patch | times smaller | cosine, mean and 5th percentile | same class | "
        "mIoU over patches | encode, ms | decode or read, ms |"
    )
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    print(row(project, None, second), flush=True)
    for share in map(int, given.shares.split(",")):
        quantiser = learn(chosen, project.features.dim // share)
        print(row(project, quantiser, second), flush=True)
    print(f"\nencoded again: {encoding_again(project, second):.1f} ms a picture")


if __name__ == "__main__":
    main()
