"""What a tracked pipeline run consists of: its key, parameters, curve and tables.

Read from the configuration and from results on disk, independent of where it is logged.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fmbseg.align.record import RECORD, Supervision
from fmbseg.config import Config
from fmbseg.errors import shown
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.published import COLUMNS
from fmbseg.evaluate.table import ordered, percent
from fmbseg.pseudo.tables import PERSON
from fmbseg.stage.depends import SCORING, flat_params, within
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import MANIFEST, published_digest, published_key
from fmbseg.tracking.performance import recall

Point = tuple[int, str, float]  # epoch, metric, value

# Where things are logged, and what never changes a result. The benchmarks are tags of a run, not
# parameters: one can be added to a run that is already there.
_NOT_PARAMS = ("tracking", "run.cache_gb", "run.strict", "evaluate.benchmarks")
_ALWAYS = ("run.preset",)  # a label that runs are found by
_OF_PEERS = ("retrieval", "talk2dino")
_IMAGES = {"split", "limit"}
_DIGEST = 12  # characters of a digest that tell sets of images apart


def run_params(config: Config, method: str) -> dict[str, str]:
    """`section.key` -> value of all parameters that may change a method's result.

    Of a method with a head those of all stages before it, too.
    """
    found = METHODS[method]
    own = (SCORING + found.depends_with(config)).params
    before = tuple(name for name in Config.model_fields if name not in _OF_PEERS)
    names = (*_ALWAYS, *own) if found.head is None else before
    params = flat_params(config, names)
    return {name: str(v) for name, v in params.items() if not within(name, _NOT_PARAMS)}


def run_key(config: Config, method: str, checkpoint_sha256: str | None) -> str:
    """The key of a pipeline run: equal for the same method, checkpoint and parameters."""
    return json_digest([method, checkpoint_sha256, run_params(config, method)])


def run_name(config: Config, method: str, checkpoint_sha256: str | None) -> str:
    """What is read in a list of runs: method, data, what is special about it, start of the key."""
    align = config.align
    parts = [method, config.clip.model]
    if METHODS[method].head is not None:
        parts = [method, _data_name(config), f"{align.head}-{align.loss}"]
    return "-".join([*parts, run_key(config, method, checkpoint_sha256)[:8]])


def run_note(
    config: Config,
    method: str,
    metrics: Mapping[str, float],
    supervision: Supervision | None = None,
) -> str:
    """Markdown: the mIoU of each benchmark at one decimal, and what a head was trained on."""
    prefix = "miou/"
    scored = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
    names = ordered(set(scored), COLUMNS)
    rows = [["mIoU, %", *names], ["---"] * (len(names) + 1)]
    rows.append([method, *(percent(scored[name], 1) for name in names)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if METHODS[method].head is not None:
        lines += ["", f"trained on {config.data.root} ({config.data.split})"]
        if supervision is not None:
            lines[-1] += f": {supervision.words}"
    return "\n".join(lines)


def _data_name(config: Config) -> str:
    """The demo's scenes, otherwise the folder of a user's own data."""
    root = Path(config.data.root)
    return "scenes" if root.is_relative_to(Paths().scenes) else root.absolute().name


def read_curve(path: Path) -> list[Point]:
    """The points of a training curve, a table `epoch,loss,lr,...`."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            (int(row["epoch"]), key, float(value))
            for row in csv.DictReader(stream)
            for key, value in row.items()
            if key != "epoch"
        ]


def class_table(result: Mapping[str, Any]) -> str:
    """CSV `class,iou` of one result; a class that occurs nowhere has no value."""
    text = io.StringIO()
    ious = result["per_class_iou"].items()
    rows = [(shown(name), "" if iou is None else f"{iou:.4f}") for name, iou in ious]
    csv.writer(text, lineterminator="\n").writerows([("class", "iou"), *rows])
    return text.getvalue()


