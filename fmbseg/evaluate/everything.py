"""All benchmarks with several methods, in shards: a run that was killed goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fmbseg.config import Config
from fmbseg.data.datasets import load_dataset
from fmbseg.data.vocabulary import reworded
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.stages import evaluate_each
from fmbseg.machine.progress import Progress
from fmbseg.store.paths import Paths


def evaluate_all(
    config: Config,
    paths: Paths,
    progress: Progress,
    methods: Sequence[str],
    results: Path,
    limit: int | None = None,
    vocabulary: str | None = None,
) -> Iterator[str]:
    """Score every benchmark of `evaluate.benchmarks`, into `results`/<method>/<benchmark>.json.

    Shards have content keys and lie in the workspace, the pipeline's own among them: what was
    scored with the same parameters, weights, images and code is taken over.

    Args:
        config: all sections.
        paths: the workspace.
        progress: one task over all images, and those of the shards.
        methods: out of `METHODS`.
        results: folder.
        limit: score the first images of each benchmark only.
        vocabulary: other words for the benchmarks' classes, see `reworded`; None: their own.

    Yields:
        A line for each method and benchmark.

    Raises:
        FmbsegError: a benchmark, a checkpoint or weights are missing or damaged; found before
            anything is scored where a look at the folders tells.
    """
    if limit is not None:
        config = _limited(config, limit)
    sizes = {}
    for name, entry in config.evaluate.benchmarks.items():
        dataset = load_dataset(name, paths.root / entry.root, entry.split)
        dataset.require_labels()
        reworded(dataset.vocabulary, vocabulary)
        sizes[name] = len(dataset[: entry.limit])
    with progress.task("all benchmarks", len(methods) * sum(sizes.values())) as task:
        for method in methods:
            reports = evaluate_each(
                config, paths, progress, method, tuple(sizes), results, task.advance, vocabulary
            )
            for name, report in zip(sizes, reports, strict=True):
                result = read_result(results / method / f"{name}.json")
                miou = result["miou"]
                shown = "nothing was scored" if miou is None else f"{miou:.2f} % mIoU"
                yield (
                    f"{method} on {name}: {shown}, {result['images']} images "
                    f"({report.computed} shards computed, {report.taken_over} taken over)"
                )


def _limited(config: Config, limit: int) -> Config:
    entries = {
        name: entry.model_copy(update={"limit": min(limit, entry.limit or limit)})
        for name, entry in config.evaluate.benchmarks.items()
    }
    section = config.evaluate.model_copy(update={"benchmarks": entries})
    return config.model_copy(update={"evaluate": section})
