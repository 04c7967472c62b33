"""`fmbseg predict`: segment a user's pictures with any class names."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
from fmbseg.errors import DataError, may_pass
from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from PIL import Image

    from fmbseg.inference.segmenter import Segmentation

# From here on a run without a terminal shows how far it is; a few pictures need no report.
_MANY = 20
_CHECKPOINT = Paths().align


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
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Segment pictures into the classes you name.

    Each picture gets NAME.overlay.png (with a legend), NAME.label.png (indexed PNG, the value is
    the class index) and NAME.json (classes and areas). A picture that cannot be read is named at
    the end; the others are done. The head is asked as its checkpoint says, but for what --set
    names.
    """
    use_weights(weights_dir)
    config = lenient_config(params, overrides)
    words = named_classes(classes, vocabulary)
    jobs = _jobs(images)
    out.mkdir(parents=True, exist_ok=True)

    from fmbseg.data.images import read_image
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.machine.progress import console_progress, silent_progress

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
    shown = sys.stderr.isatty() or len(jobs) >= _MANY
    progress = console_progress() if shown else silent_progress()
    failures: list[str] = []
    with progress.task("predict", len(jobs)) as task:
        for name, path in jobs.items():
            try:
                image = read_image(path)
                found = segmenter.predict(image, vocabulary=words)
                _write(out / name, path, image, found, words.background)
            except DataError as error:
                failures.append(str(error))
            except OSError as error:
                if not may_pass(error):
                    raise
                failures.append(f"{path}: {error.strerror or error}, run it again")
            task.advance()
    if failures:
        raise DataError(f"{len(failures)} of {len(jobs)} not done: {'; '.join(failures)}")


def _jobs(images: Sequence[Path]) -> dict[str, Path]:
    """Pictures by the name of their results; equal file names are numbered."""
    from fmbseg.data.images import IMAGE_EXTENSIONS

    paths: list[Path] = []
    for path in images:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        if path.is_dir():
            inside = [each for each in inside if each.suffix.lower()[1:] in IMAGE_EXTENSIONS]
        if not inside:
            raise DataError(f"{path} holds no picture ({', '.join(IMAGE_EXTENSIONS)})")
        paths += inside
    if not any(path.exists() for path in paths):
        names = ", ".join(map(str, paths))
        raise DataError(f"{names} does not exist: name a picture or a folder of pictures")
    jobs: dict[str, Path] = {}
    for path in paths:
        numbered = (f"{path.stem}-{number}" for number in count(2))
        jobs[next(name for name in chain([path.stem], numbered) if name not in jobs)] = path
    return jobs


def _write(
    target: Path, path: Path, image: Image.Image, found: Segmentation, background: int | None
) -> None:
    """Write the three results of the picture `path`."""
    import numpy as np

    from fmbseg.pseudo.labels import save_label
    from fmbseg.view.overlay import area_shares, overlay, png

    names = [*found.classes]
    label = found.label_map.astype(np.uint8)
    shown = overlay(image, label, names, background=background)
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
        "image": str(path),
        "width": label.shape[1],
        "height": label.shape[0],
        "classes": names,
        "background": background,
        "areas": areas,
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    # Not Path.with_suffix: a picture's name may hold dots.
    write_atomically(target.with_name(f"{target.name}.overlay.png"), png(shown))
    save_label(target.with_name(f"{target.name}.label.png"), label)
    write_atomically(target.with_name(f"{target.name}.json"), text.encode())
