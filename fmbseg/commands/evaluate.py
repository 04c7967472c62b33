"""`fmbseg evaluate`: score methods, or any system's label maps, on benchmarks."""

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
    WeightsDir,
    lenient_config,
    require_place,
    use_weights,
)
from fmbseg.config import Config
from fmbseg.errors import ConfigError

DEFAULT_OUT = Path("results")


class Method(StrEnum):
    """What can be scored."""

    FMBSEG = "fmbseg"
    MASKCLIP = "maskclip"
    PSEUDO = "pseudo"
    ORACLE = "oracle"


class ProtocolName(StrEnum):
    """How images are resized, cut and decided; `fmbseg.inference.protocol` has the records."""

    FMBSEG = "fmbseg"
    TCL = "tcl"
    SCLIP = "sclip"
    PROXYCLIP = "proxyclip"


def evaluate(
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Score every benchmark of evaluate.benchmarks; a run that was killed goes on.",
        ),
    ] = False,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", metavar="NAME", help="One benchmark, as voc21.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="PATH",
            help="The benchmark's folder. Default: as in evaluate.benchmarks.",
        ),
    ] = None,
    methods: Annotated[
        list[Method] | None,
        typer.Option(
            "--method",
            help="What is scored; with --all it may be repeated (default: fmbseg and maskclip).",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="DIR",
            help="Score label PNGs of any system instead: <image id>.png, the pixel's value is the "
            "class index, 255 is unlabelled.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The system behind --predictions. Default: the folder's name."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Where one result goes. With --predictions the default is "
            "results/<name>/<benchmark>.json, where --all puts its own.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="With --all: folder of the results and of table.md, table.csv and table.tex, "
            "which show every result in it and the published rows.",
        ),
    ] = DEFAULT_OUT,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option("--protocol", help="Short for --set evaluate.protocol=NAME."),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            metavar="NAME|FILE",
            help="Other words for the benchmark's classes: sclip or proxyclip, or a file of your "
            "own (docs/data.md). Default: the benchmark's own.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Default: the split the benchmark is scored on.")
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Score the first N images only.")
    ] = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Score on one benchmark (--benchmark) or on all (--all).

    Nothing of the pipeline's own results in metrics/ is touched.
    """
    use_weights(weights_dir)
    chosen = [f"evaluate.protocol={protocol.value}"] if protocol is not None else []
    config = lenient_config(params, [*(overrides or []), *chosen])
    scored = tuple(method.value for method in methods or ())
    if "pseudo" in scored:
        # Stage 1 has its own sizes and rules, whatever the protocol.
        _refuse("--method pseudo", {"--protocol": protocol})
    if every:
        _refuse(
            "--all",
            {
                "--benchmark": benchmark,
                "--root": root,
                "--predictions": predictions,
                "--name": name,
                "--json": json,
                "--split": split,
                "--checkpoint": None if checkpoint == DEFAULT_CHECKPOINT else checkpoint,
            },
        )
        _evaluate_all(config, scored or ("fmbseg", "maskclip"), out, limit, vocabulary)
        return
    if benchmark is None:
        raise ConfigError("Missing option '--benchmark' (or '--all'): name what is to be scored")
    place, split, limit = _place(config, benchmark, root, split, limit)
    if predictions is not None:
        _refuse(
            "--predictions",
            {"--method": methods, "--protocol": protocol, "--vocabulary": vocabulary},
        )
        system = predictions.resolve().name if name is None else name
        target = out / system / f"{benchmark}.json" if json is None else json
        require_place(target)
        _score_predictions(benchmark, system, predictions, place, split, limit, target)
        return
    _refuse("a method of its own", {"--name": name})
    if len(scored) != 1:
        raise ConfigError("Missing option '--method' (one), or give --predictions DIR")
    if json is None:
        raise ConfigError("Missing option '--json': say where the result goes")
    require_place(json)
    _evaluate_one(config, benchmark, scored[0], checkpoint, place, split, limit, vocabulary, json)


def _evaluate_one(
    config: Config,
    benchmark: str,
    method: str,
    checkpoint: Path,
    root: Path,
    split: str | None,
    limit: int | None,
    vocabulary: str | None,
    target: Path,
) -> None:
    from fmbseg.data.datasets import load_dataset
    from fmbseg.data.vocabulary import reworded
    from fmbseg.evaluate.benchmark import evaluate_benchmark
    from fmbseg.evaluate.predictors import load_predictor
    from fmbseg.evaluate.results import write_result
    from fmbseg.machine.progress import console_progress

    # Before the models: a wrong path should not cost their loading.
    dataset = load_dataset(benchmark, root, split)
    dataset.require_labels()
    words = reworded(dataset.vocabulary, vocabulary)
    predictor = load_predictor(method, config, checkpoint)
    result = evaluate_benchmark(
        benchmark,
        method,
        predictor,
        dataset,
        root,
        console_progress(),
        limit,
        config.evaluate.batch_size,
        words,
    )
    write_result(result, target)
    print(_summary(result, target))


def _score_predictions(
    benchmark: str,
    system: str,
    folder: Path,
    root: Path,
    split: str | None,
    limit: int | None,
    target: Path,
) -> None:
    from fmbseg.data.datasets import load_dataset
    from fmbseg.evaluate.predictions import score_predictions
    from fmbseg.evaluate.results import write_result
    from fmbseg.machine.progress import console_progress

    dataset = load_dataset(benchmark, root, split)
    result = score_predictions(benchmark, system, folder, dataset, console_progress(), limit)
    write_result(result, target)
    print(_summary(result, target))


def _evaluate_all(
    config: Config,
    methods: tuple[str, ...],
    out: Path,
    limit: int | None,
    vocabulary: str | None,
) -> None:
    if not config.evaluate.benchmarks:
        raise ConfigError("evaluate.benchmarks is empty: name them in params.yaml or with --set")

    from fmbseg.evaluate.everything import evaluate_all
    from fmbseg.evaluate.report import build_report, markdown, write_report
    from fmbseg.machine.progress import console_progress
    from fmbseg.store.paths import Paths

    progress = console_progress()
    for line in evaluate_all(config, Paths(), progress, methods, out, limit, vocabulary):
        print(line, flush=True)
    report = build_report(out)
    written = write_report(report, out)
    print(markdown(report))
    print("written: " + ", ".join(str(path) for path in written))


def _place(
    config: Config, benchmark: str, root: Path | None, split: str | None, limit: int | None
) -> tuple[Path, str | None, int | None]:
    """Root, split and limit of a benchmark: as told, else as params.yaml has them."""
    if root is not None:
        return root, split, limit
    entry = config.evaluate.benchmarks.get(benchmark)
    if entry is None:
        raise ConfigError(f"Missing option '--root': evaluate.benchmarks has no {benchmark!r}")
    return Path(entry.root), split or entry.split, limit or entry.limit


def _refuse(what: str, options: dict[str, object]) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]} does not go with {what}: leave one of them out")


def _summary(result: dict[str, object], target: Path) -> str:
    miou = result["miou"]
    shown = f"{miou:.2f} % mIoU" if isinstance(miou, float) else "nothing was scored"
    method, benchmark, images = (result[key] for key in ("method", "benchmark", "images"))
    return f"{method} on {benchmark}: {shown}, {images} images -> {target}"
