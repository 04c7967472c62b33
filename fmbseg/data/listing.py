"""Finding the images of a split as a layout record says, and saying what was expected if not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fmbseg.data.images import IMAGE_EXTENSIONS
from fmbseg.data.layouts import DatasetLayout
from fmbseg.errors import DataError

_EXTENSION = re.compile(rf"(?i)\.({'|'.join(IMAGE_EXTENSIONS)})$")


@dataclass(frozen=True)
class ImageFile:
    """One image of a split, and the pattern fields its annotation's name is made of."""

    image_id: str
    path: Path
    fields: dict[str, str]


def list_images(name: str, layout: DatasetLayout, root: Path, split: str) -> list[ImageFile]:
    """List the images of a split, without a look at any annotation.

    Order: the split list's, or by path.

    Raises:
        DataError: a folder, a list or an image is not where the layout has it, the split is empty,
            or two images have the same id.
    """
    files = (
        _matching_files(name, layout, root, split)
        if layout.split_list is None
        else _listed_files(name, layout, root, split)
    )
    if not files:
        raise DataError(
            f"{name}: no image in split {split!r}, expected "
            f"{root / _shown(layout.images[0], split)}"
        )
    seen: dict[str, Path] = {}
    for file in files:
        if file.image_id in seen:
            raise DataError(
                f"{name}: {file.path} and {seen[file.image_id]} have the same id "
                f"{file.image_id!r}: rename or remove one (in a split list: one of the lines)"
            )
        seen[file.image_id] = file.path
    return files


def _listed_files(name: str, layout: DatasetLayout, root: Path, split: str) -> list[ImageFile]:
    assert layout.split_list is not None
    listing = root / layout.split_list.format(split=split)
    if not listing.is_file():
        raise _missing(name, layout, root, split, listing)
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{listing} is not text: expected a line an image") from error
    files = []
    for line in lines:
        if not line.strip():
            continue
        # Lists hold a bare stem, or "image annotation" with paths of the machine they were made
        # on (CamVid's begin with /SegNet/CamVid/): the stem is what all of them share.
        file_name = re.split(r"[/\\]", line.split()[0])[-1]
        stem = _EXTENSION.sub("", file_name)
        fields = {"split": split, "stem": stem}
        path = root / layout.images[0].format_map(fields)
        if not path.is_file():
            raise DataError(f"{name}: {listing} lists {stem}, but {path} does not exist")
        files.append(ImageFile(path.stem, path, fields))
    return files


def _matching_files(name: str, layout: DatasetLayout, root: Path, split: str) -> list[ImageFile]:
    leading = [root / _leading_folder(pattern, split) for pattern in layout.images]
    usable = [number for number, folder in enumerate(leading) if folder.is_dir()]
    if not usable:
        raise _missing(name, layout, root, split, leading[0])
    folder, pattern = leading[usable[0]], layout.images[usable[0]]
    expression = _expression(pattern, split)
    # Where images lie in the root itself, its folder of annotations is not one of images.
    closed = {entry.pattern.partition("/")[0] for entry in layout.annotations}
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(root)
        match = expression.fullmatch(relative.as_posix())
        hidden = any(part.startswith(".") for part in relative.parts)
        if match is None or hidden or relative.parts[0] in closed:
            continue
        fields = {"split": split, **match.groupdict()}
        # A stem may go through sub-folders (data set "folder"); an id is also a file's name.
        depth = fields["stem"].count("/") + 1
        image_id = "__".join((*path.parts[-depth:-1], path.stem))
        files.append(ImageFile(image_id, path, fields))
    return files


def _expression(pattern: str, split: str) -> re.Pattern[str]:
    deep = "{extension}" in pattern
    parts = {
        "{split}": re.escape(split),
        "{group}": "(?P<group>[^/]+)",
        "{stem}": "(?P<stem>.+)" if deep else "(?P<stem>[^/]+)",
        "{extension}": f"(?i:{'|'.join(IMAGE_EXTENSIONS)})",
    }
    pieces = re.split(r"(\{\w+\})", pattern)
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces))


def _leading_folder(pattern: str, split: str) -> str:
    """The folders of a pattern before its first open field."""
    fixed = re.split(r"\{(?!split\})", pattern, maxsplit=1)[0]
    return fixed.rpartition("/")[0].format(split=split)


def _shown(pattern: str, split: str) -> str:
    return re.sub(r"\{(\w+)\}", r"<\1>", pattern.replace("{split}", split))


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
