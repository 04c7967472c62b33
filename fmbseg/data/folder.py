"""The pictures of a folder, and what is left out of it and why: one rule for every command."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

from fmbseg.data.formats import CONTOURS, IMAGE_EXTENSIONS, OTHER_PICTURES, RESULTS
from fmbseg.errors import DataError, is_control, shown
from fmbseg.store.ledger import LEDGER, Ledger
from fmbseg.store.shards import published_key

# Sub-folders that hold no photos by their name, lower case.
_LABEL_MAPS = "labels label masks mask annotations annotation gt groundtruth ground_truth"
_LABEL_MAPS += " segmentationclass segmentationobject overlays"
_NO_PHOTOS = {
    **dict.fromkeys(_LABEL_MAPS.split(), "label maps"),
    **dict.fromkeys(["thumbnails", "thumbnail", "thumbs", "@eadir", "__macosx"], "thumbnails"),
}
# File systems that the kernel makes up: processes and devices, linked with each other and with `/`.
_SYSTEM = ("/proc", "/sys")
# Sub-folders that are listed behind links: a link to a whole disk is a slip of the hand.
_MOST_LINKED = 100_000
_LONGEST_NAME = 255  # bytes, on the usual file systems
_LONGEST_ENDING = len(CONTOURS)


@dataclass(frozen=True)
class LeftOut:
    """A file or a folder that is not taken, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """In one line."""
        return f"{shown(self.path)} {self.reason}"


@dataclass(frozen=True)
class Pictures:
    """What a folder holds.

    Attributes:
        files: the pictures, by path.
        left_out: what is no picture of the user's, or none that can be read, by what it is.
        unusable: what should have been taken and cannot be; a run that is to be whole fails on it.
        others: how many other files there are, by extension.
    """

    files: tuple[Path, ...]
    left_out: tuple[LeftOut, ...] = ()
    unusable: tuple[LeftOut, ...] = ()
    others: Counter[str] = field(default_factory=Counter)


def find_pictures(root: Path, closed: Set[str] = frozenset()) -> Pictures:
    """List the pictures of a folder and its sub-folders, each file once; links are followed.

    Not followed are links to what holds the folder itself, such as `/`, and to the kernel's file
    systems; behind all links together at most 100,000 folders are listed.

    Left out are hidden files, results of `fmbseg` itself, folders whose name says that they hold
    label maps or thumbnails, and formats that are not read. No content of a picture is read.

    Args:
        root: the folder; its own name does not matter.
        closed: names of further sub-folders of `root` that hold something else.

    Raises:
        DataError: it is no folder, or may not be read.
    """
    found = _Found()
    try:
        status = root.stat()
        with os.scandir(root):
            pass
    except OSError as error:
        raise DataError(
            f"{shown(root)} cannot be listed ({error.strerror}): name a folder that you may read"
        ) from error
    found.seen.add((status.st_dev, status.st_ino))
    _list(root, found, closed)
    # Linked folders last: what lies in the folder itself is listed under its own name.
    here = Path(os.path.realpath(root))
    budget = _MOST_LINKED
    for link in found.links:  # which grows: folders behind a link have links, too
        if reason := _elsewhere(Path(os.path.realpath(link)), here):
            found.left_out.append(LeftOut(link, reason))
        elif budget <= 0:
            found.unusable.append(LeftOut(link, _TOO_MANY))
            break
        elif _is_new(link, found):
            budget -= _list(link, found, frozenset(), budget)
    return Pictures(
        tuple(sorted(found.files)),
        tuple(sorted(found.left_out, key=lambda each: each.path)),
        tuple(sorted(found.unusable, key=lambda each: each.path)),
        found.others,
    )


def picture_id(relative: Path) -> str:
    """What a picture is called by its path in the folder: `trip/a.jpg` is `trip__a`.

    An id is also a file's name: one that is too long for that has its folders' names shortened.
    """
    name = "__".join((*relative.parent.parts, relative.stem))
    if len(os.fsencode(name)) + _LONGEST_ENDING <= _LONGEST_NAME:
        return name
    return f"{hashlib.sha256(os.fsencode(relative.parent)).hexdigest()[:8]}__{relative.stem}"


def name_problem(identity: str) -> str | None:
    """Why no file can be written under a picture's id; None: it can."""
    try:
        encoded = identity.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8 (packed on another system?): rename it"
    if any(map(is_control, identity)):
        return "has a control character in its name: rename it"
    if len(encoded) + _LONGEST_ENDING > _LONGEST_NAME:
        return f"has a name of {len(encoded)} bytes, too long to name results after it: shorten it"
    return None


