"""One table of all results with the published rows beside: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from fmbseg.errors import DataError
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.published import (
    COLUMNS,
    CONTEXT_NOTE,
    PEER_COLUMNS,
    PEERS,
    PEERS_NOTE,
    PUBLISHED,
    TABLE_1,
    Row,
)
from fmbseg.evaluate.results import OWN_WORDS, Result, current_results, read_results
from fmbseg.evaluate.table import (
    ORACLE,
    TINY,
    corrected,
    corrected_notes,
    is_tiny,
    ordered,
    percent,
)
from fmbseg.store.atomic import write_atomically

MEASURED = "measured here"
PREDICTIONS = "its label maps, scored here"
_SCENES = ", synthetic scenes"
_SWEEPS = "threshold_oracle.csv"
_PUBLISHED_NOTE = (
    "rows marked 'published' are printed in Table 1 of arXiv 2403.09307: other weights and other "
    "training data than the measured rows, nothing of them was measured here"
)
_MEASURED_NOTE = "mIoU in percent, of the pixels of all scored images at the labels' own size"
_SCENES_NOTE = (
    "'synthetic scenes' are drawn pictures in the benchmarks' layouts, not the real benchmarks: "
    "their numbers stand for nothing in the published columns"
)
_SWEEP_TITLE = "Oracle, not a result: background threshold chosen on the benchmark's own truth"
_PEERS_TITLE = "Peers as published, by what they may use; nothing of them was measured here"
_PEERS_HEADS = ("Method", "May use", "Source")
_SWEEP_HEADS = ("Method", "Benchmark", "mIoU as measured", "best mIoU", "at threshold")


@dataclass(frozen=True)
class Report:
    """Everything the three forms show.

    Attributes:
        benchmarks: columns, those of the published table first.
        rows: measured ones first.
        notes: what a reader must know.
        sweeps: the results with a threshold oracle.
    """

    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    sweeps: tuple[Result, ...]


def build_report(metrics: Path) -> Report:
    """Collect the results below a folder, and the published rows.

    Raises:
        DataError: there are no results, or a file among them is damaged.
    """
    results, every = current_results(metrics), len(read_results(metrics))
    if not results:
        raise DataError(f"no results in {metrics}: run `fmbseg evaluate --all` first")
    report = report_of(results)
    if len(results) < every:
        left_out = f"left out: {every - len(results)} results of an earlier head"
        report = replace(report, notes=(*report.notes, left_out))
    return report


def report_of(results: list[Result], repeated: Sequence[Row] = ()) -> Report:
    """A report of some results, and the published rows.

    Args:
        results: of one run each.
        repeated: rows of methods that were run several times; they come first.
    """
    methods = ordered({result["method"] for result in results}, METHODS)
    names = {name for row in repeated for name in row.miou}
    names.update(result["benchmark"] for result in results)
    benchmarks = ordered(names | set(COLUMNS), COLUMNS)
    results = sorted(
        results, key=lambda r: (methods.index(r["method"]), benchmarks.index(r["benchmark"]))
    )
    rows = [*repeated, *_measured(results)]
    notes = [_image_note(rows, benchmarks), _MEASURED_NOTE, _PUBLISHED_NOTE, CONTEXT_NOTE]
    notes += corrected_notes(results)
    if any(row.method == "oracle" for row in rows):
        notes.append(ORACLE)
    if any(_SCENES in row.source for row in rows):
        notes.append(_SCENES_NOTE)
    if any(is_tiny(result) for result in results):
        notes.append(TINY)
    return Report(
        benchmarks=tuple(benchmarks),
        rows=(*rows, *TABLE_1),
        notes=tuple(notes),
        sweeps=tuple(result for result in results if "threshold_oracle" in result),
    )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write table.md, .csv and .tex, peers.csv and, if there is one, threshold_oracle.csv."""
    files = {
        "table.md": markdown(report),
        "table.csv": comma_separated(report),
        "table.tex": latex(report),
        "peers.csv": peers_csv(),
    }
    if report.sweeps:
        files[_SWEEPS] = sweep_csv(report)
    else:
        (folder / _SWEEPS).unlink(missing_ok=True)  # of results that are no longer there
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in files]


