"""`fmbseg evaluate`: one method on one benchmark, wherever it lies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_CHECKPOINT,
    DEFAULT_PARAMS,
    Checkpoint,
    Overrides,
    Params,
    lenient_config,
)


class Method(StrEnum):
    """What can be scored."""

    FMBSEG = "fmbseg"
    MASKCLIP = "maskclip"
    PSEUDO = "pseudo"
    ORACLE = "oracle"


def evaluate(
    benchmark: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="Such as voc21.")],
    root: Annotated[Path, typer.Option("--root", metavar="PATH", help="The benchmark's folder.")],
    method: Annotated[Method, typer.Option("--method", help="What is scored.")],
    json: Annotated[Path, typer.Option("--json", metavar="FILE", help="Where the result goes.")],
    split: Annotated[
        str | None, typer.Option("--split", help="Default: the split the benchmark is scored on.")
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score the first N images only.")
    ] = None,
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Score one method on one benchmark; nothing of the pipeline's own results is touched."""
    config = lenient_config(params, overrides)

    from fmbseg.data.datasets import load_dataset
    from fmbseg.evaluate.benchmark import evaluate_benchmark
    from fmbseg.evaluate.predictors import load_predictor
    from fmbseg.evaluate.results import write_result
    from fmbseg.progress import console_progress

    # Before the models: a wrong path should not cost their loading.
    dataset = load_dataset(benchmark, root, split)
    dataset.require_labels()
    predictor = load_predictor(method.value, config, checkpoint)
    result = evaluate_benchmark(
        benchmark,
        method.value,
        predictor,
        dataset,
        root,
        console_progress(),
        limit,
        config.evaluate.batch_size,
    )
    write_result(result, json)
    miou = result["miou"]
    shown = "nothing was scored" if miou is None else f"{miou:.2f} % mIoU"
    print(f"{method.value} on {benchmark}: {shown}, {result['images']} images -> {json}")
