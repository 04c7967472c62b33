"""The flow `fmbseg`: the stages one after another, then the record in DVC and the results."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.artifacts import show_results
from flows.parameters import (
    Overrides,
    Preset,
    Runner,
    Stages,
    Storage,
    Workers,
    effective_config,
    is_params_yaml,
)
from flows.record import is_dvc_project, record_stages
from flows.scale import Scale, require_same_code
from flows.stages import Report, call_task
from fmbseg.errors import FmbsegError
from fmbseg.pipeline.run import stage_names


@flow(name="fmbseg", description="Pseudo labels, alignment head and scores, in one run.")
def fmbseg(
    stages: Stages = (),
    preset: Preset = None,
    overrides: Overrides = (),
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
        config = effective_config(preset, overrides, root)
        names = stage_names(config, stages)
        for name in names:
            reports.append(call_task(name, config, root, Scale(runner, workers, storage)))
        # What is recorded is the files as they are at the end, and a run takes hours.
        same = is_params_yaml(names, config, root)
        if record and same and is_dvc_project(root):
            require_same_code()
            record_stages(names, root)
    except FmbsegError as error:
        # A user's mistake is one line, not a traceback.
        return Failed(message=str(error))
    computed = sum(report["computed"] for report in reports)
    taken_over = sum(report["taken_over"] for report in reports)
    logger.info("%d stages: %d computed, %d taken over", len(names), computed, taken_over)
    if not same:
        logger.warning(
            "not recorded in DVC: the parameters are not those that params.yaml has now, and `dvc "
            "repro` will make its results again"
        )
    show_results(config, root, reports)
    return reports
