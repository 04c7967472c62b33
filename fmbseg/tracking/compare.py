"""Pipeline runs held side by side: a line a run, its scores, and what was changed.

MLflow has every run, whichever way it was started (`dvc repro`, `dvc exp run`, `fmbseg run`, a
deployment of Prefect), so it is read and not DVC's experiments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fmbseg.config import TrackingSection
from fmbseg.errors import DataError, one_line
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.published import COLUMNS
from fmbseg.evaluate.table import aligned, ordered, percent
from fmbseg.tracking.mlflow_runs import EXPERIMENT, ExperimentRuns, tracking_uri

_SCORE = "miou/"
_SHORT = 8  # characters of a run's id that are shown, and tell runs apart
_SQLITE = "sqlite:///"
_SCORED = re.compile(r" \S+ \d+\.\d$")


@dataclass(frozen=True)
class PipelineRun:
    """What is compared of a run.

    Attributes:
        run_id: MLflow's.
        name: as MLflow lists it, but for the score.
        experiment: name of the DVC experiment that made it; empty: none did.
        started: local time.
        method: such as fmbseg.
        params: `section.key` -> value, those that may change its result.
        miou: benchmark -> percent.
    """

    run_id: str
    name: str
    experiment: str
    started: datetime
    method: str
    params: dict[str, str]
    miou: dict[str, float]


def scored_runs(section: TrackingSection, root: Path) -> list[PipelineRun]:
    """The runs of a project that have scores: by method, the oldest first.

    Args:
        section: where runs are logged.
        root: the project.

    Raises:
        DataError: nothing was logged yet, or what has it does not answer.
    """
    uri = tracking_uri(section.uri, root)
    nothing = f"no scored runs in {uri}: run `make demo` or `dvc repro` first"
    # To open a database that is not there would make one.
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise DataError(nothing)
    try:
        found = ExperimentRuns(section, root).every()
    except Exception as error:  # whatever a server, a network or a database has to say
        raise DataError(f"{uri} cannot be read ({one_line(error)}): is it running?") from error
    runs = [
        PipelineRun(
            run_id=run.info.run_id,
            # The score in it has a column of its own here.
            name=_SCORED.sub("", run.info.run_name),
            experiment=run.data.tags.get(EXPERIMENT, ""),
            started=datetime.fromtimestamp(run.info.start_time / 1000),
            method=run.data.params.get("method", ""),
            params={k: v for k, v in run.data.params.items() if k != "method"},
            miou={
                key.removeprefix(_SCORE): value
                for key, value in run.data.metrics.items()
                if key.startswith(_SCORE)
            },
        )
        for run in found
    ]
    scored = [run for run in runs if run.miou]
    if not scored:
        raise DataError(nothing)
    methods = ordered({run.method for run in scored}, METHODS)
    return sorted(scored, key=lambda run: (methods.index(run.method), run.started))


def chosen_runs(runs: Sequence[PipelineRun], wanted: Sequence[str]) -> list[PipelineRun]:
    """The runs that are asked for, in the order they are asked for; none: all.

    Args:
        runs: all.
        wanted: each the beginning of a run's id, a part of its name, or a DVC experiment.

    Raises:
        DataError: no run fits.
    """
    chosen: dict[str, PipelineRun] = {}
    for text in wanted:
        fitting = [
            run
            for run in runs
            if run.run_id.startswith(text) or text in run.name or text == run.experiment
        ]
        if not fitting:
            raise DataError(f"no run {text!r}: `fmbseg compare` without names shows all")
        chosen |= {run.run_id: run for run in fitting}
    return [*chosen.values()] if wanted else [*runs]


def comparison(runs: Sequence[PipelineRun]) -> str:
    """A line a run: mIoU of each benchmark, and the parameters in which it is not as the first.

    Parameters that one of two methods does not have are no difference.

    Args:
        runs: at least one.
    """
    first = runs[0]
    benchmarks = ordered({name for run in runs for name in run.miou}, COLUMNS)
    from_dvc = any(run.experiment for run in runs)
    heads = ["run", "started", "name", *(["experiment"] if from_dvc else [])]
    rows = [[*heads, *benchmarks, "changed"]]
    for run in runs:
        cells = [run.run_id[:_SHORT], f"{run.started:%Y-%m-%d %H:%M}", run.name]
        cells += [run.experiment or "-"] if from_dvc else []
        cells += [percent(run.miou.get(name), 1) for name in benchmarks]
        rows.append([*cells, _changed(run, first)])
    lines = aligned(rows, left=(*range(len(heads)), len(rows[0]) - 1))
    lines.insert(1, "-" * min(max(map(len, lines)), 100))
    return "\n".join([*lines, "mIoU, %; changed: held against the first line"])


def _changed(run: PipelineRun, first: PipelineRun) -> str:
    if run is first:
        return ""
    shared = sorted(run.params.keys() & first.params.keys())
    changed = [f"{key}={run.params[key]}" for key in shared if run.params[key] != first.params[key]]
    return " ".join(changed) or "-"
