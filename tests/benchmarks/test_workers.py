"""The simulated workers: their time adds up, and trivial cases are what a formula says."""

from __future__ import annotations

import math
import os
import random
from dataclasses import astuple
from pathlib import Path

import pytest

from benchmarks.workers import (
    RULES,
    Pool,
    Times,
    fit,
    longest_first,
    scenarios,
    shard_shares,
    shard_times,
    simulate,
)
from fmbseg.store.shards import DIGEST


@pytest.mark.parametrize("workers", [1, 7, 64])
@pytest.mark.parametrize("shards", [1, 6, 7, 8, 130])
def test_equal_shards_take_the_closed_form(workers: int, shards: int) -> None:
    """makespan = start + ceil(shards / workers) x seconds."""
    found = simulate([3.0] * shards, Pool(workers, start=5.0))
    assert found.makespan == 5.0 + 3.0 * math.ceil(shards / workers)
    assert found.busy == 3.0 * shards
    assert (found.lost, found.moving, found.failures) == (0, 0, 0)


def test_one_worker_takes_the_sum() -> None:
    seconds = [4.0, 1.0, 2.5]
    found = simulate(seconds, Pool(1, megabytes=10.0, rate=5.0))
    assert found.makespan == sum(seconds) + 3 * 2.0
    assert found.idle == 0


def test_a_slow_store_is_the_bottleneck() -> None:
    """With computing that takes no time the store's rate alone counts."""
    found = simulate([0.0] * 50, Pool(8, megabytes=3.0, rate=1.5))
    assert found.makespan == pytest.approx(50 * 3.0 / 1.5)


def test_the_store_serves_who_comes_first() -> None:
    """A long shard that was handed out first does not keep others waiting."""
    found = simulate([100.0, 1.0], Pool(2, megabytes=1.0, rate=1.0))
    assert found.moving == 2.0
    assert found.makespan == 101.0


def test_a_push_beside_the_next_shard_costs_the_last_one_alone() -> None:
    slow = Pool(1, megabytes=1.0, rate=1.0, beside=True)
    found = simulate([5.0, 5.0, 5.0], slow)
    assert (found.makespan, found.moving, found.idle) == (16.0, 0.0, 1.0)


def test_shard_times_are_read_from_a_store(tmp_path: Path) -> None:
    for number, when in enumerate([100, 130, 135, 142, 143]):
        folder = tmp_path / f"{number:06d}"
        folder.mkdir()
        (folder / DIGEST).write_text("{}")
        os.utime(folder / DIGEST, (when, when))
    (tmp_path / "layout.json").write_text("{}")
    assert shard_times(tmp_path) == [30.0, 5.0, 7.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_time_adds_up(seed: int) -> None:
    random_ = random.Random(seed)
    times = Times(30.0, random_.uniform(0, 1.5))
    pool = Pool(
        workers=random_.randint(1, 80),
        start=random_.uniform(0, 100),
        failure=random_.choice([0, 0.01, 0.3]),
        attempts=random_.randint(1, 5),
        megabytes=5.0,
        rate=random_.choice([math.inf, 2.0, 20.0]),
        latency=random_.uniform(0, 3),
        beside=random_.random() < 0.3,
    )
    seconds = [times.draw(random_) for _ in range(random_.randint(0, 300))]
    found = simulate(seconds, pool, seed)
    parts = found.busy + found.moving + found.lost + found.starting + found.idle
    assert parts == pytest.approx(pool.workers * found.makespan)
    assert min(astuple(found)) >= -1e-6
    # Counted from the shards themselves: what was not given up was computed once.
    assert found.busy <= sum(seconds) + 1e-6
    if not found.given_up:
        assert found.busy == pytest.approx(sum(seconds))
    assert simulate(seconds, pool, seed) == found


def test_failures_are_as_many_as_their_probability() -> None:
    found = simulate([1.0] * 20_000, Pool(10, failure=0.1, attempts=20))
    assert found.failures / (20_000 + found.failures) == pytest.approx(0.1, rel=0.05)
    assert found.lost == pytest.approx(0.5 * found.failures, rel=0.05)
    assert found.given_up == 0
    assert simulate([1.0] * 10, Pool(3, failure=1.0, attempts=2)).given_up == 10


def test_any_order_is_within_grahams_bound() -> None:
    """List scheduling takes at most (2 - 1/m) times the best; longest first 4/3 - 1/(3m)."""
    random_ = random.Random(3)
    for _ in range(20):
        seconds = [Times(10.0, 1.0).draw(random_) for _ in range(90)]
        least = max(sum(seconds) / 8, max(seconds))
        for rule in RULES.values():
            found = simulate(rule(seconds), Pool(8)).makespan
            assert least - 1e-9 <= found <= least * (2 - 1 / 8) + 1e-9
    best = [5.0, 4.0, 3.0, 3.0, 3.0]  # 9 on two workers; in order of arrival it can be 10
    assert simulate(longest_first(best), Pool(2)).makespan == 10.0
    assert simulate([3.0, 3.0, 3.0, 4.0, 5.0], Pool(2)).makespan == 11.0


def test_the_fit_finds_what_was_drawn() -> None:
    random_ = random.Random(0)
    drawn = [Times(40.0, 0.3).draw(random_) for _ in range(5000)]
    found = fit(drawn)
    assert found.median == pytest.approx(40.0, rel=0.02)
    assert found.sigma == pytest.approx(0.3, rel=0.05)
    assert sum(drawn) / len(drawn) == pytest.approx(found.mean, rel=0.02)
    with pytest.raises(ValueError, match="measured"):
        fit([])


def test_shards_hold_all_pictures() -> None:
    shares = shard_shares(118_287, 64)
    assert len(shares) == 1849
    assert sum(shares) * 64 == pytest.approx(118_287)
    assert shard_shares(128, 64) == [1.0, 1.0]


def test_64_workers_are_used_well() -> None:
    """What docs/scale.md says: at least 90 %, but for heavy stragglers."""
    pool = Pool(64, start=60.0, failure=0.01, megabytes=2.0, rate=25.0, latency=1.0)
    rows = list(scenarios(118_287, 64, Times(60.0, 0.378), pool, seed=0))[2:]
    used = {row.split("|")[1].strip(): float(row.split("|")[4].strip(" %")) for row in rows}
    assert len(used) == 8
    enough = ("as measured", "and failures, slow store", "the same, shards a quarter")
    assert min(used[name] for name in enough) >= 90
    assert used["failures, slow store and stragglers"] < 90