def scores(result: Mapping[str, Any], benchmark: str) -> dict[str, float]:
    """`<score>/<benchmark>` -> percent, of the scores that have a value."""
    unseen = result.get("without_held_out_glyphs") or {}
    keys = ("miou", "miou_present", "pixel_accuracy", "mean_accuracy", "boundary_iou")
    named = {key: result.get(key) for key in keys}
    named["miou_without_held_out_glyphs"] = unseen.get("miou")
    return {f"{key}/{benchmark}": float(v) for key, v in named.items() if v is not None}


def scored_images(config: Config, benchmark: str, result: Mapping[str, Any]) -> str | None:
    """Which images a result was made on: two runs compare only where this is equal.

    The digest of images and truth is part of it, because other images may lie under the same
    folder tomorrow. None for a benchmark that the configuration does not have.
    """
    entry = config.evaluate.benchmarks.get(benchmark)
    if entry is None:
        return None
    limit = "" if entry.limit is None else f", first {entry.limit}"
    digest = result.get("samples_sha256")
    known = "" if digest is None else f", sha256 {digest[:_DIGEST]}"
    return f"{entry.root} {entry.split}{limit}{known}"


def protocol(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result was made with, apart from the images it was made on."""
    own = {key: value for key, value in result["protocol"].items() if key not in _IMAGES}
    return {"checkpoint_sha256": result["checkpoint_sha256"], **own}


def trained_labels(paths: Paths) -> str | None:
    """Digest of the present pseudo labels; None where there is no head, or it had other labels."""
    checkpoint = paths.align / RECORD
    if published_key(paths.label) is None or not checkpoint.is_file():
        return None
    digest = published_digest(paths.label)
    return digest if _read(checkpoint)["training"].get("labels") == digest else None


def labelled_images(paths: Paths) -> tuple[int, str]:
    """How many images the present pseudo labels label, and their digest, hex."""
    manifest = _read(paths.label / MANIFEST)
    return int(manifest["images"]), str(manifest["images_digest"])


def stage_figures(config: Config, paths: Paths) -> dict[str, float]:
    """What the stages before the training took, and what stage 1 found; by metric name.

    To be asked where the present head has the present pseudo labels, see `trained_labels`.

    `images_per_second/<stage>` and `peak_memory_mb/<stage>` are of the machine that computed the
    stage, and absent where that was another one; `pseudo_labels/...` are averages over the
    images and vocabularies,
    the share of labelled patches that of the training. `pseudo_labels/similarity` (cosine of a
    mask with the text of its class) and `pseudo_labels/predicted_iou` (SAM's, 0 to 1) are means
    over the masks that were painted; absent where there is none.
    """
    figures: dict[str, float] = {}
    for place in (*sorted(paths.pseudo.iterdir()), paths.features):  # named as their stages
        stage, key = place.name, published_key(place)
        if key is None or (found := recall(paths, key)) is None:
            continue
        figures[f"images_per_second/{stage}"] = found.images / found.seconds
        figures[f"peak_memory_mb/{stage}"] = found.peak_memory_mb
        if found.peak_gpu_memory_mb:
            figures[f"peak_gpu_memory_mb/{stage}"] = found.peak_gpu_memory_mb
    columns = ["source", "vocabulary", "class_index", "similarity", "predicted_iou"]
    table = pq.read_table(paths.label / "masks.parquet", columns=columns).to_pandas()
    table = table[table["source"] != PERSON]
    queried = table["source"] == "query"
    # An image is labelled once in each vocabulary.
    images = labelled_images(paths)[0] * max(1, table["vocabulary"].nunique())
    figures["pseudo_labels/classes_per_image"] = int(queried.sum()) / images
    figures["pseudo_labels/masks_per_image"] = len(table) / images
    section = config.label
    used = (queried & section.use_queries) | (~queried & section.use_masks)
    classified = table["class_index"].notna() & (table["similarity"] >= section.min_similarity)
    kept = table[used & classified]
    if len(kept):
        for name in ("similarity", "predicted_iou"):
            figures[f"pseudo_labels/{name}"] = float(kept[name].mean())
    share = _read(paths.align / RECORD)["metrics"]["labelled_patches"]
    figures["pseudo_labels/labelled_patches"] = float(share)
    return figures


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
