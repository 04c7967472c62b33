"""Shards on many workers, simulated event by event: utilisation, and what limits it.

    python -m benchmarks.workers [--images 118287] [--shard-size 64] [--workers 64]

The rule is that of `flows/scale.py`: all missing shards are handed out in their order, each to the
worker that is free first (`RULES` has another beside it). A shard takes as long as measured
shards did: `fit` takes their logarithms' mean and deviation. A worker fetches the outs that a stage
reads and loads its models once, pushes each shard to the object store at the rate that all workers
share, and an attempt fails with a probability, at any moment of it, and is made again by whoever is
free, `attempts` times at most. Plain Python, one seed, no clock.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from statistics import fmean, pstdev

from fmbseg.store.shards import DIGEST

_FREE, _COMPUTED, _AGAIN = range(3)  # a worker is free; it has computed; a shard is due again


@dataclass(frozen=True)
class Times:
    """Seconds a shard takes: exp of a normal number.

    Attributes:
        median: seconds.
        sigma: deviation of the logarithm; 0: all alike.
    """

    median: float
    sigma: float = 0.0

    @property
    def mean(self) -> float:
        """Mean of the log-normal distribution, seconds."""
        return self.median * math.exp(self.sigma**2 / 2)

    def draw(self, random_: random.Random, share: float = 1.0) -> float:
        """Seconds of a shard of a share of the pictures."""
        return self.median * share * math.exp(self.sigma * random_.gauss(0, 1))


def fit(seconds: Sequence[float], tail: float = 1.0) -> Times:
    """The log-normal distribution of measured shard times (its maximum likelihood).

    Args:
        seconds: of shards, each above 0.
        tail: factor of the deviation, for other machines than those that were measured.

    Raises:
        ValueError: there are none.
    """
    if not seconds:
        raise ValueError("no measured shards: give some")
    logs = [math.log(each) for each in seconds]
    return Times(math.exp(fmean(logs)), tail * pstdev(logs))


def shard_times(folder: Path) -> list[float]:
    """Seconds that each shard of a loop took, by the times at which they were whole.

    The first is left out, which waited for the models, and the last, which may be smaller.

    Args:
        folder: of a stage's shards under one key, computed by one process without a break.
    """
    whole = [path.stat().st_mtime for path in sorted(folder.glob(f"[0-9]*/{DIGEST}"))]
    return [now - before for before, now in pairwise(whole[:-1])]


@dataclass(frozen=True)
class Pool:
    """What computes.

    Attributes:
        workers: how many.
        start: seconds until a worker can compute: its process, the models, the outs it reads.
        failure: probability that an attempt fails, 0 to 1.
        attempts: of a shard, at most.
        wait: seconds until a failed shard is handed out again.
        megabytes: of a shard, pushed to the store.
        rate: MB/s of the store, that all pushes share; infinite: no store.
        latency: seconds a push takes at least.
        beside: pushes go on while the worker computes its next shard; the project's do not.
    """

    workers: int
    start: float = 0.0
    failure: float = 0.0
    attempts: int = 4
    wait: float = 10.0
    megabytes: float = 0.0
    rate: float = math.inf
    latency: float = 0.0
    beside: bool = False


@dataclass(frozen=True)
class Outcome:
    """Worker-seconds, which add up: busy + moving + lost + starting + idle = workers x makespan.

    Attributes:
        makespan: seconds until the last shard is there.
        busy: computing what was kept.
        moving: pushing to the store.
        lost: computing what failed.
        starting: until workers could compute.
        idle: with nothing to do.
        failures: attempts that failed.
        given_up: shards that failed `attempts` times.
    """

    makespan: float
    busy: float
    moving: float
    lost: float
    starting: float
    idle: float
    failures: int
    given_up: int

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that was spent computing what was kept, 0 to 1."""
        whole = self.busy + self.moving + self.lost + self.starting + self.idle
        return self.busy / whole if whole else 1.0


def simulate(seconds: Sequence[float], pool: Pool, seed: int = 0) -> Outcome:
    """Hand shards out in their order, each to the worker that is free first.

    Args:
        seconds: what each shard takes.
        pool: what computes them.
        seed: of the failures.

    Raises:
        ValueError: no workers.
    """
    if pool.workers < 1:
        raise ValueError("at least one worker is needed")
    random_ = random.Random(seed)
    waiting = deque((index, 1) for index in range(len(seconds)))
    # (when, tie, what, shard, attempt): in the order of time, then as they were made.
    ties = count()
    events = [(pool.start, next(ties), _FREE, 0, 0) for _ in range(pool.workers if seconds else 0)]
    free = failures = given_up = 0
    end = store_free = busy = moving = lost = 0.0
    while events:
        now, _, what, shard, attempt = heapq.heappop(events)
        end = max(end, now) if what != _AGAIN else end
        if what == _COMPUTED:
            # The store takes one after the other: together no faster than its rate.
            store_free = max(store_free, now) + pool.megabytes / pool.rate
            done = max(store_free, now + pool.latency)
            moving += 0.0 if pool.beside else done - now
            end = max(end, done)
            heapq.heappush(events, (now if pool.beside else done, next(ties), _FREE, 0, 0))
            continue
        if what == _AGAIN:
            waiting.append((shard, attempt))
        else:
            free += 1
        while waiting and free:
            shard, attempt = waiting.popleft()
            free -= 1
            if random_.random() >= pool.failure:
                busy += seconds[shard]
                done = now + seconds[shard]
                heapq.heappush(events, (done, next(ties), _COMPUTED, shard, attempt))
                continue
            spent = seconds[shard] * random_.random()
            lost, failures = lost + spent, failures + 1
            heapq.heappush(events, (now + spent, next(ties), _FREE, 0, 0))
            if attempt < pool.attempts:
                again = (now + spent + pool.wait, next(ties), _AGAIN, shard, attempt + 1)
                heapq.heappush(events, again)
            else:
                given_up += 1
    starting = pool.workers * pool.start if seconds else 0.0
    idle = pool.workers * end - busy - moving - lost - starting
    return Outcome(end, busy, moving, lost, starting, idle, failures, given_up)


