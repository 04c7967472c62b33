"""The flow `fmbseg-search`: parameters of the training, searched on development scenes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed
from pydantic import Field

from flows.common import RETRIES, gpu_slot
from flows.parameters import PARAMS
from flows.progress import PrefectProgress
from flows.space import SPACE, Dimension, dimensions
from flows.stages import call_task
from fmbseg.config import BenchmarkRoot, Config, override_config
from fmbseg.errors import ConfigError, FmbsegError
from fmbseg.params import project_config
from fmbseg.pipeline.run import leading_to
from fmbseg.pipeline.trial import STAGE, Trial, development_benchmarks, run_trial
from fmbseg.stage.depends import flat_params
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import published_digest
from fmbseg.tracking.search_runs import SearchRuns

if TYPE_CHECKING:
    import optuna

_WHAT = "what"  # digest of all that makes trials of one study comparable
Row = dict[str, object]


@flow(name="fmbseg-search", description="Parameters of the training, searched by Optuna.")
def search(
    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "head",
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20,
    space: Sequence[str] = SPACE,
    benchmarks: Sequence[str] = (),
    scenes: Annotated[int, Field(ge=1, le=10_000)] = 40,
) -> list[Row] | State[object]:
    """Search parameters of the section align; labels and features are made once, for all trials.

    Each trial trains a head beside the project's own and is scored on development scenes: drawn
    from seeds that no evaluation has. Benchmarks of real pictures are refused, for they report.
    Where there are none but those, a trial's value is its head's agreement with itself. The first
    trial is params.yaml. Every trial is a child run of `search-<study>` in MLflow. A search that
    was ended or killed goes on, in `.fmbseg/search/studies.db`; data/ and metrics/ stay.

    Args:
        study: name; of a study that is there, trials that are done count.
        trials: how many there are to be in all.
        space: what is searched, `section.key=low..high`, with ` log` after it by ratios, or
            `section.key=one|other`.
        benchmarks: whose development scenes count; none: all that are scenes.
        scenes: development scenes of each layout.
    """
    root = Path(os.curdir)
    logger = get_run_logger()
    try:
        config = project_config(root / PARAMS)
        searched, paths = dimensions(space), Paths(root)
        progress = PrefectProgress("search", logger)
        chosen = development_benchmarks(config, paths, benchmarks, scenes, progress)
        for name in leading_to([STAGE])[:-1]:
            call_task(name, config, root)
        found = _open_study(study, config, paths, searched, chosen)
        _go_on(found, config, searched)
        while (done := len(_finished(found, failed=True))) < trials:
            logger.info("trial %d of %d", done + 1, trials)
            _next(found, config, paths, searched, chosen)
        if not _finished(found):
            raise ConfigError(f"none of {done} trials could be trained: narrow the space")
    except FmbsegError as error:
        # A user's mistake is one line, not a traceback.
        return Failed(message=str(error))
    return _show(found, searched, chosen)


def _open_study(
    name: str,
    config: Config,
    paths: Paths,
    searched: Sequence[Dimension],
    chosen: Mapping[str, BenchmarkRoot],
) -> optuna.Study:
    """The study of a name, made where it is missing.

    Raises:
        ConfigError: Optuna is not installed, or trials of this study were made otherwise.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError("this needs optuna: pip install 'fmbseg[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    paths.search.mkdir(parents=True, exist_ok=True)
    storage = f"sqlite:///{(paths.search / 'studies.db').resolve()}"
    found = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )
    # After a pause it must not draw again what it has drawn.
    seed = config.run.seed + len(found.trials)
    found.sampler = optuna.samplers.TPESampler(seed=seed)
    own = {each.name for each in searched}
    params = flat_params(config, ("align", "evaluate", "features", "run.dtype", "run.threads"))
    what = json_digest(
        [
            {k: v for k, v in params.items() if k not in own and "benchmarks" not in k},
            [asdict(each) for each in searched],
            {name: entry.model_dump() for name, entry in chosen.items()},
            [published_digest(place) for place in (paths.label, paths.features)],
        ]
    )
    if found.user_attrs.get(_WHAT, what) != what:
        raise ConfigError(
            f"study {name!r} has trials of another space, other scenes, labels or parameters: "
            "choose another name for this search"
        )
    found.set_user_attr(_WHAT, what)
    return found


def _go_on(found: optuna.Study, config: Config, searched: Sequence[Dimension]) -> None:
    """Puts first in line what a killed search was at, or params.yaml itself."""
    from optuna.trial import TrialState

    for trial in found.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        found.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            found.enqueue_trial(trial.params, skip_if_exists=False)
    own = flat_params(config, [each.name for each in searched])
    if not found.trials and all(each.holds(own[each.name]) for each in searched):
        found.enqueue_trial(
            {e.name: str(own[e.name]) if e.choices else own[e.name] for e in searched}
        )


def _finished(found: optuna.Study, *, failed: bool = False) -> list[optuna.trial.FrozenTrial]:
    """Trials with a value; with `failed` those that could not be trained, too."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, *([TrialState.PRUNED] if failed else []))
    return [*found.get_trials(deepcopy=False, states=states)]


def _next(
    found: optuna.Study,
    config: Config,
    paths: Paths,
    searched: Sequence[Dimension],
    chosen: Mapping[str, BenchmarkRoot],
) -> None:
    asked = found.ask()
    values = {each.name: each.suggest(asked) for each in searched}
    overrides = [f"{name}={value}" for name, value in values.items()]
    folder = paths.search / found.study_name / f"trial-{asked.number}"
    changed = override_config(config, overrides)
    attempt = _TRY.with_options(task_run_name=f"trial-{asked.number}")
    try:
        result = attempt(changed, paths.root, folder, chosen)
    except ConfigError as error:  # these values do not train: the next ones are tried
        from optuna.trial import TrialState

        get_run_logger().warning("trial %d: %s", asked.number, error)
        found.tell(asked, state=TrialState.PRUNED)
        return
    asked.set_user_attr("scores", dict(result.scores))
    found.tell(asked, result.value)
    runs = SearchRuns(config.tracking, paths.root, found.study_name)
    runs.trial(asked.number, values, result.scores, result.value, result.curve)


@task(name="trial", description="a head trained and scored", cache_policy=NO_CACHE, **RETRIES)
def _TRY(config: Config, root: Path, folder: Path, chosen: Mapping[str, BenchmarkRoot]) -> Trial:
    with gpu_slot():
        progress = PrefectProgress("trial", get_run_logger())
        return run_trial(config, Paths(root), folder, chosen, progress)


def _show(
    found: optuna.Study, searched: Sequence[Dimension], chosen: Mapping[str, BenchmarkRoot]
) -> list[Row]:
    """The artifact `fmbseg-search-<study>`: a row a trial, the best first."""
    logger = get_run_logger()
    digits = 1 if chosen else 3
    rows: list[Row] = []
    for trial in sorted(_finished(found), key=lambda each: -(each.value or 0.0)):
        shown = {each.name.partition(".")[2]: _short(trial.params[each.name]) for each in searched}
        rows.append({"trial": trial.number, "value": round(trial.value or 0.0, digits), **shown})
    about = f"mean mIoU, %, on development scenes of {', '.join(chosen)}"
    if not chosen:
        about = "agreement of a head with itself (no accuracy)"
    create_table_artifact(rows, key=f"fmbseg-search-{found.study_name}", description=about)
    best = " ".join(f"--set {name}={value}" for name, value in found.best_params.items())
    logger.info("best of %d trials: %.*f (%s)", len(rows), digits, found.best_value, about)
    logger.info("to train with it: fmbseg run align %s", best)
    return rows


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
