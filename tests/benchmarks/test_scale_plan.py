"""The plan's formulas against sums by hand, and what the command says of a slip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scale_plan import MEASURED, Plan, tables, throughputs


def test_hours_and_cost_are_sums_by_hand() -> None:
    rates = dict.fromkeys(MEASURED, 10.0)
    plan = Plan(72_000, rates, workers=4, utilisation=0.5, price=3.0, epochs=5)
    assert plan.worker_hours("masks") == 2.0  # 72,000 / 10 / 3600
    assert plan.hours("masks") == 1.0  # four workers, half of their time
    assert plan.cost("masks") == 12.0  # four workers for an hour, at 3
    assert plan.hours("align") == plan.worker_hours("align") == 10.0  # five epochs, one worker
    assert plan.cost("align") == 30.0
    # One shard keeps one worker busy.
    assert Plan(64, rates, workers=64).hours("masks") == pytest.approx(64 / 10 / 3600)


def test_features_are_patches_times_bytes() -> None:
    assert Plan(1000, patches=100, channels=768).feature_bytes == 1000 * 100 * 1536
    assert Plan(1000, patches=100, channels=768, code=96).feature_bytes == 1000 * 100 * 96


def test_packs_are_few_files_of_the_same_bytes() -> None:
    disk = Plan(118_287, vocabularies=5).disk()
    loose, packed = disk["label maps, one PNG each"], disk["label maps, `run.pack_labels`"]
    assert loose[0] == 591_435
    assert packed[0] < loose[0] / 200
    assert packed[1] == loose[1]


def test_a_readers_own_numbers_count() -> None:
    own = throughputs("masks=8,align=200.5")
    assert own == MEASURED | {"masks": 8.0, "align": 200.5}
    assert any("| masks | 8 | 4.1 |" in line for line in tables(Plan(118_287, own)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--throughput=mask=8", "'mask' is no stage"),
        ("--throughput=masks=0", "above 0"),
        ("--throughput=masks", "above 0"),
        ("--workers=0", "--workers must be above 0"),
    ],
)
def test_a_slip_is_told_in_a_line(given: str, said: str, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_plan", given],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
