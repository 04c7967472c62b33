"""`fmbseg predict`: segment a user's pictures with any class names."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmbseg.commands.asking import ask_as_trained, overridden
from fmbseg.commands.options import (
    DEFAULT_CHECKPOINT,
    DEFAULT_PARAMS,
    Checkpoint,
    Overrides,
    Params,
    WeightsDir,
    lenient_config,
    use_weights,
)
from fmbseg.config import Config, RunSection
from fmbseg.errors import DataError, VocabularyError, may_pass

if TYPE_CHECKING:
    from PIL import Image

    from fmbseg.data.vocabulary import Vocabulary
    from fmbseg.inference.segmenter import Segmentation

# From here on a run without a terminal shows how far it is; a few pictures need no report.
_MANY = 20


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the results go.")],
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="NAMES", help='Such as "dog, cat".')
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary", metavar="NAME|FILE", help="A benchmark's names, or a YAML or .txt file."
        ),
    ] = None,
    checkpoint: Checkpoint = DEFAULT_CHECKPOINT,
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
    words = _vocabulary(classes, vocabulary)
    jobs = _jobs(images)
    out.mkdir(parents=True, exist_ok=True)

    from fmbseg.data.images import read_image
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.machine.progress import console_progress, silent_progress
    from fmbseg.store.paths import Paths

    paths = Paths()
    section = ask_as_trained(config, checkpoint, overrides or ()).evaluate
    run = _run_section(config, params, overrides or ())
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
        for name, path in jobs:
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


def _run_section(config: Config, params: Path, overrides: Sequence[str]) -> RunSection:
    """Without a file of parameters that says otherwise, as many threads as the machine gives."""
    import torch

    if params.exists() or "run.threads" in overridden(overrides):
        return config.run
    return config.run.model_copy(update={"threads": torch.get_num_threads()})


def _vocabulary(classes: str | None, vocabulary: str | None) -> Vocabulary:
    if (classes is None) == (vocabulary is None):
        raise VocabularyError('give either --classes "dog, cat" or --vocabulary voc21')
    from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names

    if vocabulary is not None:
        return load_vocabulary(vocabulary)
    return vocabulary_from_names([name.strip() for name in str(classes).split(",")])


def _jobs(images: Sequence[Path]) -> list[tuple[str, Path]]:
    """Pictures with the name of their results; equal file names are numbered."""
    from fmbseg.data.images import IMAGE_EXTENSIONS

    paths: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(
                entry
                for entry in path.iterdir()
                if entry.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
            )
            if not inside:
                raise DataError(f"{path} holds no picture ({', '.join(IMAGE_EXTENSIONS)})")
            paths += inside
        else:
            paths.append(path)
    if not any(path.exists() for path in paths):
        names = ", ".join(str(path) for path in paths)
        raise DataError(f"{names} does not exist: name a picture or a folder of pictures")
    taken: set[str] = set()
    jobs = []
    for path in paths:
        name, count = path.stem, 1
        while name in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken.add(name)
        jobs.append((name, path))
    return jobs


def _write(
    target: Path, path: Path, image: Image.Image, found: Segmentation, background: int | None
) -> None:
    """Write the three results of the picture `path`."""
    import numpy as np

    from fmbseg.pseudo.labels import save_label
    from fmbseg.store.atomic import write_atomically
    from fmbseg.view.overlay import area_shares, overlay

    names = [*found.classes]
    label = found.label_map.astype(np.uint8)
    picture = io.BytesIO()
    overlay(image, label, names, background=background).save(picture, format="PNG")
    write_atomically(_with(target, ".overlay.png"), picture.getvalue())
    save_label(_with(target, ".label.png"), label)
    areas: list[dict[str, Any]] = [
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
        "areas": areas,
    }
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    write_atomically(_with(target, ".json"), text.encode())


def _with(target: Path, suffix: str) -> Path:
    # Not Path.with_suffix: a picture's name may hold dots.
    return target.with_name(target.name + suffix)
