"""One claim, ours beside the alternative: equal inputs, weights and threads, in turn, as a ratio.

A machine's speed drifts, and others may work on it. So both take turns, each turn of one has a
ratio with the turn of the other beside it, and what is stated is the median ratio with its spread
(the quartiles). On a CPU processor time counts, of all threads: what others do to the clock on the
wall does not. On CUDA it is the wall's time, with the device waited for.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True)
class Claim:
    """What is claimed, and how it is tried.

    Attributes:
        name: as in `python -m benchmarks NAME`.
        says: the claim, in a few words.
        least: the ratio of the alternative's time to ours that is claimed.
        prepare: makes both sides on a device: (ours, the alternative). What it does is not timed.
        same: whether both results are equal, in words for the table.
        rounds: turns of each.
        least_memory: the ratio of the alternative's memory to ours that is claimed; None: none is.
    """

    name: str
    says: str
    least: float
    prepare: Callable[[str], tuple[Work, Work]]
    same: Callable[[Any, Any], str]
    rounds: int = 5
    least_memory: float | None = None


@dataclass(frozen=True)
class Finding:
    """What came of it; times in seconds a turn, memory in MB above what both begin with."""

    name: str
    says: str
    device: str
    ours: float
    other: float
    ratio: float
    quartiles: tuple[float, float]
    least: float
    memory_ours: float
    memory_other: float
    least_memory: float | None
    result: str

    @property
    def holds(self) -> bool:
        """Whether what is claimed was found."""
        memory = self.least_memory is None or (
            self.memory_other >= self.least_memory * self.memory_ours
        )
        return self.ratio >= self.least and memory


def compare(claim: Claim, device: str, threads: int) -> Finding:
    """Try a claim; the first turn of each, which warms up, is not counted."""
    _begin(threads)
    ours, other = claim.prepare(device)
    result = claim.same(ours(), other())
    turns = []
    for turn in range(claim.rounds):
        # Who begins alternates: neither always finds the other's caches.
        sides = (ours, other) if turn % 2 else (other, ours)
        spent = {side: _seconds(side, device) for side in sides}
        turns.append((spent[ours], spent[other]))
    ratios = [theirs / mine for mine, theirs in turns]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    memory = [_memory(claim, side, device, threads) for side in (0, 1)]
    return Finding(
        claim.name,
        claim.says,
        device,
        statistics.median(mine for mine, _ in turns),
        statistics.median(theirs for _, theirs in turns),
        statistics.median(ratios),
        (low, high),
        claim.least,
        *memory,
        claim.least_memory,
        result,
    )


def _begin(threads: int) -> None:
    from fmbseg.machine.device import set_threads

    set_threads(threads)


def _seconds(work: Work, device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _memory(claim: Claim, side: int, device: str, threads: int) -> float:
    """Peak memory of one turn in a process of its own, above what it had before, MB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, claim.name, side, device, threads).result()


def _measure(name: str, side: int, device: str, threads: int) -> float:
    from benchmarks.claims import CLAIMS

    _begin(threads)
    work = CLAIMS[name].prepare(device)[side]
    before = _reset_peak(device)
    work()
    return _peak(device) - before


def _reset_peak(device: str) -> float:
    """Forget what preparing took, where the system can; gives what is in use now."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif (place := Path("/proc/self/clear_refs")).exists():
        place.write_text("5")  # Linux: the peak begins anew
    return _peak(device)


def _peak(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    if (status := Path("/proc/self/status")).exists():
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS: bytes
