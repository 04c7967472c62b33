"""Finding the images of a split as a layout record says, and saying what was expected if not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fmbseg.data.detail import load_detail
from fmbseg.data.folder import LeftOut, Pictures, find_pictures, name_problem, picture_id
from fmbseg.data.formats import IMAGE_EXTENSIONS
from fmbseg.data.layouts import DETAIL_FILE, DatasetLayout
from fmbseg.errors import DataError

_EXTENSION = re.compile(rf"(?i)\.({'|'.join(IMAGE_EXTENSIONS)})$")


@dataclass(frozen=True)
class ImageFile:
    """One image of a split, and the pattern fields its annotation's name is made of."""

    image_id: str
    path: Path
    fields: dict[str, str]


@dataclass(frozen=True)
class Listing:
    """The images of a split: those that are there, and those its list names in vain.

    Attributes:
        source: the list, None where the folders say what the split is.
        files: in the list's order, or by path.
        missing: expected paths of images that are not there.
        pictures: what the folder holds besides; None where a list says what the split is.
        unusable: what should be an image of the split and cannot be.
    """

    source: Path | None
    files: tuple[ImageFile, ...]
    missing: tuple[Path, ...] = ()
    pictures: Pictures | None = None
    unusable: tuple[LeftOut, ...] = ()

    def same_ids(self) -> Iterator[tuple[ImageFile, ImageFile]]:
        """Images with the id of an earlier one, and that one."""
        seen: dict[str, ImageFile] = {}
        for file in self.files:
            if file.image_id in seen:
                yield file, seen[file.image_id]
            seen[file.image_id] = file


def list_images(name: str, layout: DatasetLayout, root: Path, split: str) -> Listing:
    """List the images of a split, without a look at any annotation.

    Order: the split list's, or by path.

    Raises:
        DataError: a folder, a list or an image is not where the layout has it, the split is empty,
            or a list names two images with the same id.
    """
    listing = find_images(name, layout, root, split)
    if listing.missing:
        path = listing.missing[0]
        raise DataError(f"{name}: {listing.source} lists {path.stem}, but {path} does not exist")
    if not listing.files:
        expected = re.sub(r"\{(\w+)\}", r"<\1>", layout.images[0].replace("{split}", split))
        reasons = "".join(f"; {each}" for each in listing.unusable[:3])
        raise DataError(f"{name}: no image in split {split!r}, expected {root / expected}{reasons}")
    for file, other in listing.same_ids():
        raise DataError(
            f"{name}: {file.path} and {other.path} have the same id {file.image_id!r}: "
            "rename or remove one (in a split list: one of the lines)"
        )
    return listing


def find_images(name: str, layout: DatasetLayout, root: Path, split: str) -> Listing:
    """Like `list_images`, but images that are missing or stand twice are no error.

    Raises:
        DataError: the split's folder or list is not where the layout has it, or is no list.
    """
    if layout.split_list:
        return _listed_files(name, layout, root, split)
    return _matching_files(name, layout, root, split)


def orphans(
    layout: DatasetLayout, root: Path, split: str, files: Iterable[ImageFile]
) -> list[Path]:
    """Annotation files of a split that belong to no image.

    A list may leave files out on purpose, so there are none in a data set with split lists. In a
    folder of the user's own every picture in the place of annotations that is none counts.
    """
    patterns = [entry.pattern for entry in layout.annotations if "{stem}" in entry.pattern]
    if layout.split_list:
        return []
    known = {pattern.format_map(file.fields) for file in files for pattern in patterns}
    found: set[Path] = set()
    for pattern in patterns:
        folder = root / _leading_folder(pattern, split)
        expression = _expression(pattern, split)
        for path in folder.rglob("*") if folder.is_dir() else ():
            relative = path.relative_to(root).as_posix()
            lower = path.with_suffix(path.suffix.lower()).relative_to(root).as_posix()
            fits = expression.fullmatch(lower)
            own = layout.vocabulary is None and _EXTENSION.search(path.name)
            if (fits or own) and not {relative, lower} & known and not path.name.startswith("._"):
                found.add(path)
    return sorted(found)


