"""Quality of the pseudo labels a head was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fmbseg.align.record import recorded_sha256
from fmbseg.config import Config
from fmbseg.pseudo.tables import MASKS, MASKS_SCHEMA, write_table
from fmbseg.store.atomic import seal
from fmbseg.store.paths import Paths
from fmbseg.store.shards import published_digest
from fmbseg.tracking.open import open_tracker
from fmbseg.tracking.run_content import stage_figures
from tests.heads import write_head
from tests.tracking.world import parent_runs, write_curve, write_result


def _pseudo_labels(paths: Paths, rows: list[tuple[str, int | None, float | None, float]]) -> None:
    """An out of `label` of two images, which the present head was trained on."""
    paths.label.mkdir(parents=True)
    same = {"image_id": "a", "mask_id": 0, "rle": "", "height": 1, "width": 1, "area": 1}
    keys = ("source", "class_index", "similarity", "predicted_iou")
    table = [same | dict(zip(keys, row, strict=True)) for row in rows]
    write_table(paths.label / MASKS, table, MASKS_SCHEMA)
    seal(paths.label, "manifest.json", {"key": "k", "images_digest": "i", "images": 2})
    path = paths.align / "checkpoint.json"
    record = json.loads(path.read_text()) | {"metrics": {"labelled_patches": 0.5}}
    record["training"]["labels"] = published_digest(paths.label)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("first", ["fmbseg", "pseudo"])
def test_quality_of_the_pseudo_labels(config: Config, tmp_path: Path, first: str) -> None:
    paths = Paths(tmp_path)
    label = config.label.model_copy(update={"min_similarity": 0.25})
    config = config.model_copy(update={"label": label})
    write_head(paths.align, 0, "voc20")
    write_curve(paths.align)
    sha256 = recorded_sha256(paths.align)
    _pseudo_labels(
        paths,
        [
            ("query", 3, 0.5, 0.75),
            ("automatic", 3, 0.25, 0.25),
            ("automatic", 3, 0.125, 1.0),  # not similar enough to be painted
            ("automatic", None, None, 1.0),  # no class was detected in its image
        ],
    )
    write_result(paths, "voc21", 20.0, sha256)
    write_result(paths, "voc21", 30.0, None, method="pseudo")
    for method in (first, {"fmbseg": "pseudo", "pseudo": "fmbseg"}[first]):
        open_tracker(config, tmp_path).evaluation(config, paths, method, ["voc21"])
    (run,) = [run for run in parent_runs(config) if run.data.params["method"] == "fmbseg"]
    found = {key: v for key, v in run.data.metrics.items() if key.startswith("pseudo_labels/")}
    assert found == {
        "pseudo_labels/classes_per_image": 0.5,
        "pseudo_labels/masks_per_image": 2.0,
        "pseudo_labels/labelled_patches": 0.5,
        "pseudo_labels/similarity": 0.375,
        "pseudo_labels/predicted_iou": 0.5,
        "pseudo_labels/miou/voc21": 30.0,
    }


def test_pseudo_labels_of_one_half_of_stage_1(config: Config, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_head(paths.align, 0, "voc20")
    _pseudo_labels(paths, [("query", 3, 0.5, 0.75), ("automatic", 3, 0.25, 0.25)])

    def figures(**changed: object) -> dict[str, float]:
        section = config.label.model_copy(update={"min_similarity": -1.0, **changed})
        return stage_figures(config.model_copy(update={"label": section}), paths)

    assert figures(use_masks=False)["pseudo_labels/similarity"] == 0.5
    assert figures(use_queries=False)["pseudo_labels/similarity"] == 0.25
    # Nothing was painted at all.
    assert "pseudo_labels/similarity" not in figures(min_similarity=0.9)
