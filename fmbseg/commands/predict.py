"""`fmbseg predict`: segment a user's pictures with any class names."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ClassNames,
    Overrides,
    Params,
    VocabularyName,
    WeightsDir,
    lenient_config,
    named_classes,
    run_section,
    use_weights,
)
from fmbseg.errors import DataError, StoreError, may_pass, shown
from fmbseg.store.ledger import Ledger
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


_log = logging.getLogger(__name__)
# From here on a run without a terminal shows how far it is; a few pictures need no report.
_MANY = 20
_CHECKPOINT = Paths().align
# Files or pictures that one line names; more have a line each.
_NAMED = 5


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")],
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    checkpoint: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the trained alignment head.")
    ] = _CHECKPOINT,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first picture that cannot be read.")
    ] = False,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Segment pictures into the classes you name.

    Folders are searched with their sub-folders. Each picture gets NAME.overlay.png (with a legend),
    NAME.label.png (indexed PNG, the value is the class index) and NAME.json (classes and areas); of
    trip/a.jpg in a folder NAME is trip__a. Files that fmbseg did not write are never replaced. A
    picture that cannot be read is named at the end, with exit code 2; the others are done. The head
    is asked as its checkpoint says, but for what --set names.
    """
    use_weights(weights_dir)
    config = lenient_config(params, overrides)
    words = named_classes(classes, vocabulary)
    jobs, failures = _jobs(images)
    unread = len(failures)
    if strict and failures:
        raise DataError(failures[0])
    _refuse_others_files(out, jobs)
    out.mkdir(parents=True, exist_ok=True)

    import numpy as np

    from fmbseg.data.drawn import is_drawn
    from fmbseg.data.formats import PREDICTED
    from fmbseg.data.images import read_image
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.machine.progress import console_progress, silent_progress
    from fmbseg.models import tiny
    from fmbseg.pseudo.summary import covers_nearly_all

    paths = Paths()
    section = ask_as_trained(config, checkpoint, overrides or ()).evaluate
    run = run_section(config, params, overrides)
    segmenter = load_segmenter(
        checkpoint,
        section,
        run,
        batch_size=section.batch_size,
        text_cache=paths.encodings if paths.work.is_dir() else None,
    )
    told = sys.stderr.isatty() or len(jobs) >= _MANY
    progress = console_progress() if told else silent_progress()
    ledger = Ledger(out)
    areas = np.zeros(len(words), np.int64)
    with progress.task("predict", len(jobs)) as task:
        for name, path in jobs.items():
            try:
                image = read_image(path)
                found = segmenter.predict(image, vocabulary=words)
                label, names = found.label_map.astype("uint8"), [*found.classes]
                del found  # eight times the label map, and more
                areas += np.bincount(label.ravel(), minlength=256)[: len(words)]
                _write(ledger, name, path, image, label, names, words.background)
            except (DataError, StoreError) as error:
                if strict:
                    raise
                failures.append(str(error))
            except OSError as error:
                if strict or not may_pass(error):
                    raise
                failures.append(f"{path}: {error.strerror or error}, run it again")
            task.advance()
    if done := len(jobs) - len(failures):
        each = f"NAME.overlay.png, NAME{PREDICTED} and NAME.json"
        print(f"{done} {'picture' if done == 1 else 'pictures'} -> {out}: {each}")
    if failures:
        _tell(failures, len(jobs) + unread)
    drawn = all(map(is_drawn, jobs.values()))
    if tiny.is_tiny(segmenter.checkpoint.info.encoder.name) and not drawn:
        _log.warning("%s", tiny.DRAWINGS_ONLY)
    if dominant := covers_nearly_all(areas, words):
        _log.warning("%s of all pictures: is that so? Look at the overlays", dominant)


def _jobs(images: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Pictures by the name of their results, and what cannot be one; equal names are numbered."""
    from fmbseg.data.folder import find_pictures, name_problem, picture_id, said
    from fmbseg.data.formats import IMAGE_EXTENSIONS

    named: list[tuple[str, Path]] = []
    failures: list[str] = []
    for path in images:
        if not path.is_dir():
            named.append((path.stem, path))
            continue
        found = find_pictures(path)
        for line in said(found):
            print(f"fmbseg: {line}", file=sys.stderr)
        failures += map(str, found.unusable)
        if not found.files:
            reasons = "".join(f"; {each}" for each in failures[:3])
            raise DataError(
                f"{shown(path)} holds no picture ({', '.join(IMAGE_EXTENSIONS)}){reasons}"
            )
        named += [(picture_id(each.relative_to(path)), each) for each in found.files]
    if not any(path.exists() for _, path in named):
        names = ", ".join(shown(path) for _, path in named)
        raise DataError(f"{names} does not exist: name a picture or a folder of pictures")
    jobs: dict[str, Path] = {}
    for first, path in named:
        if problem := name_problem(first):
            failures.append(f"{shown(path)} {problem}")
            continue
        numbered = (f"{first}-{number}" for number in count(2))
        jobs[next(name for name in chain([first], numbered) if name not in jobs)] = path
    return jobs, failures


def _refuse_others_files(out: Path, jobs: Mapping[str, Path]) -> None:
    """Refuse, before any work, a folder where results would replace what fmbseg did not write."""
    from fmbseg.data.formats import RESULTS

    ledger = Ledger(out)
    names = [f"{name}{ending}" for name in jobs for ending in RESULTS]
    others = [name for name in names if not ledger.may_write(name)]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise DataError(
            f"{shown(out)} holds files that fmbseg did not write, or that were changed since: "
            f"{', '.join(others[:_NAMED])}{more}: choose another --out, nothing is replaced"
        )


def _tell(failures: Sequence[str], pictures: int) -> None:
    """Raise DataError for the pictures that were not done; where they are many, each has a line."""
    reasons = "; ".join(failures)
    if len(failures) > _NAMED:
        for failure in failures:
            print(f"fmbseg: not done: {failure}", file=sys.stderr)
        reasons = "reasons above"
    raise DataError(f"{len(failures)} of {pictures} not done: {reasons}")


def _write(
    ledger: Ledger,
    name: str,
    path: Path,
    image: Image.Image,
    label: NDArray[np.uint8],
    names: Sequence[str],
    background: int | None,
) -> None:
    """Write the three results of the picture `path`."""
    from fmbseg.data.formats import RESULTS
    from fmbseg.pseudo.labels import label_png
    from fmbseg.view.overlay import area_shares, overlay, png

    shown_picture = overlay(image, label, names, background=background)
    areas = [
        {
            "class": names[index],
            "index": index,
            "pixels": int((label == index).sum()),
            "share": round(share, 6),
        }
        for index, share in area_shares(label, len(names))
        if index < len(names)
    ]
    record = {
        "image": shown(path),
        "width": label.shape[1],
        "height": label.shape[0],
        "classes": [*names],
        "background": background,
        "areas": areas,
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    contents = (png(shown_picture), label_png(label), text.encode())
    for ending, data in zip(RESULTS, contents, strict=True):
        ledger.write(f"{name}{ending}", data)
