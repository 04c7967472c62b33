"""One task and one flow a stage, each a few lines over `fmbseg.pipeline.run`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from prefect import Flow, Task, flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.common import (
    RETRY_DELAYS,
    RETRY_JITTER,
    STAGE_RETRIES,
    STORED,
    count_failure,
    gpu_slot,
    is_transient,
    retry_stage,
    try_again,
)
from flows.parameters import PARAMS, Overrides, Preset, effective_config
from flows.progress import PrefectProgress
from flows.scale import HERE, Scale, require_same_code, share_out
from fmbseg.config import Config
from fmbseg.errors import FmbsegError
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import (
    find_stage,
    run_stage,
    stage_names,
    stage_shards,
    stage_state,
    track_stage,
)
from fmbseg.pipeline.table import STAGES
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker

Report = dict[str, Any]
_WITHOUT_SLOT = {"scenes"}  # needs no model


def _run(stage: str, key: str, config: Config, root: Path, published: bool) -> Report:
    """Run a stage; what the store has is taken over.

    Args:
        stage: its name, `evaluate@voc21` for one benchmark.
        key: content key of its result, the task's cache key.
        config: all sections.
        root: the workspace.
        published: whether the result was there before: then no slot is waited for.

    Returns:
        stage, key, computed, taken_over: small, because results are kept until a flow ends.
    """
    logger = get_run_logger()
    paths = Paths(root)
    progress = PrefectProgress(stage, logger)
    tracker = open_tracker(config, root)
    try:
        with nullcontext() if published or stage in _WITHOUT_SLOT else gpu_slot():
            report = run_stage(stage, config, paths, progress, tracker)
    except Exception as error:
        if is_transient(error):
            shards = stage_shards(stage, config, paths, silent_progress())
            count_failure(None if shards is None else len(shards.missing()))
        raise
    logger.info("%s: %d computed, %d taken over", stage, report.computed, report.taken_over)
    counts = {"computed": report.computed, "taken_over": report.taken_over}
    return {"stage": stage, "key": key, **counts}


TASKS: Mapping[str, Task[..., Report]] = {
    stage.name: task(
        name=stage.name,
        description=stage.summary,
        task_run_name="{stage}",
        cache_policy=STORED,
        persist_result=True,
        result_serializer="json",
        retries=STAGE_RETRIES,
        retry_delay_seconds=RETRY_DELAYS,
        retry_jitter_factor=RETRY_JITTER,
        retry_condition_fn=retry_stage,
    )(_run)
    for stage in STAGES.values()
}


def call_task(name: str, config: Config, root: Path, scale: Scale = HERE) -> Report:
    """Call the task of a stage from within a flow.

    Prefect remembers a small report under the content key; whether the files it speaks of are
    still there and undamaged, the store says. Where they are not, the task runs again.

    Args:
        name: `evaluate@voc21` for one benchmark.
        config: all sections.
        root: the workspace.
        scale: where the shards of stage 1 and the features are computed.

    Raises:
        StoreError: the code has changed since this process read it.
        FmbsegError: a user's mistake; it is not tried again.
    """
    stage, _ = find_stage(name, config)
    require_same_code()
    state = try_again(lambda: stage_state(name, config, Paths(root), silent_progress()))
    shared_out = 0 if state.published else share_out(name, state.key, config, root, scale)
    called = TASKS[stage.name].with_options(refresh_cache=not state.published)
    given: dict[str, Any] = {
        "stage": name,
        "key": state.key,
        "config": config,
        "root": root,
        "published": state.published,
    }
    done = cast("State[Report]", called(**given, return_state=True))
    report: Report = done.result()
    if done.name == "Cached":  # what the earlier run computed is taken over by this one
        shards = report["computed"] + report["taken_over"]
        report = report | {"computed": 0, "taken_over": shards}
        track_stage(name, config, Paths(root), open_tracker(config, root))
    # For the stage's task they were there; this run has computed them all the same.
    report["computed"] += shared_out
    report["taken_over"] -= shared_out
    return report


def _flow(name: str) -> Flow[..., list[Report] | State[object]]:
    def run(
        preset: Preset = None,
        overrides: Overrides = (),
        benchmark: str | None = None,
        params: Path = PARAMS,
    ) -> list[Report] | State[object]:
        root = Path(os.curdir)
        wanted = name if benchmark is None else f"{name}@{benchmark}"
        try:
            config, _ = effective_config(preset, overrides, root, params)
            return [call_task(each, config, root) for each in stage_names(config, [wanted])]
        except FmbsegError as error:
            # A user's mistake is one line, not a traceback.
            return Failed(message=str(error))

    run.__doc__ = f"""{STAGES[name].summary}.

    Args:
        preset: set of models; empty: that of the parameters' file.
        overrides: section.key=value, each for this run only.
        benchmark: for stages that score: one of evaluate.benchmarks; empty: all.
        params: the parameters' file, relative to the workspace.
    """
    return flow(name=f"fmbseg-{name}", description=STAGES[name].summary)(run)


FLOWS: Mapping[str, Flow[..., list[Report] | State[object]]] = {
    name: _flow(name) for name in STAGES
}
