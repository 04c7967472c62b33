"""`fmbseg data`: make data sets, examine and convert them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.config import SceneLayoutName
from fmbseg.errors import DataError, VocabularyError, shown
from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.doctor import SplitReport
    from fmbseg.data.vocabulary import Vocabulary

# Broken files the error line names; the report names all.
_NAMED = 20

Root = Annotated[Path, typer.Option(metavar="PATH", help="The data set's folder.")]

app = typer.Typer(help="Data sets.", rich_markup_mode=None)


@app.callback()
def _data() -> None:
    """Data sets."""


@app.command("scenes")
def scenes(
    layout: Annotated[SceneLayoutName, typer.Option(help="Benchmark layout on disk.")],
    images: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Training images; a quarter as many, at least 1, validation images come on top.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The data set's root, the later --root DIR.")
    ],
    seed: Annotated[int, typer.Option(min=0, max=99, help="Same seed, same bytes.")] = 0,
) -> None:
    """Draw synthetic scenes with exact ground truth.

    Written are N images of the split train (train2017, training) and max(1, N // 4) of val
    (val2017, validation). COCO-Object is read from coco_stuff164k.
    """
    from fmbseg.machine.progress import console_progress
    from fmbseg.scenes.files import write_scenes
    from fmbseg.scenes.render import scene_seed

    train, val = images, max(1, images // 4)
    scene_seed("training", images, seed)  # out of range: before any folder is made
    _refuse_other_content(out, layout, train + val)
    write_scenes(layout, out, train=train, val=val, seed=seed, progress=console_progress())
    print(f"{out}: {train} training and {val} validation scenes")


@app.command("doctor")
def doctor(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as voc21, ade20k or folder.")],
    root: Root,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated. Default: all.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The overlay picture. Default: data/doctor/NAME.png."),
    ] = None,
) -> None:
    """Examine a data set: every image and annotation is read once.

    Shows the images of each split, what is missing from the full set, the classes, and each file
    that is broken; draws a sheet of examples. Exit code 2 if a file is missing or broken, or the
    folder names no classes.
    """
    from fmbseg.data.datasets import dataset_layout, own_vocabulary
    from fmbseg.data.doctor import Problem, examine
    from fmbseg.machine.progress import console_progress

    layout = dataset_layout(name)
    reports = examine(name, root, console_progress(), split or ())
    print(f"{name} in {root}")
    print(f"  not scored: {layout.ignored}")
    for report in reports:
        print(f"  {report.split}: {_counted(report)}")
        for note in report.notes:
            print(f"    {note}")
    if any(report.images < (report.full or 0) for report in reports):
        print(f"  the full set: {layout.source}")
    problems = [problem for report in reports for problem in report.problems]
    no_words: DataError | None = None
    try:
        words = own_vocabulary(name, root)
    except DataError as error:
        no_words = error
        print("  classes: not known")
    except VocabularyError as error:
        problems.append(Problem(root, str(error)))
    else:
        _print_classes(reports, words.names)
        _draw_sheet(reports, words, sheet or Paths().data / "doctor" / f"{name}.png")
    for problem in problems:
        print(f"  broken: {shown(problem.reason)}")
    if not problems:
        print("  no file is broken")
        if no_words is not None:
            raise no_words
        return
    files = list(dict.fromkeys(shown(problem.path) for problem in problems))
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    raise DataError(
        f"{name}: {len(files)} files are missing or broken (reasons above): "
        f"{', '.join(files[:_NAMED])}{more}"
    )


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as context60.")],
    root: Root,
) -> None:
    """Convert a benchmark's annotations where they cannot be read fast as they are distributed.

    That is PASCAL Context: trainval_merged.json becomes masks and split lists beside it. A call
    that was cut off goes on. The other benchmarks need nothing.
    """
    from fmbseg.data.prepare import prepare as convert
    from fmbseg.machine.progress import console_progress

    done = convert(name, root, console_progress())
    if done is None:
        print(f"{name} is read as it is distributed: nothing to convert")
    else:
        print(f"{name} in {root}: {done[0]} files written, {done[1]} were there")


@app.command("vocabulary")
def vocabulary(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text file, a line a class.")],
    separator: Annotated[
        str,
        typer.Option(metavar="MARK", help='Between the words of a line, such as "; ".'),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Such as words.yaml.")],
    of: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The benchmark whose classes the lines are, such as voc21."
        ),
    ] = None,
    background: Annotated[
        str | None, typer.Option(metavar="NAME", help="The class that is the background.")
    ] = None,
) -> None:
    """Import a class list that is a text file, as other projects publish them.

    The first word of a line names its class; with --of the classes are the benchmark's and the
    lines the words CLIP is asked with. The separator is never guessed.
    """
    from fmbseg.data.vocabulary import vocabulary_from_text, vocabulary_yaml

    words = vocabulary_from_text(file, separator=separator, background=background, of=of)
    write_atomically(out, vocabulary_yaml(words).encode())
    print(f"{out}: {len(words)} classes, {len(words.queries[0])} words")


def _counted(report: SplitReport) -> str:
    if report.absent is not None:
        full = "" if report.full is None else f" ({report.full} images in the full set)"
        return f"not here{full}: " + report.absent.partition(", expected in")[0]
    of = "" if report.full is None else f" of {report.full}"
    text = f"{report.images}{of} images, {report.annotated} annotated"
    if report.images and not report.annotated:
        text += " (enough to train; scoring needs annotations)"
    if report.full is not None and report.images < report.full:
        text += f"; {report.full - report.images} of the full set are not here"
    return text


def _print_classes(reports: Sequence[SplitReport], names: Sequence[str]) -> None:
    import numpy as np

    from fmbseg.data.labels import UNLABELLED

    pixels = np.sum([report.pixels for report in reports], axis=0)
    images = np.sum([report.occurrences for report in reports], axis=0)
    if not pixels.any():
        print(f"  classes: {', '.join(names)}")
        return
    shares = 100 * pixels / pixels.sum()
    print("  classes (share of the annotated pixels, images):")
    found = [index for index in range(len(names)) if pixels[index]]
    for index in sorted(found, key=lambda index: -pixels[index]):
        print(f"    {shares[index]:8.3f} % {images[index]:7d}  {index:3d} {names[index]}")
    print(f"    {shares[UNLABELLED]:8.3f} % {images[UNLABELLED]:7d}  not scored")
    never = [name for index, name in enumerate(names) if not pixels[index]]
    if never:
        print(f"    in no annotation ({len(never)}): {', '.join(never)}")


def _draw_sheet(reports: Sequence[SplitReport], words: Vocabulary, target: Path) -> None:
    from fmbseg.view.overlay import png
    from fmbseg.view.sheet import label_sheet

    examples = next((report.examples for report in reports if report.examples), ())
    if examples:
        panels = [(sample.image_path.name, sample.image, sample.label) for sample in examples]
        write_atomically(target, png(label_sheet(panels, words.names, words.background)))
        print(f"  sheet: {target}")


def _refuse_other_content(root: Path, layout: str, images: int) -> None:
    """A folder may be empty, or hold a part of the very scenes that are asked for."""
    from fmbseg.scenes.layouts import image_count

    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / "scenes.json").is_file():
        raise DataError(f"{root} holds something else already: choose an empty folder")
    there = image_count(layout, root)
    if there > images:
        raise DataError(f"{root} holds {there} scenes, more than {images}: choose an empty folder")
