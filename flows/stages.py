"""One task and one flow a stage, each a few lines over `fmbseg.pipeline.run`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
from prefect import Flow, Task, flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Failed

from flows.common import RETRIES, gpu_slot, stored_key, try_again
from flows.lost import claim
from flows.parameters import PARAMS, Overrides, Preset, effective_config
from flows.progress import PrefectProgress
from flows.scale import HERE, Scale, require_same_code, share_out
from fmbseg.config import Config
from fmbseg.errors import ConfigError, FmbsegError, one_line
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import find_row, open_stage, run_stage, stage_names
from fmbseg.pipeline.table import ROWS
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker

Report = dict[str, Any]


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
    row, _ = find_row(stage, config)
    computes = not published and "torch" in row.depends.libraries
    progress, tracker = PrefectProgress(stage, logger), open_tracker(config, root)
    with gpu_slot() if computes else nullcontext():
        # A stage has thousands of shards to get through: what may be tried three times is a shard.
        attempt = partial(try_again, f"a shard of {stage}")
        opened = open_stage(stage, config, Paths(root), progress, tracker, attempt)
        report = run_stage(opened)
    logger.info("%s: %d computed, %d taken over", stage, report.computed, report.taken_over)
    for line in opened.summary():
        logger.info("%s: %s", stage, line)
    counts = {"computed": report.computed, "taken_over": report.taken_over}
    return {"stage": stage, "key": key, **counts}


TASKS: Mapping[str, Task[..., Report]] = {
    row.name: task(
        name=row.name,
        description=row.summary,
        task_run_name="{stage}",
        cache_key_fn=stored_key,
        persist_result=True,
        result_serializer="json",
        **RETRIES,
    )(_run)
    for row in ROWS.values()
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
    require_same_code()
    paths = Paths(root)
    stage = open_stage(name, config, paths, silent_progress(), open_tracker(config, root))
    key, published = try_again(f"looking for {name}", lambda: (stage.key, stage.published))
    shared_out = 0 if published else share_out(name, stage, scale)
    called = TASKS[stage.row.name].with_options(refresh_cache=not published)
    done: Any = called(
        stage=name, key=key, config=config, root=root, published=published, return_state=True
    )
    report: Report = done.result()
    if done.name == "Cached":  # what the earlier run computed is taken over by this one
        shards = report["computed"] + report["taken_over"]
        report = report | {"computed": 0, "taken_over": shards}
        stage.track()
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
        claim()
        root = Path(os.curdir)
        wanted = name if benchmark is None else f"{name}@{benchmark}"
        try:
            config = effective_config(preset, overrides, root, params)
            return [call_task(each, config, root) for each in stage_names(config, [wanted])]
        except FmbsegError as error:
            # A user's mistake is one line, not a traceback.
            return Failed(message=one_line(error))

    run.__doc__ = f"""{ROWS[name].summary}.

    Args:
        preset: set of models; empty: that of the parameters' file.
        overrides: section.key=value, each for this run only.
        benchmark: for stages that score: one of evaluate.benchmarks; empty: all.
        params: the parameters' file, relative to the workspace.
    """
    return flow(name=f"fmbseg-{name}", description=ROWS[name].summary)(run)


FLOWS: Mapping[str, Flow[..., list[Report] | State[object]]] = {name: _flow(name) for name in ROWS}


def run_through_prefect(stage: str, overrides: Sequence[str], params: Path) -> list[Report]:
    """Run the flow of a stage in this process: `fmbseg run` where PREFECT_API_URL names a server.

    The server shows it, and its task cache counts.

    Args:
        stage: as in `fmbseg run`, `evaluate@voc21` for one benchmark.
        overrides: section.key=value.
        params: the parameters' file.

    Returns:
        A report a task: stage, key, computed, taken_over.

    Raises:
        ConfigError: the server does not answer.
        FmbsegError: as the stage.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pools(limit=1)  # /health would also answer a wrong password
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            raise ConfigError(
                f"PREFECT_API_URL is {os.environ['PREFECT_API_URL']}, and nothing answers there "
                f"({one_line(error)}): start it (`make stack`), or unset the variable"
            ) from error
    name, _, benchmark = stage.partition("@")
    given = {"overrides": overrides, "benchmark": benchmark or None, "params": params}
    state = cast("State[list[Report]]", FLOWS[name](**given, return_state=True))
    if not state.is_completed():
        raise FmbsegError(state.message or f"the flow of {stage} ended {state.name}")
    return state.result()
