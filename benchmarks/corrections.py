"""What the review's ranking is worth on scenes, where the truth can play the person.

    python -m benchmarks.corrections --root DIR [--seeds 0 1 2] [--development] [--weights 1 4]

For each seed, scenes are drawn, labelled and trained on; the ranking is held against the truth
(average precision, and lift over a random order in the first tenth of the masks); then the first
5 % of its pictures are corrected, and in another arm 5 % at random, and the labels and a head
trained on them are scored. What is done is in DIR/rows.jsonl: a run that was cut off goes on.

Training scenes and the split that scores are those of evaluation, or with --development those on
which choices are made.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import Config, load_config, parse_config
from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target
from fmbseg.data.corrections import Correction
from fmbseg.data.datasets import load_dataset
from fmbseg.data.labels import UNLABELLED
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.results import read_result
from fmbseg.export.source import NOTHING, Source
from fmbseg.export.sources import open_source
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.machine.progress import console_progress, silent_progress
from fmbseg.models.backbone import load_backbone
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.pseudo.tables import rows_by_image
from fmbseg.review.collect import Watcher, collect, repainted
from fmbseg.review.precision import Precision, precision, wrong_class
from fmbseg.review.ranking import Ranking, rank
from fmbseg.scenes.files import write_scenes
from fmbseg.store.paths import Paths

LAYOUT, BENCHMARK, SPLIT = "coco_stuff164k", "coco_stuff", "train2017"
TRAIN, SCORED = 120, 80
SHARE = 0.05
NONE, FIRST, RANDOM = "none", "first of the ranking", "random"
Truth = dict[str, npt.NDArray[np.int64]]


class Experiment:
    """One seed's scenes, with the stages up to a head trained on the machine's labels."""

    def __init__(
        self,
        root: Path,
        seed: int,
        development: bool,
        train: int = TRAIN,
        scored: int = SCORED,
    ) -> None:
        self.seed = seed
        self.root = root / f"{'development' if development else 'evaluation'}-{seed}"
        self.paths = Paths(self.root)
        write_scenes(
            LAYOUT,
            self.root / "coco",
            train=train,
            val=scored,
            seed=seed,
            development=development,
            progress=console_progress(),
        )
        dataset = load_dataset(BENCHMARK, self.root / "coco", SPLIT)
        self.words = dataset.vocabulary
        self.truth: Truth = {}
        for sample in dataset:
            assert sample.label is not None  # scenes have truth
            self.truth[sample.image_id] = sample.label

    def config(self, weight: float = 1.0) -> Config:
        """The project's parameters, on these scenes."""
        raw = load_config("params.yaml").model_dump(mode="json")
        scored = {"root": str(self.root / "coco"), "split": "val2017"}
        raw["data"] |= {"root": str(self.root / "coco"), "split": SPLIT, "vocabulary": None}
        raw["evaluate"]["benchmarks"] = {BENCHMARK: scored}
        raw["run"] |= {"threads": 1, "seed": self.seed}
        raw["align"]["correction_weight"] = weight
        raw["tracking"]["enabled"] = False
        return parse_config(raw)

    def run(self, stages: Iterable[str], weight: float = 1.0) -> None:
        """Run stages; what is there is taken over."""
        for stage in stages:
            run_stage(open_stage(stage, self.config(weight), self.paths, console_progress()))

    def source(self) -> Source:
        """The labels that are there."""
        return open_source(self.paths.label, self.config())

    def without_corrections(self) -> None:
        """Back to the machine's labels."""
        shutil.rmtree(self.paths.corrections, ignore_errors=True)
        self.run(("detect", "query", "masks", "label", "features", "align"))

    def ranking(self) -> Ranking:
        """The review's, of the machine's labels and the head trained on them."""
        config = self.config()
        encoder = load_backbone(config.features.encoder)
        segmenter = load_segmenter(self.paths.align, run=config.run)
        watcher = Watcher(self.words, segmenter, encoder, config.features.short_side)
        return rank(collect(self.source(), watcher, config, console_progress()))

    def precision(self, ranking: Ranking) -> Precision:
        """The order of the masks held against the truth."""
        found = self._wrong(ranking)
        return precision(np.array([found[index] for index in ranking.masks if index in found]))

    def _wrong(self, ranking: Ranking) -> dict[int, bool]:
        source, config, masks = self.source(), self.config(), ranking.collected.masks
        assert source.scores is not None  # stage 1 has written them
        found: dict[int, bool] = {}
        by_image: dict[int, list[int]] = {}
        for index, number in enumerate(masks.image):
            by_image.setdefault(number, []).append(index)
        for number, members in by_image.items():
            image = ranking.collected.images[number]
            rows = rows_by_image(source.scores, [image.image_id])[image.image_id]
            painted, _ = repainted(image, rows, source, config)
            places = {row["mask_id"]: place for place, row in enumerate(painted.rows)}
            for index in members:
                where = painted.owner == places[masks.mask_id[index]]
                wrong = wrong_class(where, self.truth[image.image_id], masks.classes[index])
                if wrong is not None:
                    found[index] = wrong
        return found

    def correct(self, image_ids: Sequence[str]) -> None:
        """Have a person correct pictures: the truth is what they draw."""
        drawn = self.root / "drawn"
        shutil.rmtree(drawn, ignore_errors=True)
        shutil.rmtree(self.paths.corrections, ignore_errors=True)
        drawn.mkdir()
        for image_id in image_ids:
            Image.fromarray(self.truth[image_id].astype(np.uint8)).save(drawn / f"{image_id}.png")
        target, origin = Target(self.source()), Correction("png", 0)
        place = self.paths.corrections
        import_corrections(READERS["png"], drawn, target, place, silent_progress(), origin)

    def labels_miou(self) -> float:
        """Of the labels that are there, against the truth of the pictures, percent."""
        source, matrix = self.source(), ConfusionMatrix(len(self.words))
        for image in source.images:
            label = image.label(source.classes)
            matrix.update(np.where(label == NOTHING, UNLABELLED, label), self.truth[image.image_id])
        return matrix.miou()

    def head_miou(self) -> float:
        """Of the head that is there, on the scored split, percent."""
        return float(read_result(self.paths.metrics / "fmbseg" / f"{BENCHMARK}.json")["miou"])


