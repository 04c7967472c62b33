"""The table of results: a row a method, a column a benchmark, mIoU in percent."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmbseg.align.record import GROUND_TRUTH, supervision_of
from fmbseg.errors import DataError
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.published import COLUMNS
from fmbseg.evaluate.results import Result, is_of_another_head, read_results
from fmbseg.models import tiny

ORACLE = "oracle = same encoder and head, trained on truth: no ceiling for the other methods"
STALE = "* of an earlier head than the one that is there now: run `fmbseg run evaluate` again"
UNSEEN = "(in brackets: only images without glyphs that pretraining never saw)"
CORRECTED = "+ not annotation-free: trained on"
TINY = "tiny models: the numbers show that the pipeline works, do not compare them with published"


def result_table(metrics: Path) -> str:
    """MIoU of every method on every benchmark, as plain text.

    Raises:
        DataError: there are no results yet, or a file among them is damaged.
    """
    results = read_results(metrics)
    if not results:
        raise DataError(f"no results in {metrics}: run `make demo` or `dvc repro` first")
    benchmarks = ordered({result["benchmark"] for result in results}, COLUMNS)
    methods = ordered({result["method"] for result in results}, METHODS)
    found = {(result["benchmark"], result["method"]): result for result in results}
    stale = [result for result in results if is_of_another_head(result, metrics)]
    rows = [["mIoU, %", *benchmarks]]
    for method in methods:
        row = (found.get((name, method)) for name in benchmarks)
        rows.append([method, *(_cell(result) + _marks(result, stale) for result in row)])
    columns = [[found.get((name, method)) for method in methods] for name in benchmarks]
    rows.append(["images", *(_images(column) for column in columns)])
    lines = aligned(rows)
    lines.insert(1, "-" * max(len(line) for line in lines))
    if stale:
        lines.append(STALE)
    lines += corrected_notes(results)
    if "oracle" in methods:
        lines.append(ORACLE)
    if any("without_held_out_glyphs" in result for result in results):
        lines.append(UNSEEN)
    if any(is_tiny(result) for result in results):
        lines.append(TINY)
    return "\n".join(lines)


def ordered(names: set[str], known: Iterable[str]) -> list[str]:
    """The known names first and in their order, then the others by name."""
    first = [name for name in known if name in names]
    return [*first, *sorted(names - set(first))]


def _cell(result: Result | None) -> str:
    if result is None:
        return "-"
    cell = percent(result["miou"], 1)
    if "without_held_out_glyphs" in result:
        cell += f" ({percent(result['without_held_out_glyphs']['miou'], 1)})"
    return cell


def _marks(result: Result | None, stale: Sequence[Result]) -> str:
    if result is None:
        return ""
    return "+" * (corrected(result) is not None) + "*" * (result in stale)


def corrected(result: Mapping[str, Any]) -> str | None:
    """What labels of people a method was trained on, in words; None: none.

    The oracle is left out, whose name says it.
    """
    supervision = supervision_of(result)
    if supervision is None or supervision.annotation_free or supervision.labels == GROUND_TRUTH:
        return None
    return supervision.words


def corrected_notes(results: Iterable[Result]) -> list[str]:
    """A line on each kind of labels of people that some results were trained on."""
    found = dict.fromkeys(filter(None, map(corrected, results)))
    return [f"{CORRECTED} {words}" for words in found]


def _images(results: Sequence[Result | None]) -> str:
    counts = {int(result["images"]) for result in results if result is not None}
    # Methods scored on different numbers of images must not look comparable.
    return "/".join(str(count) for count in sorted(counts))


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> list[str]:
    """Cells as lines of text; the columns in `left` start, all others end at one place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if i in left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def is_tiny(result: Result) -> bool:
    """Whether a result was made with one of the tiny models."""
    weights = result.get("protocol", {}).get("weights", {})
    return any(map(tiny.is_tiny, weights))


def percent(value: float | None, digits: int) -> str:
    """A result's number as text; "-" where nothing was counted."""
    return "-" if value is None else f"{value:.{digits}f}"
