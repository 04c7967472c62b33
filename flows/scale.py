"""Shards over several processes or machines: Prefect's task runners for Dask and Ray.

A stage's shards are computed by any worker into the store; the stage's own task then finds them
there and publishes them. Workers on machines that share no disk exchange shards and outs through a
folder of any file system that fsspec knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner

from flows.common import RETRIES, gpu_slot, try_again
from flows.parameters import Runner
from flows.progress import PrefectProgress
from flows.shared import SharedStorage
from fmbseg.config import parse_config
from fmbseg.errors import ConfigError, StoreError, one_line
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import open_stage
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.depends import PACKAGE
from fmbseg.stage.stage import Stage
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import DIGEST, MANIFEST, ShardedWork


@dataclass(frozen=True)
class Scale:
    """How shards are shared out.

    Attributes:
        runner: threads (this process alone), dask or ray.
        workers: processes that are started here; not with the address of a running cluster
            in `FMBSEG_DASK_ADDRESS` or `FMBSEG_RAY_ADDRESS`.
        storage: folder or fsspec URL that all workers reach, where they share no workspace.
    """

    runner: Runner = "threads"
    workers: int = 2
    storage: str | None = None

    @property
    def cluster(self) -> str | None:
        """Address of the running cluster; None: processes are started here."""
        return os.environ.get(f"FMBSEG_{self.runner.upper()}_ADDRESS") or None


HERE = Scale()


@dataclass(frozen=True)
class Order:
    """What a worker is to make shards of.

    Attributes:
        stage: its name.
        key: its content key; a worker that comes to another one refuses.
        config: all sections, JSON.
        root: the workspace of the driver, and of a worker without `FMBSEG_PROJECT`.
        storage: see `Scale`.
        code: digest of the driver's code.
        own_slots: whether a worker with `FMBSEG_GPU_LIMIT` takes a slot of that limit for each
            shard; otherwise the driver holds the slot.
    """

    stage: str
    key: str
    config: str
    root: Path
    storage: str | None
    code: str
    own_slots: bool


def share_out(name: str, stage: Stage, scale: Scale) -> int:
    """Let the workers compute the missing shards of a stage; the stage's task publishes them.

    Called within a flow.

    Args:
        name: of the stage.
        stage: opened in the driver's workspace.
        scale: how.

    Returns:
        Number of shards computed.

    Raises:
        FmbsegError: a user's mistake, or a worker with other code, weights or images.
    """
    # For this process alone the stage's own loop does the same with less ado.
    sharded = None if scale.runner == "threads" else stage.shards()
    if sharded is None:
        return 0
    sharded.prepare()
    missing = sharded.missing()
    if not missing:
        return 0
    work = stage.work
    # A worker may have been started in another folder.
    order = Order(
        stage=name,
        key=stage.key,
        config=work.config.model_dump_json(),
        root=work.paths.root.resolve(),
        storage=scale.storage,
        code=_CODE,
        own_slots=scale.cluster is not None,
    )
    storage = SharedStorage(scale.storage) if scale.storage else None
    if storage is not None:
        for earlier in _earlier(order, stage):
            _exchange(storage, partial(storage.push, *earlier, MANIFEST))
    mapped = shards.with_options(task_runner=task_runner(scale), flow_run_name=f"shards-{name}")
    # Processes started here have this machine's slot between them: one each would let them compute
    # one after another. A running cluster's workers are elsewhere, with slots of their own.
    with nullcontext() if order.own_slots else gpu_slot():
        mapped(order, missing)
    if storage is not None:
        for index in missing:
            _exchange(storage, partial(storage.pull, *_shard(order, sharded, index), DIGEST))
    if left := sharded.missing():
        raise StoreError(
            f"{name}: {len(left)} of the workers' {len(missing)} shards are not here: they share "
            "no workspace with this machine; give `storage`, a folder or URL that all reach"
        )
    return len(missing)


def task_runner(scale: Scale) -> TaskRunner[Any]:
    """Prefect's task runner for Dask or Ray.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        if scale.runner == "dask":
            from prefect_dask import DaskTaskRunner as Made

            # A thread a process: torch has threads of its own, `run.threads` of them.
            local = {"n_workers": scale.workers, "threads_per_worker": 1, "dashboard_address": None}
            here = {"cluster_kwargs": local}
        else:
            from prefect_ray import RayTaskRunner as Made

            here = {"init_kwargs": {"num_cpus": scale.workers, "include_dashboard": False}}
    except ImportError as error:
        raise ConfigError(
            f"the runner {scale.runner} needs prefect-{scale.runner}: pip install 'fmbseg[scale]'"
        ) from error
    made: TaskRunner[Any] = Made(address=scale.cluster) if scale.cluster else Made(**here)
    return made


