"""Tags of runs in a local MLflow database, read without MLflow, whose import takes seconds.

A pipeline in which everything is done and logged asks for nothing else.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_SCHEME = "sqlite:///"
_OLDEST = """
    SELECT run.run_uuid FROM runs AS run
    JOIN experiments AS experiment ON experiment.experiment_id = run.experiment_id
    JOIN tags AS tag ON tag.run_uuid = run.run_uuid
    WHERE experiment.name = ? AND tag.key = ? AND tag.value = ? AND run.lifecycle_stage = 'active'
    ORDER BY run.start_time, run.run_uuid LIMIT 1
"""


def local_tags(uri: str, experiment: str, key: str, value: str) -> dict[str, str] | None:
    """All tags of the oldest run of an experiment that has one tag; nothing is written.

    Args:
        uri: the tracking address, a relative path already resolved.
        experiment: its name.
        key: of the tag that the run has.
        value: its value.

    Returns:
        {} where there is no such run; None where this cannot say, and MLflow must be asked: a
        server, or a database of another form.
    """
    if not uri.startswith(_SCHEME):
        return None
    place = Path(uri.removeprefix(_SCHEME)).resolve()
    if not place.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{quote(str(place))}?mode=ro", uri=True)) as database:
            found = database.execute(_OLDEST, (experiment, key, value)).fetchone()
            if found is None:
                return {}
            return dict(
                database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", found).fetchall()
            )
    except sqlite3.Error:
        return None
