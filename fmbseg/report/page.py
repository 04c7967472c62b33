"""The page, and the card: Jinja templates filled with a `Content`."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from fmbseg.errors import plain
from fmbseg.report.content import HEAD_METHOD, Content, Table

_HERE = Path(__file__).parent


def page_template(folder: Path) -> Template:
    """The template `page.html` of a folder, which may extend this room's `base.html`."""
    environment = Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _plain(value: object) -> object:
    """Names that a page shows, whoever gave them; pictures are drawn here."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(content: Content) -> str:
    """The report as one HTML file: no script of others, no font, no picture beside it."""
    template = page_template(_HERE)
    best = best_cells(content.measured)
    return template.render(content=content, best=best, head_method=HEAD_METHOD)


def best_cells(table: Table) -> set[tuple[int, int]]:
    """(row, column) of the highest number of each column of numbers; the marked cells."""
    best: set[tuple[int, int]] = set()
    for column in range(table.texts, len(table.heads)):
        values = {index: float(row[column]) for index, row in enumerate(table.rows) if row[column]}
        if values:
            highest = max(values.values())
            best.update((index, column) for index, value in values.items() if value == highest)
    return best
