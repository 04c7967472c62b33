"""`fmbseg evaluate`: score methods, or any system's label maps, on benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ExperimentName,
    Overrides,
    Params,
    WeightsDir,
    completing,
    lenient_config,
    one_of,
    require_place,
    use_weights,
    with_experiment,
)
from fmbseg.config import Config, ProtocolName
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods import METHODS, find_method
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary
    from fmbseg.data.vocabulary.grouping import Grouping
    from fmbseg.evaluate.scoring import Candidate

Place = tuple[Path, str | None, int | None]  # root, split and limit of a benchmark

DEFAULT_OUT = Path("results")
_DEFAULT_METHODS = ("fmbseg", "maskclip")


def evaluate(
    context: typer.Context,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Score every benchmark of evaluate.benchmarks; a run that was killed goes on.",
        ),
    ] = False,
    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="One benchmark, as voc21.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The benchmark's folder. Default: as in evaluate.benchmarks."
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            parser=one_of(METHODS),
            autocompletion=completing(lambda: METHODS),
            help=f"What is scored: {', '.join(METHODS)}; with --all it may be repeated (default: "
            f"{' and '.join(_DEFAULT_METHODS)}).",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Score label PNGs of any system instead: <image id>.png, or NAME.label.png as "
            "`fmbseg predict` writes them; the value is the class index, 255 is unlabelled.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The system behind --predictions. Default: the folder's name."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where one result goes. With --predictions the default is "
            "results/<name>/<benchmark>.json, where --all puts its own.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --all: folder of the results and of table.md, table.csv and table.tex, "
            f"which show every result in it and the published rows. Default: {DEFAULT_OUT}.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            parser=one_of(get_args(ProtocolName)),
            help=f"Short for --set evaluate.protocol=NAME: {', '.join(get_args(ProtocolName))}.",
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Other words for the benchmark's classes: sclip or proxyclip, or a file of your "
            "own (docs/data.md). Default: the benchmark's own.",
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score groups of classes too: `animal: [dog, cat]`, a line a group.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Default: the split the benchmark is scored on.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a trained head. Default: the one that the method's own stage trains.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first N images only.")] = None,
    experiment: ExperimentName = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Score on one benchmark (--benchmark) or on all (--all).

    A head is asked as its checkpoint says, but for what --set and --protocol name. Nothing of the
    pipeline's own results in metrics/ is touched.
    """
    use_weights(weights_dir)
    named = with_experiment(experiment, params, overrides)
    named += [] if protocol is None else [f"evaluate.protocol={protocol}"]
    config = lenient_config(params, named)
    for method in map(find_method, methods or ()):
        if not method.follows_protocol:
            _refuse(context, f"--method {method.name}", "protocol")
        if method.head is None:
            _refuse(context, f"--method {method.name}", "checkpoint")
    if every:
        _refuse(
            context,
            "--all",
            *("benchmark", "root", "predictions", "name", "json", "split", "checkpoint", "groups"),
        )
        _evaluate_all(
            config, methods or _DEFAULT_METHODS, named, out or DEFAULT_OUT, limit, vocabulary
        )
        return
    if benchmark is None:
        raise ConfigError("Missing option '--benchmark' (or '--all'): name what is to be scored")
    place = _place(config, benchmark, root, split, limit)
    if predictions is not None:
        _refuse(
            context,
            "--predictions",
            *("methods", "protocol", "vocabulary", "checkpoint", "weights_dir"),
        )
        if json is not None:
            _refuse(context, "--json", "out")
        system = predictions.resolve().name if name is None else name
        target = json or (out or DEFAULT_OUT) / system / f"{benchmark}.json"
        require_place(target)
        _score_predictions(benchmark, system, predictions, place, target, groups)
        return
    _refuse(context, "a method of its own", "name")
    _refuse(context, "--benchmark and --method", "out")
    if methods is None or len(methods) != 1:
        raise ConfigError("Missing option '--method' (one), or give --predictions DIR")
    if json is None:
        raise ConfigError("Missing option '--json': say where the result goes")
    require_place(json)
    with _workspace() as paths:
        candidate = _candidate(config, methods[0], paths, named, checkpoint)
        _evaluate_one(candidate, benchmark, place, vocabulary, json, groups)


