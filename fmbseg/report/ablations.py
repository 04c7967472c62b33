"""The studies of `fmbseg ablate` that are of the present configuration, as tables of the page."""

from __future__ import annotations

from fmbseg.errors import FmbsegError
from fmbseg.report.content import Table
from fmbseg.stage.workplace import Workplace
from fmbseg.studies.page import study_tables
from fmbseg.studies.trials import Recipes


def ablations(work: Workplace) -> tuple[tuple[str, Table], ...]:
    """Title and table of each study; none: nothing was studied with these parameters."""
    if not work.paths.ablations.is_dir():
        return ()
    try:
        found = study_tables(work.config, work.paths, Recipes(work.paths, work.progress))
    except FmbsegError:  # what they are made from is not there
        return ()
    return tuple((f"{each.study}: {each.about}", Table(each.heads, each.rows)) for each in found)
