"""The pictures that say how well a benchmark went: the best, the median and the worst."""

from __future__ import annotations

import math

from fmbseg.evaluate.results import LOOKED_AT, chosen_examples

NAN = math.nan


def test_the_best_the_median_and_the_worst() -> None:
    assert chosen_examples("abcde", [3.0, 9.0, NAN, 5.0, 1.0]) == ["b", "a", "e"]
    assert chosen_examples("abcd", [1.0, 1.0, 1.0, 1.0]) == ["a", "c", "d"]


def test_each_once_and_never_none() -> None:
    assert chosen_examples("ab", [1.0, 2.0]) == ["b", "a"]
    assert chosen_examples("abc", [NAN, 0.0, NAN]) == ["b"]
    assert chosen_examples("ab", [NAN, NAN]) == ["a"]


def test_only_the_first_ones_are_looked_at() -> None:
    names = [str(number) for number in range(LOOKED_AT + 2)]
    own = [50.0, 60.0, *[55.0] * (LOOKED_AT - 2), 0.0, 100.0]
    assert chosen_examples(names, own) == ["1", "13", "0"]
