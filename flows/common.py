"""What every task shares: its cache key, when it is tried again, and the slot it takes."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import aiohttp
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import FailedRun, ObjectNotFound
from prefect.tasks import Task

from flows.patience import CONNECTION, is_away, patiently
from fmbseg.errors import ConfigError, StoreError, may_pass, one_line

T = TypeVar("T")
# The stack shows what the logger `fmbseg` and those below it say.
_log = logging.getLogger("fmbseg.flows")

RETRY_DELAYS = [2.0, 4.0, 8.0]  # seconds
RETRY_JITTER = 0.5
_LEASE_SECONDS = 60.0
# Connections of Prefect's client and of fsspec's web storages; these are no OSError.
_CONNECTION = (
    *CONNECTION,
    *(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError),
)


def _is_news(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], FailedRun)


# A flow that a user's mistake has ended has said so in one line; Prefect's engine, which asks it
# for its result, would add a page of its own traceback.
for name in ("prefect.engine", "prefect.flow_runs"):
    logging.getLogger(name).addFilter(_is_news)


def stored_key(context: TaskRunContext, parameters: Mapping[str, Any]) -> str:
    """The cache key of a stage's task: the content key it was called with."""
    # Prefect's own policies would not do: INPUTS hashes a path as text and TASK_SOURCE sees nothing
    # of the library, so changed images or code would be a hit.
    return f"fmbseg-{parameters['stage'].replace('@', '-')}-{parameters['key']}"


def is_transient(error: object) -> bool:
    """Whether the same call may succeed a little later.

    Memory that ran out (the library has halved its batches before it lets that through), a disk or
    a connection that failed. Not a user's mistake, and not a bug.
    """
    return may_pass(error) or isinstance(error, (torch.OutOfMemoryError, MemoryError, *_CONNECTION))


def retry_transient(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition: `is_transient` of what the task raised."""
    return is_transient(state.result(raise_on_failure=False))


# Of every task.
RETRIES: Mapping[str, Any] = {
    "retries": len(RETRY_DELAYS),
    "retry_delay_seconds": RETRY_DELAYS,
    "retry_jitter_factor": RETRY_JITTER,
    "retry_condition_fn": retry_transient,
}


def try_again(what: str, call: Callable[[], T]) -> T:
    """What a call returns, tried again as a task is: for a shard, and for work outside of tasks.

    Args:
        what: the work, for the messages.
        call: does it.

    Raises:
        StoreError: it failed every time in a way that may pass.
    """
    delays = iter(RETRY_DELAYS)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            reason, delay = one_line(error), next(delays, None)
            if delay is None:
                tries = f"{len(RETRY_DELAYS) + 1} times in a row"
                raise StoreError(f"{what} failed {tries} ({reason}): run it again") from error
        # Outside the handler: its traceback holds the tensors of the failed try.
        _log.warning("%s: tried again in %.0f s (%s)", what, delay, reason)
        time.sleep(delay * random.uniform(1, 1 + RETRY_JITTER))


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold this machine's slot, so that two stages never share its GPU (or all its cores).

    The slot is a lease: after a run was killed it frees itself within a minute or two.

    Raises:
        ConfigError: the Prefect server has no such limit.
    """
    name = slot_name()
    if not name:
        yield
        return
    patiently("the slot", partial(_require_limit, name))
    # A renewal that fails must not end hours of work; at worst two stages then share the GPU.
    slot = partial(
        concurrency,
        name,
        occupy=1,
        lease_duration=_LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,
    )
    done = False
    try:
        with ExitStack() as held:
            patiently("the slot", lambda: held.enter_context(slot()))
            yield
            done = True
    except Exception as error:
        if not done or not is_away(error):
            raise
        _log.warning("the slot could not be given back, and frees itself (%s)", one_line(error))


def _require_limit(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise ConfigError(
                f"Prefect has no concurrency limit {name!r}: start `make stack`, or run "
                f"`prefect gcl create {name} --limit 1`"
            ) from error


def at_one_decimal(row: Mapping[str, object]) -> dict[str, object]:
    """A row of a table as people read it: of 59.29348 they need 59.3."""
    return {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}


def slot_name() -> str:
    """Name of the concurrency limit whose slot a stage holds.

    `FMBSEG_GPU_LIMIT` overrides it: give each worker machine a limit of its own. Empty: none.
    """
    return os.environ.get("FMBSEG_GPU_LIMIT", "gpu")