def _evaluate_one(
    candidate: Candidate,
    benchmark: str,
    place: Place,
    words: str | None,
    target: Path,
    groups: Path | None,
) -> None:
    from fmbseg.data.datasets import load_dataset
    from fmbseg.data.vocabulary import reworded
    from fmbseg.evaluate.scoring import Scoring
    from fmbseg.machine.progress import console_progress

    root, split, limit = place
    dataset = load_dataset(benchmark, root, split)
    dataset.require_labels()
    vocabulary = reworded(dataset.vocabulary, words)
    grouping = _grouping(groups, vocabulary)
    Scoring(candidate, dataset, limit, vocabulary, target, console_progress(), grouping).run()
    print(f"{_summary(target)} -> {target}")


def _score_predictions(
    benchmark: str, system: str, folder: Path, place: Place, target: Path, groups: Path | None
) -> None:
    from fmbseg.data.datasets import load_dataset
    from fmbseg.evaluate.predictions import score_predictions
    from fmbseg.evaluate.results import write_result
    from fmbseg.machine.progress import console_progress

    root, split, limit = place
    dataset = load_dataset(benchmark, root, split)
    grouping = _grouping(groups, dataset.vocabulary)
    result = score_predictions(system, folder, dataset, console_progress(), limit, grouping)
    write_result(result, target)
    print(f"{_summary(target)} -> {target}")


def _grouping(groups: Path | None, words: Vocabulary) -> Grouping | None:
    from fmbseg.data.vocabulary.grouping import load_grouping

    return None if groups is None else load_grouping(groups, words.names)


def _evaluate_all(
    config: Config,
    methods: Sequence[str],
    named: Sequence[str],
    out: Path,
    limit: int | None,
    words: str | None,
) -> None:
    """Every benchmark with several methods; a run that was killed goes on."""
    if not config.evaluate.benchmarks:
        raise ConfigError("evaluate.benchmarks is empty: name them in params.yaml or with --set")

    from fmbseg.evaluate.report import build_report, markdown, write_report
    from fmbseg.evaluate.scoring import benchmark_scorings
    from fmbseg.machine.progress import console_progress

    progress = console_progress()
    # What a look at the folders tells is said before anything is scored.
    scorings = [
        scoring
        for name in methods
        for scoring in benchmark_scorings(
            _candidate(config, name, Paths(), named),
            config.evaluate.benchmarks,
            out,
            progress,
            limit,
            words,
        )
    ]
    with progress.task("all benchmarks", sum(len(each.samples) for each in scorings)) as task:
        for scoring in scorings:
            done = scoring.run()
            task.advance(len(scoring.samples))
            shards = f"{done.computed} shards computed, {done.taken_over} taken over"
            print(f"{_summary(scoring.target)} ({shards})", flush=True)
    report = build_report(out)
    written = write_report(report, out)
    print(markdown(report))
    print("written: " + ", ".join(map(str, written)))


def _candidate(
    config: Config,
    name: str,
    paths: Paths,
    named: Sequence[str],
    checkpoint: Path | None = None,
) -> Candidate:
    from fmbseg.evaluate.scoring import Candidate

    head = checkpoint or find_method(name).head_folder(Paths())
    if head is not None:
        config = ask_as_trained(config, head, named)
    return Candidate(name, config, paths, head)


@contextmanager
def _workspace() -> Iterator[Paths]:
    """The project; where there is none, a folder that nothing stays of."""
    if DEFAULT_PARAMS.is_file():
        yield Paths()
        return
    with tempfile.TemporaryDirectory(prefix="fmbseg-") as folder:
        yield Paths(Path(folder))


def _place(
    config: Config, benchmark: str, root: Path | None, split: str | None, limit: int | None
) -> Place:
    """As told, else as params.yaml has them."""
    if root is not None:
        return root, split, limit
    entry = config.evaluate.benchmarks.get(benchmark)
    if entry is None:
        raise ConfigError(f"Missing option '--root': evaluate.benchmarks has no {benchmark!r}")
    return Path(entry.root), split or entry.split, limit or entry.limit


def _refuse(context: typer.Context, what: str, *names: str) -> None:
    """Raises ConfigError where one of the parameters, by its name here, was given."""
    for option in context.command.params:
        if option.name in names and context.params[option.name] not in (None, ()):
            raise ConfigError(f"{option.opts[0]} does not go with {what}: leave one of them out")


def _summary(target: Path) -> str:
    from fmbseg.evaluate.results import read_result

    result = read_result(target)
    miou = result["miou"]
    shown = "nothing was scored" if miou is None else f"{miou:.2f} % mIoU"
    if (groups := result.get("groups")) and groups["miou"] is not None:
        shown += f" ({groups['miou']:.2f} % of {len(groups['per_class_iou'])} groups)"
    return f"{result['method']} on {result['benchmark']}: {shown}, {result['images']} images"
