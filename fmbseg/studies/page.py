"""The page of the studies: a table and a plot each, means and deviations over the seeds."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from fmbseg.config import Config
from fmbseg.evaluate.report import markdown_table, spread
from fmbseg.evaluate.results import Result
from fmbseg.evaluate.table import TINY, is_tiny
from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths
from fmbseg.studies.declared import STUDIES
from fmbseg.studies.trials import Recipes, Results, kept_results

PAGE = "README.md"
_NAMES = ("seen", "unseen", "harmonic")
_NOT_HERE = (
    "Not studied: other encoders. CLIP's and SAM's image towers have no record as frozen encoders "
    "(`fmbseg models list`), so `features.encoder` does not take them."
)


@dataclass(frozen=True)
class StudyTable:
    """A study as it is shown.

    Attributes:
        study: its name.
        about: what is varied.
        heads: of the columns; the first is the variant.
        rows: of text, mean and deviation.
        results: what they are of.
    """

    study: str
    about: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    results: Results


def study_tables(config: Config, paths: Paths, recipes: Recipes) -> list[StudyTable]:
    """The studies that have results of the present configuration, code and data."""
    found = []
    for name, study in STUDIES.items():
        results = kept_results(config, paths, name, recipes)
        if not results:
            continue
        benchmarks = _benchmarks(results)
        heads, rows = ["variant", *benchmarks], []
        if study.names:
            heads += [f"{each}, {part}" for each in benchmarks for part in _NAMES]
        heads.append("seeds")
        for variant in study.variants:
            if variant in results:
                rows.append(_row(variant, results[variant], benchmarks, study.names))
        found.append(StudyTable(name, study.about, tuple(heads), tuple(rows), results))
    return found


def write_page(
    config: Config, paths: Paths, recipes: Recipes, folder: Path, command: Sequence[str]
) -> list[Path]:
    """Write the page and a plot a study.

    Args:
        config: of the project.
        paths: the project.
        recipes: says which results are of now.
        folder: where they go.
        command: that made them, as words.

    Returns:
        The files.
    """
    tables = study_tables(config, paths, recipes)
    files: dict[str, bytes] = {f"{table.study}.png": _plot(table) for table in tables}
    files[PAGE] = _markdown(tables, command).encode()
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _benchmarks(results: Results) -> list[str]:
    return list(dict.fromkeys(name for found in results.values() for name in found))


def _row(
    variant: str,
    found: Mapping[str, Sequence[Result]],
    benchmarks: Sequence[str],
    names: bool,
) -> tuple[str, ...]:
    cells = [_cell([each["miou"] for each in found.get(name, ())]) for name in benchmarks]
    if names:
        cells += [
            _cell([each["names"][part] for each in found.get(name, ())])
            for name in benchmarks
            for part in _NAMES
        ]
    seeds = {len(each) for each in found.values()}
    return (variant, *cells, "/".join(map(str, sorted(seeds))))


def _cell(values: Sequence[float | None]) -> str:
    return spread(values, 1)


def _markdown(tables: Sequence[StudyTable], command: Sequence[str]) -> str:
    lines = ["# Ablations", ""]
    lines += [
        "mIoU in percent, mean ± sample deviation over the seeds (`run.seed`); one change a row, "
        "the rest as in params.yaml. Made by",
        "",
        f"    {shlex.join(command)}",
        "",
        "which takes over what is there already. The results of each training lie beside this page "
        "in `<study>/<variant>/<seed>/<benchmark>.json`.",
    ]
    every = [
        each
        for table in tables
        for found in table.results.values()
        for results in found.values()
        for each in results
    ]
    if any(map(is_tiny, every)):
        lines += ["", f"{TINY[0].upper()}{TINY[1:]}."]
    for table in tables:
        body = markdown_table(table.heads, table.rows)
        lines += ["", f"## {table.study}", "", f"Varied: {table.about}.", "", *body, ""]
        lines += [f"![{table.study}]({table.study}.png)"]
        changes = STUDIES[table.study].variants
        lines += ["", "| variant | changed |", "|---|---|"]
        lines += [f"| {name} | {_code(changes[name])} |" for name in table.results]
    return "\n".join([*lines, "", _NOT_HERE, ""])


def _code(changes: Sequence[str]) -> str:
    return ", ".join(f"`{each}`" for each in changes) or "nothing"


def _plot(table: StudyTable) -> bytes:
    """Lines over numbers, bars over names; a colour a benchmark, the deviation as error bars."""
    import matplotlib
    from matplotlib.figure import Figure

    variants, benchmarks = list(table.results), _benchmarks(table.results)
    numbers = all(name.replace(".", "", 1).isdigit() for name in variants)
    with matplotlib.rc_context({"svg.hashsalt": "fmbseg", "font.size": 9}):
        figure = Figure(figsize=(max(5.0, 0.75 * len(variants) + 2), 3.2), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(benchmarks):
            means, deviations, places = [], [], []
            for place, variant in enumerate(variants):
                found = table.results[variant].get(name, ())
                values = [each["miou"] for each in found if each["miou"] is not None]
                if values:
                    places.append(float(variant) if numbers else place)
                    means.append(fmean(values))
                    deviations.append(stdev(values) if len(values) > 1 else 0.0)
            if numbers:
                axes.errorbar(places, means, deviations, marker="o", capsize=3, label=name)
            else:
                width = 0.8 / len(benchmarks)
                shifted = [place + width * (index - (len(benchmarks) - 1) / 2) for place in places]
                axes.bar(shifted, means, width, yerr=deviations, capsize=3, label=name)
        if not numbers:
            axes.set_xticks(range(len(variants)), variants)
            for label in axes.get_xticklabels() if len(variants) > 5 else ():
                label.set(rotation=30, horizontalalignment="right")
        axes.set_xlabel(table.about)
        axes.set_ylabel("mIoU, %")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()