@flow(name="fmbseg-shards", description="Shards of one stage, on the workers of a task runner.")
def shards(order: Order, indices: Sequence[int]) -> None:
    """Compute shards; called by the other flows.

    Args:
        order: of what.
        indices: which.
    """
    futures = compute_shard.map(unmapped(order), list(indices))
    logger = get_run_logger()
    progress = PrefectProgress(order.stage, logger)
    with progress.task(f"shards of {order.stage}", len(indices)) as shown:
        for _ in as_completed(futures):
            shown.advance()
    # The first that failed speaks in its own words.
    workers = {future.result() for future in futures}
    told = "%s: %d shards computed by %d processes"
    logger.info(told, order.stage, len(indices), len(workers))


@task(
    name="shard",
    task_run_name="{order.stage}-{index}",
    description="One shard of a stage into the store",
    cache_policy=NO_CACHE,  # the store remembers
    **RETRIES,
)
def compute_shard(order: Order, index: int) -> str:
    """Compute one shard in this worker's process; models stay loaded from one to the next.

    Args:
        order: of what.
        index: which.

    Returns:
        Host and number of this process.

    Raises:
        StoreError: this worker runs other code, or comes to another content key.
        FmbsegError: as the stage.
    """
    if order.code != _CODE:  # files may have changed since this process imported them
        raise StoreError(f"{order.stage}: a worker runs other code than the flow: restart it")
    # A cluster's workers themselves are the slots, unless each machine has a limit of its own.
    takes_slot = order.own_slots and os.environ.get("FMBSEG_GPU_LIMIT")
    with gpu_slot() if takes_slot else nullcontext():
        work = _open(order)
        if not work.store.has(index):
            work.compute(index)
    if order.storage:
        SharedStorage(order.storage).push(*_shard(order, work, index), DIGEST)
    return f"{os.uname().nodename}:{os.getpid()}"


@lru_cache(maxsize=1)
def _open(order: Order) -> ShardedWork[Any]:
    """The stage in this worker's workspace, its inputs fetched where there is a storage."""
    root = Path(os.environ.get("FMBSEG_PROJECT", order.root))
    config = parse_config(json.loads(order.config))
    stage = open_stage(order.stage, config, Paths(root), silent_progress())
    if order.storage:
        for earlier in _earlier(order, stage):
            SharedStorage(order.storage).pull(*earlier, MANIFEST)
    work = stage.shards()
    if work is None or stage.key != order.key:
        raise StoreError(
            f"{order.stage}: a worker in {root} has other code, weights or images than the flow: "
            "bring both to the same version"
        )
    work.prepare()
    return work


def _earlier(order: Order, stage: Stage) -> list[tuple[Path, str]]:
    """The outs that a stage reads: their folders, and their names in the storage."""
    names = [name for name in stage.row.inputs if name in ROWS]
    return [(stage.work.out(name).place, f"{order.stage}/{order.key}/{name}") for name in names]


def _shard(order: Order, work: ShardedWork[Any], index: int) -> tuple[Path, str]:
    """The folder of a shard, and its name in the storage."""
    # With the layout: under one key shards may be cut in several ways.
    layout = f"{len(work.records)}x{work.size}"
    return work.store.shard_path(index), f"{order.stage}/{order.key}/{layout}/{index:06d}"


def _exchange(storage: SharedStorage, work: Callable[[], None]) -> None:
    """Push or pull one folder; what may pass is tried again, as Prefect does for the workers.

    Raises:
        StoreError: the storage failed for good, in one line; or as `SharedStorage.pull`.
    """
    try:
        try_again(f"storage {storage.url}", work)
    except OSError as error:
        reason = one_line(error)
        raise StoreError(f"storage {storage.url} failed ({reason}): run it again") from error


def require_same_code() -> None:
    """Check that the package's files are those which this process runs.

    Content keys are made of the files. An edit during a run of hours would otherwise put what the
    old code computes under the new code's key.

    Raises:
        StoreError: they have changed.
    """
    if _code() != _CODE:
        raise StoreError("fmbseg's code has changed since this run began: start the run again")


def _code() -> str:
    return json_digest([[path.name, file_digest(path)] for path in sorted(PACKAGE.rglob("*.py"))])


# Of the files as they were when this process imported them.
_CODE = _code()