def shard_shares(images: int, size: int) -> list[float]:
    """Each shard's share of a whole one, in their order: the last may be smaller."""
    whole, rest = divmod(images, size)
    return [1.0] * whole + ([rest / size] if rest else [])


def in_order(seconds: Sequence[float]) -> list[float]:
    """The project's rule: shards as they are numbered."""
    return list(seconds)


def longest_first(seconds: Sequence[float]) -> list[float]:
    """Longest processing time first, which would have to know the times."""
    return sorted(seconds, reverse=True)


RULES: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "in order": in_order,
    "longest first": longest_first,
}


def scenarios(images: int, size: int, times: Times, pool: Pool, seed: int) -> Iterator[str]:
    """The table of docs/scale.md: a row a scenario, Markdown.

    Args:
        images: how many.
        size: pictures a shard.
        times: of a whole shard of that size.
        pool: the workers with everything that can go wrong.
        seed: of times and failures.
    """
    quiet = replace(pool, failure=0.0, megabytes=0.0, latency=0.0)
    tail = replace(times, sigma=max(2 * times.sigma, 0.5))
    cases = [
        ("all alike", size, replace(times, sigma=0.0), quiet, "in order"),
        ("as measured", size, times, quiet, "in order"),
        ("and failures, slow store", size, times, pool, "in order"),
        (
            "the same, pushed beside the next shard",
            size,
            times,
            replace(pool, beside=True),
            "in order",
        ),
        ("failures, slow store and stragglers", size, tail, pool, "in order"),
        ("the same, longest first", size, tail, pool, "longest first"),
        ("the same, shards four times as large", 4 * size, tail, pool, "in order"),
        ("the same, shards a quarter", size // 4, tail, pool, "in order"),
    ]
    yield (
        "| scenario | shards | makespan, h | utilisation | moving | lost | starting | idle | "
        "failures |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, cut, drawn, of, rule in cases:
        factor = cut / size
        random_ = random.Random(seed)
        shares = shard_shares(images, cut)
        seconds = RULES[rule]([drawn.draw(random_, factor * share) for share in shares])
        found = simulate(seconds, replace(of, megabytes=of.megabytes * factor), seed)
        whole = of.workers * found.makespan
        parts = (found.moving, found.lost, found.starting, found.idle)
        shown = " | ".join(f"{100 * part / whole:.1f} %" for part in parts)
        yield (
            f"| {name} | {len(shares)} | {found.makespan / 3600:.2f} | "
            f"{100 * found.utilisation:.1f} % | {shown} | {found.failures} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=118_287, metavar="N")
    parser.add_argument("--shard-size", type=int, default=64, metavar="N")
    parser.add_argument("--workers", type=int, default=64, metavar="N")
    parser.add_argument(
        "--shards", type=Path, metavar="DIR", help="measured ones: .fmbseg/shards/STAGE/KEY"
    )
    parser.add_argument("--median", type=float, metavar="S", help="seconds a shard, in their place")
    parser.add_argument("--sigma", type=float, metavar="X", help="deviation of their logarithm")
    parser.add_argument("--start", type=float, default=11.0, metavar="S", help="of a worker")
    parser.add_argument("--failure", type=float, default=0.01, metavar="P", help="of an attempt")
    parser.add_argument("--megabytes", type=float, default=2.0, metavar="MB", help="of a shard")
    parser.add_argument("--rate", type=float, default=25.0, metavar="MB/S", help="of the store")
    parser.add_argument("--latency", type=float, default=1.0, metavar="S", help="of a push")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given = parser.parse_args()
    times = Times(60.0, 0.1)
    if given.shards:
        times = fit(shard_times(given.shards))
    times = Times(given.median or times.median, times.sigma if given.sigma is None else given.sigma)
    pool = Pool(
        given.workers,
        given.start,
        given.failure,
        megabytes=given.megabytes,
        rate=given.rate,
        latency=given.latency,
    )
    print(f"a shard of {given.shard_size}: median {times.median:.2f} s, sigma {times.sigma:.3f}\n")
    print("\n".join(scenarios(given.images, given.shard_size, times, pool, given.seed)))


if __name__ == "__main__":
    main()
