"""Flow runs whose process was killed with its worker: nobody else says that they have ended.

A worker reports what becomes of the runs it has started, but not of those of a worker before it.
Each worker has the name of its machine, and Prefect keeps that with a run; so has a stage that
`fmbseg run` runs, with the number of its process. A worker of the same machine sees which are gone.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from fmbseg.errors import one_line

_log = logging.getLogger("fmbseg.flows")

FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""Prefect's variable, in the environment of a flow run's process."""
_WORKER, _PROCESS = "prefect.worker.name", "fmbseg.process"
_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_START_SECONDS = 300.0
_CLOCK_SECONDS = 5.0
_WHY = "its process is gone: it was killed, or the machine has stopped; start it again"


def machine() -> str:
    """What this machine's workers are called; processes of other users are not to be seen."""
    return f"fmbseg {os.getuid()}@{socket.gethostname()}"


def claim() -> None:
    """Tell the server that the flow run is this process's, unless a worker has done so."""
    context = FlowRunContext.get()
    if FLOW_RUN in os.environ or context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            own = f"{machine()} {os.getpid()}"
            client.update_flow_run_labels(context.flow_run.id, {_PROCESS: own})
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:  # a kill would not be noticed
        _log.warning("the run is not known to be this process's: %s", one_line(error))


async def under_way(client: PrefectClient) -> tuple[set[UUID], list[FlowRun]]:
    """Flow runs of this machine that the server believes to be under way.

    Returns:
        Those that a worker has started and a process works at in this folder; and those without a
        process.
    """
    wanted = FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY))
    working, lost, processes = set(), [], _flow_processes()
    for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter(state=wanted)):
        name, _, number = str(run.labels.get(_PROCESS, "")).rpartition(" ")
        if run.labels.get(_WORKER) == machine():
            if run.id in processes:
                if Path.cwd() in processes[run.id]:
                    working.add(run.id)
            elif not _may_start(run):
                lost.append(run)
        elif name == machine() and not _runs(int(number), run):
            lost.append(run)
    return working, lost


async def give_up(client: PrefectClient, runs: Iterable[FlowRun]) -> None:
    """Say of flow runs that they have ended, and of what they had started."""
    for run in runs:
        within = FlowRunFilterParentFlowRunId(any_=[run.id])
        children = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=within,
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)),
            )
        )
        await give_up(client, children)
        for task in await client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(
                state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNDER_WAY))
            ),
        ):
            await client.set_task_run_state(task.id, Crashed(message=_WHY))
        cancelling = run.state is not None and run.state.is_cancelling()
        await client.set_flow_run_state(
            run.id, Cancelled(message=_WHY) if cancelling else Crashed(message=_WHY)
        )


def _flow_processes() -> dict[UUID, set[Path]]:
    """The flow runs that processes of this machine work at, and in which folders."""
    found: dict[UUID, set[Path]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError):
            if text := process.environ().get(FLOW_RUN):
                found.setdefault(UUID(text), set()).add(Path(process.cwd()))
    return found


def _may_start(run: FlowRun) -> bool:
    """Whether a run that nobody works at is about to begin."""
    state = run.state
    if state is None or not state.is_pending():
        return False
    return (datetime.now(UTC) - state.timestamp).total_seconds() < _START_SECONDS


def _runs(number: int, run: FlowRun) -> bool:
    """Whether a process is still the one that began a run, and no later one of its number."""
    with suppress(psutil.Error):
        process = psutil.Process(number)
        begun = run.start_time or datetime.now(UTC)
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.create_time() <= begun.timestamp() + _CLOCK_SECONDS)
    return False
