"""The stage plots: what `dvc plots show` draws of the trained segmenter's results.

`iou/<benchmark>.csv` (class, iou), `confusions/<benchmark>.csv` (confusion, share) and
`overlays/<benchmark>.png`, a segmented picture of the benchmark.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from fmbseg.align.checkpoint import load_checkpoint, require_parameters
from fmbseg.config import Config
from fmbseg.errors import DataError
from fmbseg.evaluate.results import Result, read_result, result_bytes
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import content_key, json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardStore, StageReport, StageState, is_published
from fmbseg.view import example, overlay

STAGE = "plots"
_SCHEMA = 1
_SOURCES = (Path(__file__), Path(example.__file__), Path(overlay.__file__))


def plots(config: Config, paths: Paths, progress: Progress) -> StageReport:
    """Write the plots of all of `evaluate.benchmarks`.

    Raises:
        StoreError: the head was trained with other parameters.
        DataError: a benchmark has not been scored with the present head.
        CheckpointError, WeightsError: as for `Segmenter`.
    """
    results = _results(config, paths)
    key = _key(config, results)
    if is_published(paths.plots, key):
        return StageReport(STAGE, key, computed=0, taken_over=1)
    store = ShardStore(paths.shards, STAGE, key)
    there = store.has(0)
    if not there:
        with store.write(0) as folder, progress.task(STAGE, len(results)) as task:
            for name in ("iou", "confusions", "overlays"):
                (folder / name).mkdir()
            for name, result in results.items():
                iou = ((k, v) for k, v in result["per_class_iou"].items() if v is not None)
                _write(folder / "iou" / f"{name}.csv", ("class", "iou"), iou)
                confusions = result["confusions"].items()
                _write(folder / "confusions" / f"{name}.csv", ("confusion", "share"), confusions)
                picture = example.example_overlay(config, paths, name)
                picture.save(folder / "overlays" / f"{name}.png")
                task.advance()
    store.publish(paths.plots, count=1, manifest={})
    return StageReport(STAGE, key, computed=int(not there), taken_over=int(there))


def plots_state(config: Config, paths: Paths) -> StageState:
    """The content key of the plots, and whether they are there; draws nothing.

    Raises:
        StoreError, DataError, CheckpointError: as `plots`.
    """
    key = _key(config, _results(config, paths))
    return StageState(key, is_published(paths.plots, key))


def _results(config: Config, paths: Paths) -> dict[str, Result]:
    require_parameters(paths.align, config)
    results = {
        name: read_result(paths.metrics / "fmbseg" / f"{name}.json")
        for name in config.evaluate.benchmarks
    }
    head = load_checkpoint(paths.align).sha256
    for name, result in results.items():
        if "confusions" not in result or result["checkpoint_sha256"] != head:
            raise DataError(
                f"the result of {name} is not of the present head: run `fmbseg run evaluate@{name}`"
            )
    return results


def _key(config: Config, results: dict[str, Result]) -> str:
    # A result's own key names checkpoint, images and weights; pictures are drawn with the present
    # parameters.
    texts = {name: json_digest(result_bytes(result).decode()) for name, result in results.items()}
    params = {"evaluate": config.evaluate.model_dump(), "dtype": config.run.dtype}
    return content_key(
        STAGE,
        schema=_SCHEMA,
        params=params,
        inputs=texts,
        weights={},
        sources=_SOURCES,
        threads=config.run.threads,
    )


def _write(path: Path, header: tuple[str, str], rows: Iterable[tuple[str, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows((name, f"{value:.3f}") for name, value in rows)
