"""`fmbseg predict`: segment a user's pictures with any class names."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.exporting import Formats, export_beside, parse_formats, refuse_changed
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ClassNames,
    Groups,
    Overrides,
    Params,
    PresetName,
    RestName,
    Strict,
    VocabularyName,
    WeightsDir,
    completing,
    lenient_config,
    named_classes,
    one_of,
    preset_config,
    use_weights,
    with_threads,
)
from fmbseg.commands.videos import frames_name, parted, refuse_what_videos_have_not
from fmbseg.config import Config
from fmbseg.data.formats import VIDEO_RESULTS
from fmbseg.errors import ConfigError, DataError, shown
from fmbseg.evaluate.methods import METHODS, Method, find_method
from fmbseg.store.ledger import Ledger
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary
    from fmbseg.predicting.run import Report

_log = logging.getLogger(__name__)
# From here on a run without a terminal shows how far it is; a few pictures need no report.
_MANY = 20
# Files or pictures that one line names; more have a line each.
_NAMED = 5
_SCORES = ("png", "npz")


def predict(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", help="Pictures, folders of pictures, or videos."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.")],
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    rest: RestName = None,
    groups: Groups = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            parser=one_of(METHODS),
            autocompletion=completing(lambda: METHODS),
            help=f"{', '.join(METHODS)}; those without a trained head need no training.",
        ),
    ] = "fmbseg",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the trained head. Default: the method's own in data/."
        ),
    ] = None,
    preset: PresetName = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="png|npz",
            parser=one_of(_SCORES),
            help="Write how sure each pixel is: 16-bit PNG (65535: 1) or float32 in a NumPy file.",
        ),
    ] = None,
    contours: Annotated[
        bool, typer.Option("--contours", help="Write the outlines of the regions.")
    ] = False,
    formats: Formats = None,
    coco: Annotated[bool, typer.Option("--coco", help="Short for --export coco.")] = False,
    smooth: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Of videos, and pictures that are frames: the share of the frames before in each "
            "frame's similarities, 0 (none) to below 1.",
        ),
    ] = 0.0,
    frames: Annotated[
        bool,
        typer.Option("--frames", help="Of each frame of a video write what a picture gets."),
    ] = False,
    fps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="The pictures are frames, so many a second: also write a video of their overlays.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Label pictures of any size at their own resolution, in overlapping tiles of so "
            "many pixels; each is seen as a whole picture is without it.",
        ),
    ] = None,
    strict: Strict = False,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Segment pictures into the classes you name.

    Folders are searched with their sub-folders. Each picture gets NAME.overlay.png (with a legend),
    NAME.label.png (indexed PNG, the value is the class index) and NAME.json (classes, areas, mean
    confidence); of trip/a.jpg in a folder NAME is trip__a. Files that fmbseg did not write are
    never replaced. A picture that cannot be read is named at the end, with exit code 2; the others
    are done. A head is asked as its checkpoint says, but for what --set names.

    A video gets NAME.overlay.mp4 and NAME.json, and with --frames the folder NAME; frame by frame,
    so its length does not matter. It needs the extra `video`.
    """
    use_weights(weights_dir)
    words = named_classes(classes, vocabulary, rest, groups)
    exports = parse_formats([*(formats or ()), *(["coco"] if coco else [])])

    from fmbseg.inference.smoothing import Smoothing
    from fmbseg.inference.tiles import Tiling
    from fmbseg.predicting.pictures import named_pictures
    from fmbseg.predicting.results import Results, Wanted

    smoothing = Smoothing(smooth) if smooth else None
    jobs, unusable = named_pictures(images, _tell)
    if strict and unusable:
        raise DataError(unusable[0])
    tiling = None if tile is None else Tiling.of(tile)
    wanted = Wanted(scores, contours)  # type: ignore[arg-type]
    pictures, videos = parted(jobs, ordered=smoothing is not None or fps is not None)
    made = frames_name(images, fps, pictures)
    refuse_what_videos_have_not(videos, exports, frames, wanted)
    if tiling is not None and (videos or made or smoothing is not None):
        raise ConfigError("--tile is for pictures: leave it out for videos, --smooth and --fps")
    _refuse_others_files(out, pictures, wanted.endings, videos, made, words)
    refuse_changed(out, exports)
    chosen = find_method(method)
    config, head = _asked(chosen, checkpoint, preset, params, overrides)

    from fmbseg.evaluate.methods.predictor import load_predictor
    from fmbseg.machine.progress import console_progress, silent_progress
    from fmbseg.predicting.run import predict_pictures
    from fmbseg.presets.drawings import unknown_to

    paths = Paths()
    # Frames and tiles are seen once: what is kept of pictures would be of no use.
    once = made is not None or tiling is not None
    kept = paths.encodings if paths.work.is_dir() and pictures and not once else None
    predictor = load_predictor(method, config, head, kept)
    out.mkdir(parents=True, exist_ok=True)
    told = sys.stderr.isatty() or len(jobs) >= _MANY or bool(videos)
    progress = console_progress() if told else silent_progress()
    unknown = unknown_to(_models(chosen, config, head))
    reports = []
    if pictures:
        results = Results(out, words, wanted, unknown)
        with ExitStack() as stack:
            also = None
            if made is not None:
                from fmbseg.predicting.frames import video_of_pictures

                assert fps is not None
                rate = Fraction(fps).limit_denominator(1001)
                pale = any(map(unknown, pictures.values()))
                also = stack.enter_context(
                    video_of_pictures(results.ledger, made, words, rate, pale)
                )
            report = predict_pictures(
                pictures,
                predictor,
                words,
                results,
                progress,
                smoothing=smoothing,
                also=also,
                strict=strict,
                batch=_batch(config),
                tiling=tiling,
            )
        reports.append(report)
        if report.done:
            _say(report, out, wanted.endings, "picture")
            if exports:
                _export(report, words, out, exports)
    if videos:
        from fmbseg.predicting.frames import predict_videos, video_endings

        report = predict_videos(
            videos,
            predictor,
            words,
            out,
            progress,
            smoothing=smoothing,
            frames=wanted if frames else None,
            unknown=unknown,
            strict=strict,
        )
        reports.append(report)
        if report.done:
            _say(report, out, video_endings(words), "video")
    failures = [*unusable, *(line for report in reports for line in report.failures)]
    if failures:
        _name(failures, len(jobs) + len(unusable))
    _doubt(reports, words, _models(chosen, config, head), jobs.values())