def _listed_files(name: str, layout: DatasetLayout, root: Path, split: str) -> Listing:
    lists = [root / pattern.format(split=split) for pattern in layout.split_list]
    source = next((path for path in lists if path.is_file()), None)
    if source is None:
        raise _missing(name, layout, root, split, lists[0])
    stems = load_detail(source).stems(split) if source.name == DETAIL_FILE else _stems(source)
    files, missing = [], []
    for stem in stems:
        fields = {"split": split, "stem": stem}
        path = root / layout.images[0].format_map(fields)
        if path.is_file():
            files.append(ImageFile(path.stem, path, fields))
        else:
            missing.append(path)
    return Listing(source, tuple(files), tuple(missing))


def _stems(listing: Path) -> list[str]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not text: expected a line an image") from error
    # Lists hold a bare stem, or "image annotation" with paths of the machine they were made
    # on (CamVid's begin with /SegNet/CamVid/): the stem is what all of them share.
    names = (re.split(r"[/\\]", line.split()[0])[-1] for line in lines if line.strip())
    return [_EXTENSION.sub("", name) for name in names]


def _matching_files(name: str, layout: DatasetLayout, root: Path, split: str) -> Listing:
    leading = [root / _leading_folder(pattern, split) for pattern in layout.images]
    usable = [number for number, folder in enumerate(leading) if folder.is_dir()]
    if not usable:
        raise _missing(name, layout, root, split, leading[0])
    folder, pattern = leading[usable[0]], layout.images[usable[0]]
    expression = _expression(pattern, split)
    # Where images lie in the root itself, its folder of annotations is not one of images.
    closed = {entry.pattern.partition("/")[0] for entry in layout.annotations}
    pictures = find_pictures(folder, closed if folder == root else set())
    files: dict[str, ImageFile] = {}
    unusable, left_out = [*pictures.unusable], [*pictures.left_out]
    for path in pictures.files:
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match is None:
            left_out.append(LeftOut(path, f"is not named as {pattern} is"))
            continue
        fields = {"split": split, **match.groupdict()}
        # A stem may go through sub-folders (data set "folder"); an id is also a file's name.
        depth = fields["stem"].count("/") + 1
        image_id = picture_id(Path(*path.parts[-depth:]))
        if problem := name_problem(image_id):
            unusable.append(LeftOut(path, problem))
        elif image_id in files:
            same = f"has the same id {image_id!r} as {files[image_id].path}: rename or remove one"
            unusable.append(LeftOut(path, same))
        else:
            files[image_id] = ImageFile(image_id, path, fields)
    pictures = replace(pictures, left_out=tuple(left_out))
    return Listing(None, (*files.values(),), pictures=pictures, unusable=tuple(unusable))


def _expression(pattern: str, split: str) -> re.Pattern[str]:
    deep = "{extension}" in pattern
    parts = {
        "{split}": re.escape(split),
        "{group}": "(?P<group>[^/]+)",
        "{stem}": "(?P<stem>(?s:.+))" if deep else "(?P<stem>[^/]+)",
        "{extension}": f"(?i:{'|'.join(IMAGE_EXTENSIONS)})",
    }
    pieces = re.split(r"(\{\w+\})", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))


def _leading_folder(pattern: str, split: str) -> str:
    """The folders of a pattern before its first open field."""
    fixed = re.split(r"\{(?!split\})", pattern, maxsplit=1)[0]
    return fixed.rpartition("/")[0].format(split=split)


def _missing(name: str, layout: DatasetLayout, root: Path, split: str, expected: Path) -> DataError:
    if not root.is_dir():
        return DataError(f"{name}: {root} does not exist, expected {layout.root}")
    inside = expected.relative_to(root)
    deeper = [path for depth in ("*", "*/*") for path in root.glob(depth) if path.is_dir()]
    hint = next(
        (f" (found in {path}: give that)" for path in deeper if (path / inside).exists()), ""
    )
    splits = ", ".join(layout.splits)
    return DataError(
        f"{name}: {expected} does not exist, expected in {layout.root}; splits: {splits}{hint}"
    )
