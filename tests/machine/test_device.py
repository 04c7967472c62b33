from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fmbseg.config import RunSection
from fmbseg.errors import ConfigError
from fmbseg.machine.device import (
    batches_with_backoff,
    choose_device,
    find_device,
    set_threads,
    with_oom_backoff,
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


def test_cpu_is_float32() -> None:
    choice = choose_device(RunSection(device="cpu"))
    assert (choice.device.type, choice.dtype) == ("cpu", torch.float32)


def test_cpu_with_a_given_dtype() -> None:
    assert choose_device(RunSection(device="cpu", dtype="bfloat16")).dtype == torch.bfloat16


def test_float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.dtype"):
        choose_device(RunSection(device="cpu", dtype="float16"))


@needs_no_cuda
def test_auto_without_cuda_is_the_cpu() -> None:
    assert choose_device(RunSection(device="auto")).device.type == "cpu"


@needs_no_cuda
def test_cuda_without_cuda_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.device=cpu"):
        choose_device(RunSection(device="cuda"))


@needs_cuda
def test_auto_with_cuda_takes_the_gpu_in_half_precision() -> None:
    choice = choose_device(RunSection(device="auto"))
    assert choice.device.type == "cuda"
    assert choice.dtype in (torch.bfloat16, torch.float16)


@needs_cuda
def test_cuda_with_a_given_dtype() -> None:
    assert choose_device(RunSection(device="cuda", dtype="float32")).dtype == torch.float32


needs_no_mps = pytest.mark.skipif(
    torch.backends.mps.is_available(), reason="needs a machine without a GPU of Apple's"
)


@needs_no_mps
def test_mps_without_mps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.device is mps, but .* run\.device=cpu"):
        choose_device(RunSection(device="mps", dtype="float16"))


def test_what_mps_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which choice is made on a Mac, of two ages; what it computes there is not tried here."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for newer in (True, False):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_, now=newer: now)
        for asked in ("auto", "float32", "float16"):
            choice = find_device("mps", asked)
            assert choice.device.type == "mps"
            assert choice.dtype == (torch.float16 if asked == "float16" else torch.float32)
        if newer:
            assert find_device("mps", "bfloat16").dtype == torch.bfloat16
        else:
            with pytest.raises(ConfigError, match="from macOS 14 on"):
                find_device("mps", "bfloat16")


def test_a_device_is_found_without_a_trace() -> None:
    torch.set_num_threads(3)
    assert find_device("cpu").dtype == torch.float32
    assert torch.get_num_threads() == 3


def test_choice_sets_the_threads_of_the_run() -> None:
    choose_device(RunSection(device="cpu", threads=2))
    assert torch.get_num_threads() == 2


def test_deterministic_flags() -> None:
    set_threads(1)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark


def test_backoff_halves_until_it_fits() -> None:
    tried = []

    def work(batch_size: int) -> str:
        tried.append(batch_size)
        if batch_size > 3:
            raise torch.OutOfMemoryError("too much")
        return f"done with {batch_size}"

    assert with_oom_backoff(20, work) == "done with 2"
    assert tried == [20, 10, 5, 2]


def test_backoff_knows_the_error_of_mps_and_no_other() -> None:
    tried = []

    def work(batch_size: int) -> int:
        tried.append(batch_size)
        if batch_size > 3:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")
        return batch_size

    assert with_oom_backoff(8, work) == 2

    def broken(batch_size: int) -> int:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        with_oom_backoff(8, broken)


def test_backoff_gives_up_at_one() -> None:
    tried = []

    def work(batch_size: int) -> None:
        tried.append(batch_size)
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        with_oom_backoff(3, work)
    assert tried == [3, 1]


def test_batches_stay_halved_to_the_end_and_no_row_is_lost() -> None:
    tried = []

    def work(rows: slice) -> list[int]:
        tried.append((rows.start, rows.stop))
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError("too much")
        return list(range(rows.start, rows.stop))

    done = list(batches_with_backoff(7, 12, work))
    assert [found for _, found in done] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(list(range(rows.start, rows.stop)) == found for rows, found in done)
    assert tried == [(0, 7), (0, 3), (3, 6), (6, 7)]
    assert list(batches_with_backoff(0, 4, work)) == []


def test_batches_are_those_asked_for_while_memory_suffices() -> None:
    done = list(batches_with_backoff(10, 4, lambda rows: None))
    assert [rows for rows, _ in done] == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_a_memory_peak_in_the_middle_repeats_that_batch_only() -> None:
    tried = []

    def work(rows: slice) -> None:
        tried.append((rows.start, rows.stop))
        if tried.count((4, 8)) == 1 and tried[-1] == (4, 8):
            raise torch.OutOfMemoryError("another process")

    rows = [(each.start, each.stop) for each, _ in batches_with_backoff(9, 4, work)]
    assert rows == [(0, 4), (4, 6), (6, 8), (8, 9)]
    assert tried == [(0, 4), (4, 8), (4, 6), (6, 8), (8, 9)]


def test_backoff_lets_other_errors_through() -> None:
    def work(batch_size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        with_oom_backoff(8, work)


@needs_cuda
def test_backoff_on_real_exhaustion() -> None:
    total = torch.cuda.get_device_properties(0).total_memory

    def work(batch_size: int) -> int:
        # Each unit takes a quarter of the memory.
        return torch.empty(batch_size, total // 4, dtype=torch.uint8, device="cuda").shape[0]

    assert with_oom_backoff(16, work) in (1, 2)


# Pages that the kernel brings while forty arrays of 32 MB are made and freed.
FAULTS = """
import platform, resource
import numpy
from fmbseg.machine.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        numpy.ones(32 << 20, numpy.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
faults()
print(platform.libc_ver()[0] or "other", int(kept), before, faults())
"""


def test_what_is_freed_is_not_brought_anew_by_the_kernel() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    library, kept, before, after = done.stdout.split()
    if library != "glibc":
        pytest.skip(f"the C library here is {library}")
    assert kept == "1"
    assert int(after) < int(before) / 20
