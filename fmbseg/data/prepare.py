"""Conversions a benchmark needs before it can be read fast; most need none.

A conversion can be cut off and called again: what is there stays, split lists come last.
"""

from __future__ import annotations

import io
from itertools import chain
from pathlib import Path

from PIL import Image

from fmbseg.data.datasets import dataset_layout
from fmbseg.data.detail import load_detail
from fmbseg.data.layouts import DETAIL_FILE
from fmbseg.errors import DataError
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import write_atomically


def prepare(name: str, root: Path, progress: Progress) -> tuple[int, int] | None:
    """Do the conversion of a benchmark whose annotations lie together in one file.

    PASCAL Context: masks and split lists out of PASCAL in Detail's JSON file.

    Returns:
        How many files were written, and how many were there already; None: the benchmark is read
        as it is distributed.

    Raises:
        DataError: unknown name, or the file is missing or damaged.
    """
    layout = dataset_layout(name)
    if not root.is_dir():
        raise DataError(f"{root} does not exist; to get {name}: {layout.source}")
    if all(entry.pattern != DETAIL_FILE for entry in layout.annotations):
        return None
    target = layout.annotations[0].pattern
    source = root / DETAIL_FILE
    if not source.is_file():
        lists = [root / layout.split_list[0].format(split=split) for split in layout.splits]
        if all(path.is_file() for path in lists):
            return 0, len(lists)
        raise DataError(f"{source} does not exist; to get {name}: {layout.source}")
    detail = load_detail(source)
    stems = {split: detail.stems(split) for split in layout.splits}
    count, written = sum(map(len, stems.values())), 0
    with progress.task(f"prepare {name}", count) as task:
        for stem in chain.from_iterable(stems.values()):
            path = root / target.format(stem=stem)
            if not path.is_file():
                picture = io.BytesIO()
                Image.fromarray(detail.mask(stem)).save(picture, "PNG")
                write_atomically(path, picture.getvalue())
                written += 1
            task.advance()
    for split, names in stems.items():
        text = "".join(f"{stem}\n" for stem in names)
        write_atomically(root / layout.split_list[0].format(split=split), text.encode())
    return written, count - written
