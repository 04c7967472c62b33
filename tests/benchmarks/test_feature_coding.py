"""The product quantiser against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.feature_coding import CENTROIDS, learn


def test_codes_are_the_nearest_centroids_and_decode_to_them() -> None:
    values = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    quantiser = learn(values, groups=3)
    codes = quantiser.encode(values)
    decoded = quantiser.decode(codes)
    assert codes.shape == (400, 3) and codes.dtype == np.uint8
    for number in range(0, 400, 37):
        for group in range(3):
            part = values[number, 4 * group : 4 * group + 4]
            distances = [np.sum((part - each) ** 2) for each in quantiser.centroids[group]]
            chosen = quantiser.centroids[group][codes[number, group]]
            assert np.sum((part - chosen) ** 2) == pytest.approx(min(distances), rel=1e-5)
            assert np.array_equal(decoded[number, 4 * group : 4 * group + 4], chosen)


def test_more_groups_lose_less_and_few_values_lose_nothing() -> None:
    values = np.random.default_rng(1).normal(size=(2000, 16)).astype(np.float32)
    errors = []
    for groups in (1, 2, 4, 8):
        quantiser = learn(values, groups)
        errors.append(np.mean((values - quantiser.decode(quantiser.encode(values))) ** 2))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]
    # Groups of one channel with no more values than centroids.
    few = np.repeat(np.arange(CENTROIDS, dtype=np.float32)[:, None], 2, axis=1)
    quantiser = learn(few, 2, rounds=1)
    assert np.abs(quantiser.decode(quantiser.encode(few)) - few).max() <= 1
    with pytest.raises(ValueError, match="do not divide"):
        learn(values, 3)