def markdown(report: Report) -> str:
    """The table, the notes, the published peers and the threshold oracle as Markdown."""
    heads = ["Method", "Source", "Protocol and weights / training data"]
    heads += [_heading(name) for name in report.benchmarks]
    body = [_cells(row, report.benchmarks, "-") for row in report.rows]
    lines = markdown_table(heads, body)
    lines += ["", *(f"- {note}" for note in report.notes), "", f"**{_PEERS_TITLE}**"]
    for group in PEERS:
        body = [_peer_cells(row) for row in group.rows]
        heads = [*_PEERS_HEADS, *PEER_COLUMNS.values()]
        lines += ["", f"{group.title}:", "", *markdown_table(heads, body)]
    lines += ["", f"- {PEERS_NOTE}"]
    if report.sweeps:
        body = _sweep_rows(report)
        lines += ["", f"**{_SWEEP_TITLE}**", "", *markdown_table(_SWEEP_HEADS, body)]
    return "\n".join(lines) + "\n"


def comma_separated(report: Report) -> str:
    """The rows as CSV; a missing value is empty."""
    heads = ["method", "source", "basis", *report.benchmarks]
    heads += [f"images {name}" for name in report.benchmarks]
    body = [
        [*_cells(row, report.benchmarks, ""), *(row.images.get(b, "") for b in report.benchmarks)]
        for row in report.rows
    ]
    return _csv([heads, *body])


def peers_csv() -> str:
    """The published peers as CSV."""
    heads = ["may use", "method", "weights and data", "source", *PEER_COLUMNS]
    body = [[group.title, *_peer_cells(row)] for group in PEERS for row in group.rows]
    return _csv([heads, *body])


def sweep_csv(report: Report) -> str:
    """MIoU at every threshold of the sweeps, the best of each marked."""
    rows = [["method", "benchmark", "threshold", "miou", "chosen on truth"]]
    for result in report.sweeps:
        sweep = result["threshold_oracle"]
        for threshold, miou in sweep["miou"].items():
            best = "best" if float(threshold) == sweep["best_threshold"] else ""
            rows.append([result["method"], result["benchmark"], threshold, percent(miou, 4), best])
    return _csv(rows)


