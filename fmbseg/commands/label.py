"""`fmbseg label`: stage 1 on any folder of pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from fmbseg.config import Config, override_config, parse_config

if TYPE_CHECKING:
    from fmbseg.labelling.folder import FolderReport

_log = logging.getLogger(__name__)
_TINY = "tiny-clip"
# Scenes, which the tiny models know, are smaller.
_PHOTO = 256


def label(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, in any depth.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the labels go.")],
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="tiny, base or paper. Default: params.yaml; where there is none, tiny.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at pictures that cannot be read.")
    ] = False,
    corrections: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="What people have corrected of these labels; merged over them."
        ),
    ] = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Label a folder of pictures with the classes you name, from words alone.

    Written are labels/NAME.png (indexed PNG, the value is the class index, 255 no label), tables of
    detections and masks, a sheet of examples and a summary. A call that was cut off goes on; a
    later one labels what is new. Pictures that cannot be read are skipped and listed.
    """
    use_weights(weights_dir)
    config = _config(preset, params, overrides)
    words = named_classes(classes, vocabulary)

    from fmbseg.labelling.folder import label_folder
    from fmbseg.machine.progress import console_progress

    report = label_folder(
        folder, words, config, out, console_progress(), strict=strict, corrections=corrections
    )
    _say(report, out)
    sizes = [min(image.width, image.height) for image in report.labelled.images]
    if config.clip.model == _TINY and max(sizes) > _PHOTO:
        base = _config("base", params, None)
        _log.warning(
            "the tiny models know drawings alone: for photos `fmbseg models pull %s %s` and take "
            "--preset base",
            base.clip.model,
            base.sam.model,
        )


def _config(preset: str | None, params: Path, overrides: list[str] | None) -> Config:
    if preset is None:
        config = lenient_config(params, overrides, outside="tiny")
    else:
        from fmbseg.presets import preset as parameters

        config = override_config(parse_config(parameters(preset)), overrides or ())
    return config.model_copy(update={"run": run_section(config, params, overrides)})


def _say(report: FolderReport, out: Path) -> None:
    found = [row for row in report.summary if row.images]
    width = max(len(row.name) for row in found)
    print(f"{'class':{width}}  images    area  similarity")
    for row in found:
        similarity = "" if row.similarity is None else f"{row.similarity:10.3f}"
        print(
            f"{row.name:{width}}  {row.images:6d}  {100 * row.area:4.1f} %  {similarity}".rstrip()
        )
    if never := [row.name for row in report.summary if not row.images and row.name != "unlabelled"]:
        print(f"in no picture ({len(never)}): {', '.join(never)}")
    skipped = report.labelled.skipped
    for reason in skipped.values():
        print(f"skipped: {reason}")
    print(
        f"{out}: {len(report.labelled.images)} pictures labelled ({report.computed} now), "
        f"{len(skipped)} skipped; sheet.png shows some"
    )
