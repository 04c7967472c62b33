"""`fmbseg label`: stage 1 on any folder of pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.exporting import Formats, export_beside, parse_formats, refuse_changed
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ClassNames,
    Groups,
    Overrides,
    Params,
    PictureRoot,
    PresetName,
    RestName,
    Strict,
    VocabularyName,
    WeightsDir,
    named_classes,
    preset_config,
    use_weights,
    with_threads,
)

if TYPE_CHECKING:
    from fmbseg.labelling.folder import FolderReport

_log = logging.getLogger(__name__)


def label(
    folder: PictureRoot,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the labels go.")],
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    rest: RestName = None,
    groups: Groups = None,
    preset: PresetName = None,
    formats: Formats = None,
    strict: Strict = False,
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
    config = with_threads(preset_config(preset, params, overrides), params, overrides)
    words = named_classes(classes, vocabulary, rest, groups)
    exports = parse_formats(formats)
    refuse_changed(out, exports)

    from fmbseg.labelling.folder import label_folder
    from fmbseg.machine.progress import console_progress

    report = label_folder(
        folder, words, config, out, console_progress(), strict=strict, corrections=corrections
    )
    _say(report, out)
    if exports:
        from fmbseg.export.sources import open_source

        export_beside(open_source(out, config), out, exports)
    from fmbseg.presets.drawings import drawings_only

    if line := drawings_only([config.clip.model], [folder]):
        _log.warning("%s", line)


def _say(report: FolderReport, out: Path) -> None:
    from fmbseg.labelling.summary import class_table

    for line in class_table(report.summary, "similarity"):
        print(line)
    skipped = report.labelled.skipped
    for reason in skipped.values():
        print(f"skipped: {reason}")
    print(
        f"{out}: {len(report.labelled.images)} pictures labelled ({report.computed} now), "
        f"{len(skipped)} skipped; sheet.png shows some"
    )
