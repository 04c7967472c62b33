"""The threshold sweep against scoring once for each threshold."""

from __future__ import annotations

import numpy as np
import pytest

from fmbseg.data.vocabulary import Vocabulary, VocabularyClass
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import PixelCounts, benchmark_result
from fmbseg.evaluate.metrics import ConfusionMatrix
from fmbseg.evaluate.sweep import ThresholdSweep, grid
from fmbseg.inference.decision import Decision, Threshold

NAMES = ("background", "dog", "cat", "cow", "sheep")
VOCABULARY = Vocabulary("five", tuple(map(VocabularyClass, NAMES)), background=0)


def decisions(value: float, count: int = 3) -> list[tuple[Decision, np.ndarray]]:
    found = []
    rng = np.random.default_rng(0)
    for _ in range(count):
        shape = tuple(rng.integers(20, 40, 2))
        truth = rng.integers(0, 5, shape)
        best = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, 5, shape))
        truth[rng.random(shape) < 0.2] = 255
        # Confidence on the very thresholds, too: there the pixel keeps its class.
        confidence = (rng.integers(0, 41, shape) / 40).astype(np.float32)
        found.append((Decision(best, Threshold(confidence, "probability", value, 0)), truth))
    return found


def test_every_threshold_equals_scoring_with_it() -> None:
    thresholds = grid(Threshold(np.zeros((1, 1), np.float32), "probability", 0.1, 0))
    sweep = ThresholdSweep(5, 0, thresholds)
    for decision, truth in decisions(0.1):
        assert decision.threshold is not None
        sweep.update(decision.best, decision.threshold.confidence, truth)
    for index, value in enumerate(thresholds):
        matrix = ConfusionMatrix(5)
        for decision, truth in decisions(value):
            matrix.update(decision.labels, truth)
        assert (sweep.at(index).matrix == matrix.matrix).all(), value
    # The thresholds matter, or the comparison would say nothing.
    assert len({round(miou, 6) for miou in sweep.mious()}) > 5


def test_the_oracle_stands_apart_from_the_result() -> None:
    counts = PixelCounts(5)
    for decision, truth in decisions(0.1):
        counts.add(decision, truth, seen=False)
    result = benchmark_result(
        "voc21", "m", counts, VOCABULARY, protocol={}, checkpoint_sha256=None, scenes=False
    )
    oracle = result["threshold_oracle"]
    assert "not a result" in oracle["note"]
    assert oracle["miou"]["0.1"] == pytest.approx(result["miou"], abs=1e-12)
    assert oracle["best_miou"] == max(oracle["miou"].values())
    assert oracle["miou"][str(oracle["best_threshold"])] == oracle["best_miou"]
    assert oracle["best_miou"] > result["miou"]


@pytest.mark.parametrize("value", [0.1, 0.98, 0.9994, 1.0])
def test_the_threshold_in_use_is_one_of_the_sweep(value: float) -> None:
    # Right by the threshold in use alone: steps of 0.05 would miss it.
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 5, (40, 40))
    sure = rng.uniform(0.95, 1, truth.shape).astype(np.float32)
    truth[sure < value] = 0
    best = np.where(truth == 0, 1, truth)
    counts = PixelCounts(5)
    counts.add(Decision(best, Threshold(sure, "probability", value, 0)), truth, seen=False)
    result = benchmark_result(
        "voc21", "m", counts, VOCABULARY, protocol={}, checkpoint_sha256=None, scenes=False
    )
    oracle = result["threshold_oracle"]
    assert oracle["miou"][str(value)] == pytest.approx(result["miou"], abs=1e-12)
    assert oracle["best_miou"] >= result["miou"]
    thresholds = [float(each) for each in oracle["miou"]]
    assert thresholds == sorted(set(thresholds))
    assert sum(0.98 < each < 1 for each in thresholds) >= 5


def test_no_rule_no_oracle() -> None:
    counts = PixelCounts(5)
    for decision, truth in decisions(0.1):
        counts.add(Decision(decision.best), truth, seen=False)
    result = benchmark_result(
        "voc20", "m", counts, VOCABULARY, protocol={}, checkpoint_sha256=None, scenes=False
    )
    assert "threshold_oracle" not in result


def test_other_thresholds_are_not_merged() -> None:
    with pytest.raises(DataError, match="merge"):
        ThresholdSweep(5, 0, (0.1, 0.5)).merge(ThresholdSweep(5, 0, (0.5,)))
