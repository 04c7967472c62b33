"""The table of results: benchmark x method, mIoU in percent."""

from __future__ import annotations

from pathlib import Path

from fmbseg.errors import DataError
from fmbseg.evaluate.predictors import METHODS
from fmbseg.evaluate.stages import read_results

NOTE = "oracle: the same encoder and head trained on the training split's truth - the ceiling."
UNSEEN = "(in brackets: only images without glyphs that pretraining never saw)"


def result_table(metrics: Path) -> str:
    """MIoU of every method on every benchmark, as plain text.

    Raises:
        DataError: there are no results yet.
    """
    results = read_results(metrics)
    if not results:
        raise DataError(f"no results in {metrics}: run `make demo` or `dvc repro` first")
    benchmarks = list(dict.fromkeys(result["benchmark"] for result in results))
    found = {(r["benchmark"], r["method"]): r for r in results}
    methods = [m for m in METHODS if any(r["method"] == m for r in results)]
    rows = [["mIoU, %", *methods, "images"]]
    bracketed = False
    for benchmark in benchmarks:
        cells, images = [], ""
        for method in methods:
            result = found.get((benchmark, method))
            if result is None:
                cells.append("-")
                continue
            images = str(result["images"])
            cells.append(_percent(result["miou"]))
            if "without_held_out_glyphs" in result:
                cells[-1] += f" ({_percent(result['without_held_out_glyphs']['miou'])})"
                bracketed = True
        rows.append([benchmark, *cells, images])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    if "oracle" in methods:
        lines.append(NOTE)
    if bracketed:
        lines.append(UNSEEN)
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
