"""What was read from files, remembered as long as the files do not change.

This is a cache, not an out: losing it costs one more reading.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fmbseg.errors import shown
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import json_digest

Files = tuple[Path, ...]

# A file changed this shortly before it was read may change again without a later time.
_RECENT_NS = 2_000_000_000
_SAVED_EVERY = 5000  # items; what a killed process had read beyond is read again
_THREADS = 8  # reading, decoding and hashing release the interpreter lock
_NAMED = 3  # changed files that the log names
_log = logging.getLogger(__name__)


def remembered(
    folder: Path | None,
    name: str,
    items: Sequence[Files],
    read: Callable[[int], str],
    progress: Progress,
    description: str,
) -> list[str]:
    """What `read` says of each item; asked only where a file's size or time of change is new.

    Args:
        folder: of all such memories; None: everything is read.
        name: of what is read and how, such as "manifest" and a digest of code; a memory each.
        items: the files that each answer depends on.
        read: position of an item -> what is to be known of it; raises what it likes. An empty
            answer is not remembered.
        progress: shown only where something is read.
        description: of the work, for the bar.
    """
    place = None if folder is None else folder / f"{json_digest(name)[:24]}.parquet"
    known = _load(place)
    # Before the reading: a change during it must not go unnoticed.
    signatures = [_signature(files) for files in items]
    keys = ["\n".join(shown(os.path.abspath(file)) for file in files) for files in items]
    found: list[str | None] = [
        known[key][1] if known.get(key, ("", ""))[0] == signature else None
        for key, signature in zip(keys, signatures, strict=True)
    ]
    missing = [index for index, value in enumerate(found) if value is None]

    before = {index: known[keys[index]][1] for index in missing if keys[index] in known}
    if missing:
        try:
            with (
                progress.task(description, len(missing)) as task,
                ThreadPoolExecutor(_THREADS) as pool,
            ):
                answers = zip(missing, pool.map(read, missing), strict=True)
                for count, (index, value) in enumerate(answers, start=1):
                    found[index] = value
                    if value and not _is_recent(items[index]):
                        known[keys[index]] = signatures[index], value
                    task.advance()
                    if count % _SAVED_EVERY == 0:
                        _save(place, known)
        finally:
            _save(place, known)
    changed = [index for index, value in before.items() if value != found[index]]
    if changed:
        _say_changed([items[index][0] for index in changed], len(items))
    return [value for value in found if value is not None]


def _say_changed(files: Sequence[Path], of: int) -> None:
    """A picture that decodes after damage is another picture: nobody else would say so."""
    named = ", ".join(shown(file) for file in files[:_NAMED])
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    _log.warning(
        "%d of %d files have changed since they were last read: %s%s", len(files), of, named, more
    )


def _signature(files: Files) -> str:
    parts = []
    for file in files:
        try:
            status = file.stat()
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
        except OSError:
            parts.append("-")  # reading it says what is wrong
    return " ".join(parts)


def _is_recent(files: Files) -> bool:
    return any(time.time_ns() - file.stat().st_mtime_ns < _RECENT_NS for file in files)


def _load(place: Path | None) -> dict[str, tuple[str, str]]:
    if place is None:
        return {}
    try:
        # Not `read_table`: that imports pandas, which takes longer than all of this.
        table = pq.ParquetFile(place).read(columns=["files", "signature", "value"])
    except FileNotFoundError:
        return {}
    except (OSError, pa.ArrowException) as error:
        _log.warning("%s is damaged and made again (%s)", place, " ".join(str(error).split())[:100])
        return {}
    return {row["files"]: (row["signature"], row["value"]) for row in table.to_pylist()}


def _save(place: Path | None, known: dict[str, tuple[str, str]]) -> None:
    if place is None:
        return
    signatures, values = zip(*known.values(), strict=True) if known else ((), ())
    table = pa.table({"files": list(known), "signature": signatures, "value": values})
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    try:
        write_atomically(place, stream.getvalue().to_pybytes())
    except OSError as error:
        _log.warning("%s cannot be written (%s): files are read again", place, error.strerror)
