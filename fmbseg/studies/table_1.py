"""Table 1: the segmenter over several seeds, beside other methods and published results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fmbseg.config import Config
from fmbseg.errors import DataError
from fmbseg.evaluate.report import Report, markdown, repeated_row, report_of, write_report
from fmbseg.evaluate.results import current_results
from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths
from fmbseg.studies.trials import METHOD, TABLE_1, Recipes, kept_results


def table_1(config: Config, paths: Paths, recipes: Recipes, seeds: Sequence[int]) -> Report:
    """The table of what is kept; other methods are taken from `metrics/`.

    Args:
        config: of the project.
        paths: the project.
        recipes: says which results are of now.
        seeds: of the trainings.

    Raises:
        DataError: nothing is there yet, or a file is damaged.
    """
    found = kept_results(config, paths, TABLE_1, recipes, seeds).get(METHOD, {})
    if not found:
        raise DataError(f"no results in {paths.table_1}: run `fmbseg table1` first")
    others = [each for each in current_results(paths.metrics) if each["method"] != METHOD]
    return report_of(others, [repeated_row(METHOD, list(found.values()))])


def write_table(report: Report, out: Path) -> list[Path]:
    """Write the table: into a folder in all its forms, or as one Markdown file `*.md`."""
    if out.suffix != ".md":
        return write_report(report, out)
    write_atomically(out, markdown(report).encode())
    return [out]
