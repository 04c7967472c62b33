"""Shards over several processes or machines: Prefect's task runners, threads, Dask or Ray.

A stage's shards are computed by any worker into the store; the stage's own task then finds them
there and publishes them. Workers on machines that share no disk exchange shards through a folder
of any file system that fsspec knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fmbseg.pseudo.plan import STAGES as PSEUDO_STAGES
from prefect import flow, get_run_logger, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

import fmbseg
from flows.common import (
    RETRIES,
    RETRY_DELAYS,
    RETRY_JITTER,
    gpu_slot,
    is_transient,
    retry_transient,
    try_again,
)
from flows.progress import PrefectProgress
from flows.shared import SharedStorage
from fmbseg.config import Config, parse_config
from fmbseg.errors import ConfigError, StoreError
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import stage_shards
from fmbseg.store.digest import file_digest, json_digest, source_digests
from fmbseg.store.paths import Paths
from fmbseg.store.shards import DIGEST, MANIFEST, ShardedWork, verify_published

Runner = Literal["threads", "dask", "ray"]
Workers = Annotated[int, Field(ge=1)]
Storage = Annotated[str, Field(pattern=r"^(/|[a-z0-9+]+://)")] | None


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


HERE = Scale()
_CLUSTERS = {"dask": "FMBSEG_DASK_ADDRESS", "ray": "FMBSEG_RAY_ADDRESS"}


def task_runner(scale: Scale) -> TaskRunner[Any]:
    """Prefect's task runner.

    Raises:
        ConfigError: its package is not installed.
    """
    address = _cluster(scale)
    try:
        if scale.runner == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            # A thread a process: torch has threads of its own, `run.threads` of them.
            cluster = {"n_workers": scale.workers, "threads_per_worker": 1}
            dask: TaskRunner[Any] = (
                DaskTaskRunner(address=address)
                if address
                else DaskTaskRunner(cluster_kwargs=cluster | {"dashboard_address": None})
            )
            return dask
        if scale.runner == "ray":
            from prefect_ray.task_runners import RayTaskRunner

            here = {"num_cpus": scale.workers, "include_dashboard": False}
            ray: TaskRunner[Any] = (
                RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=here)
            )
            return ray
    except ImportError as error:
        raise ConfigError(
            f"the runner {scale.runner} needs prefect-{scale.runner}: pip install 'fmbseg[scale]'"
        ) from error
    return ThreadPoolTaskRunner(max_workers=1)


def share_out(name: str, key: str, config: Config, root: Path, scale: Scale) -> int:
    """Let the workers compute the missing shards of a stage; the stage's task publishes them.

    Called within a flow.

    Args:
        name: of the stage.
        key: its content key; a worker that comes to another one refuses.
        config: all sections.
        root: the workspace, also of the workers, unless their environment has `FMBSEG_PROJECT`.
        scale: how.

    Returns:
        Number of shards computed.

    Raises:
        FmbsegError: a user's mistake, or a worker with other code, weights or images.
    """
    if scale.runner == "threads":
        return 0  # the stage's own loop does the same with less ado
    sharded = stage_shards(name, config, Paths(root), silent_progress())
    if sharded is None:
        return 0
    sharded.prepare()
    missing = sharded.missing()
    if not missing:
        return 0
    storage = SharedStorage(scale.storage) if scale.storage else None
    # By content: under one key a table's bytes depend on how its shards were cut.
    inputs = {
        earlier: file_digest(Paths(root).pseudo / earlier / MANIFEST) for earlier in _inputs(name)
    }
    if storage is not None:
        for earlier, digest in inputs.items():
            place = Paths(root).pseudo / earlier
            _exchange(storage, partial(storage.push, place, _out(earlier, digest), MANIFEST))
    mapped = shards.with_options(task_runner=task_runner(scale), flow_run_name=f"shards-{name}")
    # Processes started here have this machine's slot between them: one each would let them compute
    # one after another. A running cluster's workers are elsewhere, with slots of their own.
    elsewhere = _cluster(scale) is not None
    with nullcontext() if elsewhere else gpu_slot():
        # A worker may have been started in another folder.
        mapped(name, key, missing, inputs, config, root.resolve(), scale.storage, _CODE, elsewhere)
    if storage is not None:
        for index in missing:
            place = sharded.store.shard_path(index)
            _exchange(storage, partial(storage.pull, _shard(sharded, index), place, DIGEST))
    if left := sharded.missing():
        raise StoreError(
            f"{name}: {len(left)} of the workers' {len(missing)} shards are not here: they share "
            "no workspace with this machine; give `storage`, a folder or URL that all reach"
        )
    return len(missing)


@flow(name="fmbseg-shards", description="Shards of one stage, on the workers of a task runner.")
def shards(
    stage: str,
    key: str,
    indices: Sequence[int],
    inputs: Mapping[str, str],
    config: Config,
    root: Path,
    storage: str | None,
    code: str,
    own_slots: bool,
) -> None:
    """Compute shards; called by the other flows.

    Args:
        stage: its name.
        key: its content key.
        indices: which shards.
        inputs: digest of the manifest of each earlier out that the stage reads.
        config: all sections.
        root: the workspace.
        storage: see `Scale`.
        code: digest of the driver's code.
        own_slots: see `compute_shard`.
    """
    futures = compute_shard.map(
        stage=unmapped(stage),
        key=unmapped(key),
        index=list(indices),
        inputs=unmapped(inputs),
        config=unmapped(config),
        root=unmapped(root),
        storage=unmapped(storage),
        code=unmapped(code),
        own_slots=unmapped(own_slots),
    )
    logger = get_run_logger()
    with PrefectProgress(stage, logger).task(f"shards of {stage}", len(indices)) as progress:
        for _ in as_completed(futures):
            progress.advance()
    # The first that failed speaks in its own words.
    workers = {future.result() for future in futures}
    told = "%s: %d shards computed by %d processes"
    logger.info(told, stage, len(indices), len(workers))


@task(
    name="shard",
    task_run_name="{stage}-{index}",
    description="One shard of a stage into the store",
    cache_policy=NO_CACHE,  # the store remembers
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=retry_transient,
)
def compute_shard(
    stage: str,
    key: str,
    index: int,
    inputs: Mapping[str, str],
    config: Config,
    root: Path,
    storage: str | None,
    code: str,
    own_slots: bool,
) -> str:
    """Compute one shard in this worker's process; models stay loaded from one to the next.

    Args:
        stage: its name.
        key: its content key.
        index: which shard.
        inputs: digest of the manifest of each earlier out that the stage reads.
        config: all sections.
        root: the workspace of the driver.
        storage: see `Scale`.
        code: digest of the driver's code.
        own_slots: take a slot of the limit that this worker's `FMBSEG_GPU_LIMIT` names, if it names
            one; otherwise the driver holds the slot.

    Returns:
        Host and number of this process.

    Raises:
        StoreError: this worker runs other code, or comes to another content key.
        FmbsegError: as the stage.
    """
    if code != _CODE:  # files may have changed since this process imported them
        raise StoreError(f"{stage}: a worker runs other code than the flow: restart it")
    root = Path(os.environ.get("FMBSEG_PROJECT", root))
    shared = SharedStorage(storage) if storage else None
    if shared is not None:
        for earlier, digest in inputs.items():
            place = Paths(root).pseudo / earlier
            if not verify_published(place) or file_digest(place / MANIFEST) != digest:
                shared.pull(_out(earlier, digest), place, MANIFEST)
    with ExitStack() as slot:
        # A cluster's workers themselves are the slots, unless each machine has a limit of its own.
        if own_slots and os.environ.get("FMBSEG_GPU_LIMIT"):
            slot.enter_context(gpu_slot())
        work = _work(stage, key, config.model_dump_json(), root)
        if not work.store.has(index):
            work.compute(index)
    if shared is not None:
        shared.push(work.store.shard_path(index), _shard(work, index), DIGEST)
    return f"{os.uname().nodename}:{os.getpid()}"


@lru_cache(maxsize=1)
def _work(stage: str, key: str, config: str, root: Path) -> ShardedWork[Any]:
    work = stage_shards(stage, parse_config(json.loads(config)), Paths(root), silent_progress())
    if work is None or work.store.key != key:
        raise StoreError(
            f"{stage}: a worker in {root} has other code, weights or images than the flow: bring "
            "both to the same version"
        )
    work.prepare()
    return work


def _cluster(scale: Scale) -> str | None:
    """Address of the running cluster; None: processes are started here."""
    return os.environ.get(_CLUSTERS.get(scale.runner, "")) or None


def _inputs(stage: str) -> tuple[str, ...]:
    return tuple(PSEUDO_STAGES[stage].inputs) if stage in PSEUDO_STAGES else ()


def _out(stage: str, digest: str) -> str:
    return f"outs/{stage}/{digest}"


def _shard(work: ShardedWork[Any], index: int) -> str:
    # With the layout: under one key shards may be cut in several ways.
    cut = f"{len(work.records)}x{work.size}"
    return f"shards/{work.store.stage}/{work.store.key}/{cut}/{index:06d}"


def _exchange(storage: SharedStorage, work: Callable[[], None]) -> None:
    """Push or pull one folder; what may pass is tried again, as Prefect does for the workers.

    Raises:
        StoreError: the storage failed for good, in one line; or as `SharedStorage.pull`.
    """
    try:
        try_again(work)
    except Exception as error:
        if not isinstance(error, OSError) and not is_transient(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
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
    return json_digest(source_digests([Path(fmbseg.__file__).parent]))


# Of the files as they were when this process imported them.
_CODE = _code()
