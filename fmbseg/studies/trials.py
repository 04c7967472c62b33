"""Trials: a variant with a seed, what its results depend on, and those that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbseg.config import Config, override_config, parse_config
from fmbseg.data.drawn import SCENE_OBJECTS
from fmbseg.errors import ConfigError, DataError
from fmbseg.evaluate.results import Result, read_result
from fmbseg.evaluate.scoring import Candidate, benchmark_scorings
from fmbseg.machine.progress import Progress
from fmbseg.pipeline.run import leading_to, workplace
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.depends import Depends, content_key
from fmbseg.stage.row import CORRECTIONS, IMAGES, LABEL, WORDS
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.paths import Paths
from fmbseg.studies.declared import STUDIES, Study

METHOD = "fmbseg"
RECIPE = "recipe"
"""Field of a kept result: the key of all that it was made from."""

TABLE_1 = "table1"
_TABLE_1 = Study("the segmenter as params.yaml has it", {METHOD: ()})
_TRAINED = tuple(name for name in leading_to(["evaluate"]) if ROWS[name].inputs)


@dataclass(frozen=True)
class Trial:
    """One training and its scores.

    Attributes:
        study: a name of `STUDIES`, or `TABLE_1`.
        variant: of the study.
        seed: of the training.
        config: all sections; folders are absolute, for it runs in a workspace of its own.
        place: folder of its results, a file a benchmark.
    """

    study: str
    variant: str
    seed: int
    config: Config
    place: Path

    @property
    def stages(self) -> tuple[str, ...]:
        """Everything before the scores, in order; labels of `data.labels` need no stage 1."""
        if self.config.data.labels is None:
            return tuple(name for name in _TRAINED if name != "evaluate")
        return ("features", "align")


def trials(
    config: Config,
    paths: Paths,
    studies: Iterable[str],
    seeds: Iterable[int],
    benchmarks: Sequence[str],
) -> list[Trial]:
    """All trials of some studies; seeds follow each other, so that they find stage 1 as it is.

    Args:
        config: what is not varied.
        paths: the project.
        studies: names of `STUDIES`, or `TABLE_1`.
        seeds: of the trainings.
        benchmarks: that are scored.

    Raises:
        ConfigError: no such benchmark.
    """
    known = config.evaluate.benchmarks
    for name in benchmarks:
        if name not in known:
            raise ConfigError(f"evaluate.benchmarks has no {name!r}: it has {', '.join(known)}")
    home, seeds = _absolute(config, paths.root, benchmarks), list(seeds)
    found = []
    for study in studies:
        for variant, changes in declared(study).variants.items():
            for seed in seeds:
                changed = override_config(home, [*changes, f"run.seed={seed}"])
                place = results_folder(paths, study, variant) / str(seed)
                found.append(Trial(study, variant, seed, changed, place))
    return found


def require_stage_1(config: Config, studies: Iterable[str]) -> None:
    """Refuse studies of stage 1 where `data.labels` replaces its labels, raising ConfigError."""
    for study in studies:
        changes = [each for variant in declared(study).variants.values() for each in variant]
        if config.data.labels and not all(each.startswith("align.") for each in changes):
            raise ConfigError(
                f"the study {study} changes stage 1, whose labels those of data.labels replace: "
                "leave it out, or --set data.labels=null"
            )


def declared(study: str) -> Study:
    """A study by its name."""
    return _TABLE_1 if study == TABLE_1 else STUDIES[study]


def results_folder(paths: Paths, study: str, variant: str) -> Path:
    """Where the results of a variant are kept, in a folder a seed."""
    return paths.table_1 if study == TABLE_1 else paths.ablations / study / variant


@dataclass
class Recipes:
    """Keys of what results are made from, without making anything.

    A recipe covers parameters, code, libraries, weights, images, words, corrections and truth: two
    results of one recipe are equal, so a kept one is taken over.

    Attributes:
        paths: the project.
        progress: of what has to be read.
    """

    paths: Paths
    progress: Progress
    _known: dict[str, Any] = field(default_factory=dict)

    def of(self, trial: Trial, benchmark: str) -> str:
        """The recipe of a trial's result on a benchmark.

        Raises:
            FmbsegError: images, words, truth or weights are missing or damaged.
        """
        rows = [ROWS[name].depends for name in _TRAINED]
        inputs = {
            "training": self._training(trial.config),
            "benchmark": [benchmark, *self._benchmark(trial.config, benchmark)],
        }
        return content_key("study", sum(rows, start=Depends()), trial.config, inputs)

    def kept(self, trial: Trial, benchmark: str) -> Result | None:
        """The result of a trial that is there and of its recipe; None: it is to be made."""
        try:
            result = read_result(trial.place / f"{benchmark}.json")
        except DataError:
            return None
        return result if result.get(RECIPE) == self.of(trial, benchmark) else None

    def _training(self, config: Config) -> Any:
        known = json_digest(["training", config.data.model_dump(mode="json")])
        if known not in self._known:
            work = workplace(config, self.paths, self.progress)
            names = [IMAGES, WORDS, LABEL if config.data.labels else CORRECTIONS]
            out = work.out(LABEL)
            self._known[known] = {name: out.content(name) for name in names}
        return self._known[known]

    def _benchmark(self, config: Config, name: str) -> Sequence[Any]:
        entry = config.evaluate.benchmarks[name]
        known = json_digest(["benchmark", name, entry.model_dump(mode="json")])
        if known not in self._known:
            candidate = Candidate(METHOD, config, self.paths)
            places = self.paths.metrics, self.progress
            (scoring,) = benchmark_scorings(candidate, [name], *places)
            scenes = scoring.dataset.root / SCENE_OBJECTS
            self._known[known] = [
                scoring.dataset.split,
                entry.limit,
                scoring.samples_sha256,
                scoring.vocabulary.name,
                scoring.vocabulary.digest,
                file_digest(scenes) if scenes.is_file() else None,
            ]
        found: Sequence[Any] = self._known[known]
        return found


Results = Mapping[str, Mapping[str, Sequence[Result]]]
"""Variant -> benchmark -> the results of all seeds."""


def kept_results(
    config: Config, paths: Paths, study: str, recipes: Recipes, seeds: Iterable[int] | None = None
) -> Results:
    """The kept results of a study that are of the present configuration, code and data.

    Args:
        config: of the project.
        paths: the project.
        study: its name.
        recipes: says which results are of now.
        seeds: None: all that are there.
    """
    found: dict[str, dict[str, list[Result]]] = {}
    asked = None if seeds is None else set(seeds)
    folders = [results_folder(paths, study, variant) for variant in declared(study).variants]
    files = [each for folder in folders for each in folder.glob("*/*.json")]
    there = {int(each.parent.name) for each in files if each.parent.name.isdecimal()}
    names = {each.stem for each in files}
    benchmarks = [name for name in config.evaluate.benchmarks if name in names]
    chosen = sorted(there if asked is None else there & asked)
    for trial in trials(config, paths, [study], chosen, benchmarks):
        for name in benchmarks:
            if (result := recipes.kept(trial, name)) is not None:
                found.setdefault(trial.variant, {}).setdefault(name, []).append(result)
    return found


def _absolute(config: Config, root: Path, benchmarks: Sequence[str]) -> Config:
    """A configuration that means the same in another workspace, with some benchmarks alone."""
    raw = config.model_dump(mode="json")
    data = raw["data"]
    data["root"] = str((root / data["root"]).absolute())
    if data["labels"] is not None:
        data["labels"] = str((root / data["labels"]).absolute())
    chosen = {name: raw["evaluate"]["benchmarks"][name] for name in benchmarks}
    for entry in chosen.values():
        entry["root"] = str((root / entry["root"]).absolute())
    raw["evaluate"]["benchmarks"] = chosen
    return parse_config(raw)
