"""The one place that decides device, dtype, threads and determinism."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import torch

from fmbseg.config import DeviceName, RunSection
from fmbseg.errors import ConfigError

T = TypeVar("T")
_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class DeviceChoice:
    """Where and in which precision models run."""

    device: torch.device
    dtype: torch.dtype


def choose_device(run: RunSection) -> DeviceChoice:
    """Choose device and dtype, and set this process's threads, deterministic flags and memory.

    Raises:
        ConfigError: `run.device` or `run.dtype` asks for what this machine cannot do.
    """
    set_threads(run.threads)
    keep_freed_memory()
    return find_device(run.device, run.dtype)


def find_device(
    device: DeviceName = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> DeviceChoice:
    """Choose device and dtype; the process stays as it is.

    `auto` takes CUDA where there is a device, else the CPU. Apple's GPUs are taken when `mps` is
    asked for by name: not all operators have a deterministic form there. `auto` as a dtype is
    half precision on CUDA and float32 elsewhere; on Apple's GPUs bfloat16 needs macOS 14.

    Raises:
        ConfigError: this machine cannot do what is asked.
    """
    if device == "mps":
        return _apple(dtype)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError(
            "run.device is cuda, but torch sees no CUDA device: use --set run.device=cpu,"
            " or install a torch build and a driver that fit the GPU"
        )
    if device == "cpu" or not available:
        if dtype == "float16":
            raise ConfigError(
                "run.dtype is float16, which is for GPUs: on the CPU use --set run.dtype=float32"
            )
        return DeviceChoice(torch.device("cpu"), _DTYPES.get(dtype, torch.float32))
    gpu = torch.device("cuda", torch.cuda.current_device())
    # Emulated bfloat16 does not count: it is slower than float16 there.
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return DeviceChoice(gpu, _DTYPES.get(dtype, torch.bfloat16 if bfloat16 else torch.float16))


def _apple(dtype: Literal["auto", "float32", "bfloat16", "float16"]) -> DeviceChoice:
    if not torch.backends.mps.is_available():
        raise ConfigError(
            "run.device is mps, but torch sees no GPU of Apple's: use --set run.device=cpu, or "
            "cuda on a machine that has one"
        )
    if dtype == "bfloat16" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ConfigError(
            "run.dtype is bfloat16, which mps has from macOS 14 on: use --set run.dtype=float32"
        )
    return DeviceChoice(torch.device("mps"), _DTYPES.get(dtype, torch.float32))


def set_threads(count: int) -> None:
    """Set the threads of torch's operators and make them deterministic.

    Sums differ between thread counts; the count is therefore explicit and part of every content
    key, whatever the scheduler's worker has set (some set OMP_NUM_THREADS=1).
    """
    torch.set_num_threads(count)
    # cuBLAS reads this when it starts; without it matrix products may vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only a warning: an operator without a deterministic form must not stop a run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def keep_freed_memory() -> bool:
    """Have malloc keep what tensors free for the next ones, up to 512 MB.

    glibc maps each larger tensor anew, and the kernel clears every page of it: a tenth to a fifth
    of the processor time of stage 1.

    Returns:
        Whether this process's C library has taken it; others than glibc are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # malloc.h: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1; 1 is success.
    return bool(mallopt(-3, 256 << 20) == mallopt(-1, 512 << 20) == 1)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Mixed precision for a model with float32 weights; none where `dtype` is float32."""
    mixed = dtype != torch.float32
    return torch.autocast(device.type, dtype if mixed else None, enabled=mixed)


def with_oom_backoff(batch_size: int, work: Callable[[int], T]) -> T:
    """Return `work(batch_size)`; after an out-of-memory error try again with half the batch.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for a batch of one either.
    """
    while True:
        try:
            return work(batch_size)
        except RuntimeError as error:
            if batch_size <= 1 or not _is_out_of_memory(error):
                raise
        # Outside the handler: its traceback holds the tensors of the failed attempt.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
        batch_size //= 2
        _log.warning("out of memory: trying again with a batch of %d", batch_size)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # Apple's has no class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


def batches_with_backoff(
    count: int, batch_size: int, work: Callable[[slice], T]
) -> Iterator[tuple[slice, T]]:
    """Work on `count` rows, `batch_size` at a time; out-of-memory errors halve the batch.

    The halved batch holds for the rest of these rows and no longer, so that a result never depends
    on what was computed before it. As long as memory suffices the batches are those asked for,
    whose size content keys name where it matters. After a halving a result may differ from theirs
    in the last bit, as that of a smaller `batch_size` may: kernels add up in another order.

    Args:
        count: rows.
        batch_size: at most so many at once.
        work: on the rows of a slice; called again from the same row where memory ran out.

    Yields:
        The slice and its result, in order.

    Raises:
        torch.OutOfMemoryError: memory does not suffice for a batch of one either.
    """

    def attempt(start: int, size: int) -> tuple[slice, T]:
        rows = slice(start, start + size)
        return rows, work(rows)

    start = 0
    while start < count:
        asked = min(batch_size, count - start)
        done = with_oom_backoff(asked, partial(attempt, start))
        size = done[0].stop - start
        if size < asked:
            batch_size = size
        start += size
        yield done
        del done  # not held while the next batch is computed