def said(pictures: Pictures, most: int = 20) -> Iterator[str]:
    """Lines that tell what was left out and why, the first ones by name."""
    for each in pictures.left_out[:most]:
        yield f"left out: {each}"
    if (more := len(pictures.left_out) - most) > 0:
        yield f"left out: {more} more"
    if pictures.others:
        counts = ", ".join(
            f"{count} {shown(suffix) or 'without extension'}"
            for suffix, count in pictures.others.most_common(8)
        )
        yield f"no pictures: {counts}"


@dataclass
class _Found:
    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unusable: list[LeftOut] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)


_TOO_MANY = (
    f"is not listed: links lead to more than {_MOST_LINKED} folders; name the folder that is meant"
)


def _elsewhere(target: Path, root: Path) -> str | None:
    """Why a link's target is no folder of pictures that the user means; None: it may be one."""
    if root != target and root.is_relative_to(target):
        return f"links to {shown(target)}, which holds the folder itself: name what is meant there"
    if any(target.is_relative_to(place) for place in _SYSTEM):
        return f"links to {shown(target)}, which is of the system"
    return None


def _list(start: Path, found: _Found, closed: Set[str], most: float = math.inf) -> int:
    """List a folder with its sub-folders, up to some of them; how many they were."""
    waiting, count = [start], 0
    while waiting:
        folder = waiting.pop()
        if count >= most:
            found.unusable.append(LeftOut(folder, _TOO_MANY))
            break
        count += 1
        try:
            entries = sorted(os.scandir(folder), key=lambda each: each.name)
        except OSError as error:
            found.unusable.append(LeftOut(folder, f"cannot be listed ({error.strerror})"))
            continue
        files = {each.name for each in entries}
        results = _results(folder, files)
        for entry in entries:
            path = folder / entry.name
            if reason := _other(entry, path, closed if folder == start else frozenset()):
                if reason != _QUIET:
                    found.left_out.append(LeftOut(path, reason))
            elif entry.is_symlink() and path.is_dir():
                found.links.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if _is_new(path, found):
                    waiting.append(path)
            elif entry.name not in results:
                _take(path, found)
        if results:
            found.left_out.append(LeftOut(folder, f"holds {len(results)} results of fmbseg"))
    return count


_QUIET = "-"  # left out, and not worth a line


def _other(entry: os.DirEntry[str], path: Path, closed: Set[str]) -> str | None:
    """Why an entry is no picture and no folder of pictures, by its name; None: it may be one."""
    if entry.name.startswith("._"):
        return "is macOS's own file beside another"
    if entry.name.startswith("."):
        return "is hidden" if path.is_dir() or _extension(path) in IMAGE_EXTENSIONS else _QUIET
    if not path.is_dir():
        return None
    if entry.name in closed:
        return _QUIET
    if kind := _NO_PHOTOS.get(entry.name.lower()):
        return f"is a folder of {kind} by its name: name it itself to take its pictures"
    if published_key(path) is not None:
        return "holds results of fmbseg"
    return None


def _take(path: Path, found: _Found) -> None:
    extension = _extension(path)
    if extension not in IMAGE_EXTENSIONS:
        if reason := OTHER_PICTURES.get(extension):
            found.left_out.append(LeftOut(path, f"is {reason}"))
        else:
            found.others[path.suffix.lower()] += 1
        return
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        found.unusable.append(LeftOut(path, f"cannot be opened ({error.strerror})"))
        return
    if regular:
        found.files.append(path)
    else:
        found.unusable.append(LeftOut(path, "is no regular file: replace or remove it"))


def _is_new(folder: Path, found: _Found) -> bool:
    try:
        status = folder.stat()
    except OSError as error:
        found.unusable.append(LeftOut(folder, f"cannot be listed ({error.strerror})"))
        return False
    place = (status.st_dev, status.st_ino)
    if place in found.seen:
        found.left_out.append(LeftOut(folder, "is another name of a folder that is listed"))
        return False
    found.seen.add(place)
    return True


def _results(folder: Path, names: Set[str]) -> set[str]:
    """Names of the files of a folder that `fmbseg predict` wrote."""
    own = {*(Ledger(folder).names & names), *({LEDGER} & names)}
    # Those of earlier versions left no ledger: all three of a picture are there.
    for name in names:
        stem = name.removesuffix(RESULTS[0])
        if stem != name and all(f"{stem}{ending}" in names for ending in RESULTS):
            own |= {f"{stem}{ending}" for ending in RESULTS}
    return own


def _extension(path: Path) -> str:
    return path.suffix.lower()[1:]