def _asked(
    method: Method,
    checkpoint: Path | None,
    preset: str | None,
    params: Path,
    overrides: list[str] | None,
) -> tuple[Config, Path | None]:
    """The parameters of a method, and the folder of its head or of what a stage made for it."""
    head = checkpoint or method.head_folder(Paths())
    if method.head is None and checkpoint is not None:
        raise ConfigError(f"--method {method.name} has no trained head: leave out --checkpoint")
    if head is None:
        config = preset_config(preset, params, overrides)
    elif preset is not None:
        raise ConfigError(
            "a trained head brings its own models: --preset is for methods without one, such as "
            "--method maskclip"
        )
    elif checkpoint is None and not head.is_dir():
        raise ConfigError(
            f"no trained head in {head}: `fmbseg run align` trains one, --checkpoint names the "
            "folder of another, and --method maskclip or pseudo needs none"
        )
    else:
        config = lenient_config(params, overrides)
        config = ask_as_trained(config, head, overrides or ())
    config = with_threads(config, params, overrides)
    return config, head or method.made_folder(Paths())


def _batch(config: Config) -> int:
    """Pictures that a method takes at once.

    On a CPU one: more save no time there, and alone each gets the same bits in any folder.
    """
    from fmbseg.machine.device import find_device

    chosen = find_device(config.run.device, config.run.dtype).device
    return 1 if chosen.type == "cpu" else config.evaluate.batch_size


def _models(method: Method, config: Config, head: Path | None) -> list[str]:
    """Names of the models that see the pictures."""
    if method.made is not None:
        return [config.features.encoder]
    if head is None:
        return [config.clip.model]
    from fmbseg.align.checkpoint import load_record

    return [load_record(head).info.encoder.name]


def _tell(line: str) -> None:
    print(f"fmbseg: {line}", file=sys.stderr)


def _refuse_others_files(
    out: Path,
    pictures: Iterable[str],
    endings: Sequence[str],
    videos: Iterable[str],
    made: str | None,
    words: Vocabulary,
) -> None:
    """Refuse, before any work, a folder where results would replace what fmbseg did not write."""
    from fmbseg.predicting.run import SHEET

    if out.exists() and not out.is_dir():
        raise DataError(f"{shown(out)}: File exists: choose a folder for --out")
    ledger = Ledger(out)
    names = [f"{name}{ending}" for name in pictures for ending in endings]
    names += [SHEET] if names else []
    if videos or made:
        from fmbseg.predicting.frames import video_endings

        names += [f"{name}{ending}" for name in videos for ending in video_endings(words)]
        names += [f"{made}{VIDEO_RESULTS[0]}"] if made else []
    others = [name for name in names if not ledger.may_write(name)]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise DataError(
            f"{shown(out)} holds files that fmbseg did not write, or that were changed since: "
            f"{', '.join(others[:_NAMED])}{more}: choose another --out, nothing is replaced"
        )


def _say(report: Report, out: Path, endings: Sequence[str], kind: str) -> None:
    from fmbseg.labelling.summary import class_table
    from fmbseg.predicting.run import SHEET

    counted = "frames" if kind == "video" else "images"
    for line in class_table(report.summary, "confidence", counted):
        print(line)
    done = len(report.done)
    *first, last = (f"NAME{ending}" for ending in endings)
    more = f"; {SHEET} shows some" if kind == "picture" and report.on_sheet else ""
    number = f"{done} {kind}{'' if done == 1 else 's'}"
    print(f"{number} -> {out}: {', '.join(first)} and {last}{more}")


def _export(report: Report, words: Vocabulary, out: Path, formats: Sequence[str]) -> None:
    from fmbseg.data.formats import PREDICTED
    from fmbseg.export.source import Classes, LabelledImage, Source

    images = (
        LabelledImage(name, path, out / f"{name}{PREDICTED}") for name, path in report.done.items()
    )
    classes = Classes.of(words.names, words.background)
    export_beside(Source(classes, tuple(images)), out, formats)


def _name(failures: Sequence[str], pictures: int) -> None:
    """Raise DataError for the pictures that were not done; where they are many, each has a line."""
    reasons = "; ".join(failures)
    if len(failures) > _NAMED:
        for failure in failures:
            _tell(f"not done: {failure}")
        reasons = "reasons above"
    raise DataError(f"{len(failures)} of {pictures} not done: {reasons}")


def _doubt(
    reports: Iterable[Report],
    words: Vocabulary,
    models: Iterable[str],
    pictures: Iterable[Path],
) -> None:
    import numpy as np

    from fmbseg.presets.drawings import drawings_only
    from fmbseg.pseudo.doubt import covers_nearly_all

    areas = np.sum([report.pixels for report in reports], axis=0)
    if line := drawings_only(models, pictures):
        _log.warning("%s", line)
    if dominant := covers_nearly_all(areas, words):
        _log.warning("%s of all pictures: is that so? Look at the overlays", dominant)
