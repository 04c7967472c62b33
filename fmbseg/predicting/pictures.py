"""Which pictures a call names, and what their results are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

from fmbseg.data.folder import find_pictures, name_problem, picture_id, said
from fmbseg.data.formats import IMAGE_EXTENSIONS
from fmbseg.errors import DataError, shown


def named_pictures(
    images: Sequence[Path], tell: Callable[[str], None]
) -> tuple[dict[str, Path], list[str]]:
    """Pictures by the name of their results; equal names are numbered.

    Args:
        images: files, and folders that are searched.
        tell: takes lines about what of a folder is left out.

    Returns:
        The pictures, and why others cannot be taken.

    Raises:
        DataError: a folder holds no picture, or nothing that is named is there.
    """
    named: list[tuple[str, Path]] = []
    failures: list[str] = []
    for path in images:
        if path.is_dir():
            named += _inside(path, failures, tell)
        else:
            named.append((path.stem, path))
    if not any(path.exists() for _, path in named):
        names = ", ".join(shown(path) for _, path in named)
        raise DataError(f"{names} does not exist: name a picture, a video or a folder of pictures")
    jobs: dict[str, Path] = {}
    for first, path in named:
        if problem := name_problem(first):
            failures.append(f"{shown(path)} {problem}")
            continue
        numbered = (f"{first}-{number}" for number in count(2))
        jobs[next(name for name in chain([first], numbered) if name not in jobs)] = path
    return jobs, failures


def in_order(jobs: Mapping[str, Path]) -> dict[str, Path]:
    """Pictures as the frames that they are: by folder, and numbers in names by their value."""

    def place(job: tuple[str, Path]) -> tuple[str, list[tuple[int, str]]]:
        parts = re.split(r"(\d+)", job[1].name)
        return str(job[1].parent), [(int(p) if p.isdecimal() else -1, p) for p in parts]

    return dict(sorted(jobs.items(), key=place))


def _inside(
    folder: Path, failures: list[str], tell: Callable[[str], None]
) -> list[tuple[str, Path]]:
    found = find_pictures(folder)
    for line in said(found):
        tell(line)
    failures += map(str, found.unusable)
    if not found.files:
        reasons = "".join(f"; {each}" for each in failures[:3])
        raise DataError(
            f"{shown(folder)} holds no picture ({', '.join(IMAGE_EXTENSIONS)}){reasons}"
        )
    return [(picture_id(each.relative_to(folder)), each) for each in found.files]
