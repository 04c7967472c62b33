"""What every task shares: its cache key, when it is tried again, and the slot it takes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.tasks import Task, exponential_backoff

from fmbseg.errors import ConfigError

RETRIES = 3
RETRY_DELAYS = exponential_backoff(backoff_factor=2)  # 2, 4, 8 seconds
RETRY_JITTER = 0.5
_LEASE_SECONDS = 60.0
# Disks, network file systems and sockets that may answer the next time. A missing file, missing
# rights and a full disk stay as they are.
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EINTR, errno.ESTALE, errno.ENOMEM}
_PASSING |= {errno.ENFILE, errno.EMFILE, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}


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
    if isinstance(error, torch.OutOfMemoryError | MemoryError | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def retry_transient(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition: `is_transient` of what the task raised."""
    return is_transient(state.result(raise_on_failure=False))


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
