"""The flow `fmbseg`: the stages one after another, then the record in DVC and the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.common import RETRIES, at_one_decimal
from flows.parameters import (
    Experiment,
    Overrides,
    Preset,
    Runner,
    Stages,
    Storage,
    Workers,
    effective_config,
    is_params_yaml,
)
from flows.patience import patiently
from flows.scale import Scale, require_same_code
from flows.stages import Report, call_task
from fmbseg.config import Config
from fmbseg.errors import FmbsegError, one_line
from fmbseg.evaluate.results import current_results
from fmbseg.pipeline.run import stage_names
from fmbseg.report.stage import PAGE
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker


@flow(name="fmbseg", description="Pseudo labels, alignment head and scores, in one run.")
def fmbseg(
    stages: Stages = (),
    preset: Preset = None,
    overrides: Overrides = (),
    experiment: Experiment = None,
    record: bool = True,
    runner: Runner = "threads",
    workers: Workers = 2,
    storage: Storage = None,
) -> list[Report] | State[object]:
    """Run stages of the pipeline; what is already computed is taken over.

    Args:
        stages: which; none: all. Run in the order of the pipeline.
        preset: set of models, such as tiny; empty: that of params.yaml.
        overrides: section.key=value, each for this run only, such as align.head=linear.
        experiment: name of a file of experiments/, whose parameters these overrides go over.
        record: afterwards tell DVC that these stages are done, so that `dvc repro` runs none of
            them. Never with parameters that differ from params.yaml.
        runner: what computes the shards of stage 1 and the features: threads (the worker's own
            process), dask or ray.
        workers: processes that dask or ray start here, where no running cluster is named in
            FMBSEG_DASK_ADDRESS or FMBSEG_RAY_ADDRESS.
        storage: folder or URL (s3://...) that all workers reach, where they share no workspace.
    """
    logger = get_run_logger()
    root = Path(os.curdir)
    reports: list[Report] = []
    try:
        config = effective_config(preset, overrides, root, experiment=experiment)
        names = stage_names(config, stages)
        for name in names:
            reports.append(call_task(name, config, root, Scale(runner, workers, storage)))
        # What is recorded is the files as they are at the end, and a run takes hours.
        same = is_params_yaml(names, config, root)
        # A container may hold the code alone: there is nothing to record in.
        if record and same and (root / ".dvc").is_dir() and (root / "dvc.yaml").is_file():
            require_same_code()
            record_stages(names, root)
    except FmbsegError as error:
        # A user's mistake is one line, not a traceback.
        return Failed(message=one_line(error))
    computed = sum(report["computed"] for report in reports)
    taken_over = sum(report["taken_over"] for report in reports)
    logger.info("%d stages: %d computed, %d taken over", len(names), computed, taken_over)
    if not same:
        logger.warning(
            "not recorded in DVC: the parameters are not those that params.yaml has now, and `dvc "
            "repro` will make its results again"
        )
    patiently("the table of results", partial(show_results, config, root, reports))
    return reports


# Titles of the table of results, and what each shows of one.
_COLUMNS = {"method": "method", "benchmark": "benchmark", "mIoU, %": "miou"}
_COLUMNS |= {"pixel accuracy, %": "pixel_accuracy", "images": "images"}


class RecordError(RuntimeError):
    """`dvc commit` failed; most often another DVC command holds its lock."""


@task(
    name="record",
    task_run_name="record",
    description="dvc commit: the results and what they were made from, into dvc.lock",
    cache_policy=NO_CACHE,
    **{**RETRIES, "retry_condition_fn": None},  # whatever DVC has said
)
def record_stages(names: Sequence[str], root: Path) -> None:
    """Write the present results of stages into dvc.lock and DVC's cache, running nothing.

    Args:
        names: as in dvc.yaml, `evaluate@voc21`.
        root: the workspace.

    Raises:
        RecordError: DVC refused; what it said.
    """
    # A commit takes more than a second for each stage, to ask about all of them takes three.
    changed = json.loads(_dvc(root, "status", "--json", *names))
    if stale := [name for name in names if name in changed]:
        _dvc(root, "commit", "--force", "--quiet", *stale)


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RecordError(one_line(done.stderr or done.stdout))
    return done.stdout


def show_results(config: Config, root: Path, reports: Sequence[Report]) -> None:
    """Create the artifacts `fmbseg-miou` (a table) and `fmbseg-run` (Markdown).

    Args:
        config: all sections.
        root: the workspace.
        reports: of the stages that ran: stage, key, computed, taken_over.
    """
    paths = Paths(root)
    results = current_results(paths.metrics)
    rows = [
        at_one_decimal({title: each.get(key) for title, key in _COLUMNS.items()})
        for each in results
    ]
    if rows:
        create_table_artifact(rows, key="fmbseg-miou", description="mIoU of the present results")
    lines = ["| stage | computed | taken over | key |", "|---|---:|---:|---|"]
    lines += [
        f"| {row['stage']} | {row['computed']} | {row['taken_over']} | `{row['key'][:12]}` |"
        for row in reports
    ]
    link = open_tracker(config, root).run_link(config, paths)
    if link and link.startswith("http"):
        link = f"[{link}]({link})"
    lines += ["", f"MLflow: {link or 'no run (tracking is off, or nothing was scored yet)'}"]
    if (page := paths.report / PAGE).is_file():
        lines.append(f"\nReport: `{page.resolve()}`, and in the artifacts of that run")
    create_markdown_artifact("\n".join(lines), key="fmbseg-run", description="What this run did")
