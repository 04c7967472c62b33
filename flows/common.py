"""What every task shares: its cache key, when it is tried again, and the slot it takes."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import aiohttp
import httpx
import torch
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.tasks import Task

from fmbseg.errors import ConfigError, may_pass

T = TypeVar("T")
_log = logging.getLogger(__name__)

RETRIES = 3
RETRY_DELAYS = [2.0, 4.0, 8.0]  # seconds
RETRY_JITTER = 0.5
# A stage's task has thousands of shards to get through. Prefect counts its tries over all of them;
# what is allowed is `RETRIES` without a shard finished in between, see `retry_stage`.
STAGE_RETRIES = 1_000_000
_LEASE_SECONDS = 60.0
# Connections of Prefect's client and of fsspec's web storages; these are no OSError.
_CONNECTION = (
    *(httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError),
    *(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError),
)


def stored_key(context: TaskRunContext, parameters: Mapping[str, Any]) -> str:
    """The cache key of a stage's task: the content key it was called with."""
    return f"fmbseg-{parameters['stage'].replace('@', '-')}-{parameters['key']}"


# Prefect's own policies would not do: INPUTS hashes a path as text and TASK_SOURCE sees nothing of
# the library, so changed images or code would be a hit.
STORED = CacheKeyFnPolicy(cache_key_fn=stored_key)


def is_transient(error: object) -> bool:
    """Whether the same call may succeed a little later.

    Memory that ran out (the library has halved its batches before it lets that through), a disk or
    a connection that failed. Not a user's mistake, and not a bug.
    """
    return may_pass(error) or isinstance(error, (torch.OutOfMemoryError, MemoryError, *_CONNECTION))


def retry_transient(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition: `is_transient` of what the task raised."""
    return is_transient(state.result(raise_on_failure=False))


@dataclass
class _Failures:
    """Of a task run in this process: how often it failed since a shard was last finished.

    Attributes:
        missing: shards that were missing at the last failure.
    """

    count: int = 0
    missing: int | None = None


_FAILURES: dict[UUID, _Failures] = {}


def count_failure(missing: int | None) -> None:
    """Count a failure of the task run that this is called in, from one when shards were gained.

    Args:
        missing: shards of the stage that are missing now; None: it has none.
    """
    context = TaskRunContext.get()
    if context is None:
        return
    failures = _FAILURES.setdefault(context.task_run.id, _Failures())
    before, failures.missing = failures.missing, missing
    gained = before is not None and missing is not None and missing < before
    failures.count = 1 if gained else failures.count + 1


def retry_stage(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition of stages: as often as of a shard, for each shard."""
    tried_too_often = _FAILURES.get(task_run.id, _Failures()).count > RETRIES
    return retry_transient(task, task_run, state) and not tried_too_often


def try_again(call: Callable[[], T]) -> T:
    """What a call returns, tried again as a task is: for work that belongs to no task."""
    for delay in RETRY_DELAYS:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("tried again in %.0f s: %s", delay, error)
            time.sleep(delay * random.uniform(1, 1 + RETRY_JITTER))
    return call()


def slot_name() -> str:
    """Name of the concurrency limit whose slot a stage holds.

    `FMBSEG_GPU_LIMIT` overrides it: give each worker machine a limit of its own. Empty: none.
    """
    return os.environ.get("FMBSEG_GPU_LIMIT", "gpu")


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
    require_slot(name)
    # A renewal that fails must not end hours of work; at worst two stages then share the GPU.
    with concurrency(
        name,
        occupy=1,
        lease_duration=_LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,
    ):
        yield


def require_slot(name: str) -> None:
    """Check that the Prefect server has the concurrency limit.

    Raises:
        ConfigError: it has not.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise ConfigError(
                f"Prefect has no concurrency limit {name!r}: start `make stack`, or run "
                f"`prefect gcl create {name} --limit 1`"
            ) from error