class Rows:
    """What is done, a row a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.all: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        """Whether a row has all of these values."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.all)

    def add(self, **row: Any) -> None:
        """Keep a row."""
        self.all.append(row)
        with self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)


def measure(root: Path, seed: int, development: bool, weights: Sequence[float]) -> None:
    """All arms of one seed that are not done yet."""
    rows = Rows(root / "rows.jsonl")
    wanted = [(NONE, 1.0), *((arm, weight) for weight in weights for arm in (FIRST, RANDOM))]
    key = {"seed": seed, "development": development}
    missing = [(arm, w) for arm, w in wanted if not rows.has(**key, arm=arm, weight=w)]
    if not missing:
        return
    made = Experiment(root, seed, development)
    made.without_corrections()
    ranking = made.ranking()
    if not rows.has(**key, what="ranking"):
        found = made.precision(ranking)
        figures = {"lift": found.lift, "highest": found.highest, **vars(found)}
        rows.add(**key, what="ranking", **figures)
    count = round(SHARE * TRAIN)
    images = ranking.collected.images
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = {
        FIRST: [images[index].image_id for index in ranking.pictures[:count]],
        RANDOM: [images[index].image_id for index in order[:count].tolist()],
    }
    for arm, weight in missing:
        if arm == NONE:
            made.without_corrections()
        else:
            made.correct(chosen[arm])
        made.run(("label", "align", f"evaluate@{BENCHMARK}"), weight)
        scores = {"labels": made.labels_miou(), "head": made.head_miou()}
        rows.add(**key, arm=arm, weight=weight, corrected=len(chosen.get(arm, ())), **scores)


def table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The rows as Markdown; gains are over the same seed without corrections."""
    rows = list(rows)
    yield "| seed | masks | wrong | average precision | first tenth | lift | highest |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row.get("what") == "ranking":
            yield (
                f"| {row['seed']} | {row['masks']} | {row['base']:.3f} | {row['average']:.3f} | "
                f"{row['first']:.3f} | {row['lift']:.2f} | {row['highest']:.2f} |"
            )
    yield ""
    yield "| seed | corrected | weight | labels, mIoU | gain | head, mIoU | gain |"
    yield "|---|---|---|---|---|---|---|"
    plain = {row["seed"]: row for row in rows if row.get("arm") == NONE}
    for row in rows:
        if "arm" in row:
            before = plain[row["seed"]]
            gains = [
                f"{row[name]:.2f} | {row[name] - before[name]:+.2f}" for name in ("labels", "head")
            ]
            yield f"| {row['seed']} | {row['arm']} | {row['weight']:g} | {' | '.join(gains)} |"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0])
    parser.add_argument("--development", action="store_true")
    given = parser.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        measure(given.root, seed, given.development, given.weights)
    shown = [
        r for r in Rows(given.root / "rows.jsonl").all if r["development"] == given.development
    ]
    print("\n".join(table(shown)))


if __name__ == "__main__":
    main()