def latex(report: Report) -> str:
    """A `tabular` that needs no package; notes as text below."""
    columns = "lll" + "r" * len(report.benchmarks)
    heads = ["Method", "Source", "Protocol, weights / training data"]
    heads += [COLUMNS.get(name, name) for name in report.benchmarks]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", _latex_row(heads), r"\hline"]
    measured = [row for row in report.rows if row.source != PUBLISHED]
    published = [row for row in report.rows if row.source == PUBLISHED]
    for group in (measured, published):
        lines += [_latex_row(_cells(row, report.benchmarks, "--")) for row in group]
        lines.append(r"\hline")
    lines += [r"\end{tabular}", ""]
    lines += [_escaped(note) + r".\\" for note in report.notes]
    lines += ["", *_latex_peers()]
    if report.sweeps:
        lines += ["", rf"\textbf{{{_escaped(_SWEEP_TITLE)}}}\\", r"\begin{tabular}{llrrr}"]
        lines += [r"\hline", _latex_row(_SWEEP_HEADS), r"\hline"]
        lines += [*map(_latex_row, _sweep_rows(report)), r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_peers() -> list[str]:
    heads = [*_PEERS_HEADS, *PEER_COLUMNS.values()]
    lines = [rf"\textbf{{{_escaped(_PEERS_TITLE)}}}\\"]
    lines += [rf"\begin{{tabular}}{{lll{'r' * len(PEER_COLUMNS)}}}", r"\hline", _latex_row(heads)]
    for group in PEERS:
        title = rf"\multicolumn{{{len(heads)}}}{{l}}{{{_escaped(group.title)}}} \\"
        lines += [r"\hline", title, *(_latex_row(_peer_cells(row)) for row in group.rows)]
    return [*lines, r"\hline", r"\end{tabular}", "", _escaped(PEERS_NOTE) + r".\\"]


def repeated_row(method: str, results: Sequence[Sequence[Result]]) -> Row:
    """One row of a method that was run with several seeds, mean and sample deviation a benchmark.

    Args:
        method: its name.
        results: of each benchmark those of the seeds, at least one.
    """
    first = results[0][0]
    seeds = max(map(len, results))
    source = f"{MEASURED}, {seeds} seed{'s' * (seeds > 1)}"
    source += _SCENES if "without_held_out_glyphs" in first else ""
    miou = {each[0]["benchmark"]: spread([one["miou"] for one in each], 2) for each in results}
    images = {each[0]["benchmark"]: int(each[0]["images"]) for each in results}
    return Row(method, source, _basis(first), miou, images)


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and sample deviation as text; "-" where there is no number, of one no deviation.

    >>> spread([40.0, 42.0], 1), spread([40.0], 1), spread([None], 1)
    ('41.0 ± 1.4', '40.0', '-')
    """
    numbers = [value for value in values if value is not None]
    if not numbers:
        return percent(None, digits)
    mean = percent(fmean(numbers), digits)
    return mean if len(numbers) == 1 else f"{mean} ± {percent(stdev(numbers), digits)}"


def _measured(results: Sequence[Result]) -> list[Row]:
    # What was made with another protocol, head or weights is not in the same row.
    groups: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        source = MEASURED if result["method"] in METHODS else PREDICTIONS
        source += "" if corrected(result) is None else " +"
        source += _SCENES if "without_held_out_glyphs" in result else ""
        key = result["method"], source, _basis(result), str(result.get("checkpoint_sha256"))
        groups.setdefault(key, []).append(result)
    return [
        Row(
            method=method,
            source=source,
            basis=basis,
            miou={r["benchmark"]: percent(r["miou"], 2) for r in group if r["miou"] is not None},
            images={r["benchmark"]: int(r["images"]) for r in group},
        )
        for (method, source, basis, _), group in groups.items()
    ]


def _basis(result: Result) -> str:
    protocol = result.get("protocol", {})
    words = protocol.get("vocabulary", OWN_WORDS)
    names = [str(protocol.get("name", "")), *sorted(protocol.get("weights", {}))]
    if words != OWN_WORDS:
        names.append(f"words of {words}")
    if (refine := protocol.get("refine", "none")) != "none":
        names.append(f"refined: {refine}")
    if (labels := corrected(result)) is not None:
        names.append(f"trained on {labels}")
    return ", ".join(name for name in names if name)


def _image_note(rows: Sequence[Row], benchmarks: Sequence[str]) -> str:
    """How many images the measured numbers stand on, by benchmark."""
    counts = {name: {row.images[name] for row in rows if name in row.images} for name in benchmarks}
    shown = [
        f"{name} {'/'.join(map(str, sorted(found)))}" for name, found in counts.items() if found
    ]
    return f"images: {', '.join(shown)}"


def _sweep_rows(report: Report) -> list[list[str]]:
    rows = []
    for result in report.sweeps:
        sweep = result["threshold_oracle"]
        threshold = "-" if sweep["best_threshold"] is None else f"{sweep['best_threshold']:g}"
        mious = percent(result["miou"], 2), percent(sweep["best_miou"], 2)
        rows.append([result["method"], result["benchmark"], *mious, threshold])
    return rows


def _heading(benchmark: str) -> str:
    return f"{COLUMNS[benchmark]} ({benchmark})" if benchmark in COLUMNS else benchmark


def _cells(row: Row, benchmarks: Sequence[str], missing: str) -> list[str]:
    values = [row.miou.get(benchmark, missing) for benchmark in benchmarks]
    return [row.method, row.source, row.basis, *values]


def _peer_cells(row: Row) -> list[str]:
    return [row.method, row.basis, row.source, *(row.miou[name] for name in PEER_COLUMNS)]


def markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in body]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(_escaped(cell) for cell in cells) + r" \\"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
