"""`fmbseg review`: where to look first among labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    LabelledWords,
    Overrides,
    Params,
    PictureFolder,
    PresetName,
    WeightsDir,
    preset_config,
    use_weights,
)
from fmbseg.config import Config
from fmbseg.errors import DataError, WeightsError
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.export.source import Source
    from fmbseg.machine.device import DeviceChoice
    from fmbseg.models.backbone import Backbone
    from fmbseg.review.collect import Watcher

_HEAD = Paths().align
_log = logging.getLogger(__name__)


def review(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="data/pseudo/label, or what `fmbseg label` wrote."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the review goes.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"A trained head to hold the labels against. Default: {_HEAD}, if there is one.",
        ),
    ] = None,
    pictures: Annotated[
        int, typer.Option(metavar="N", min=1, help="Pictures on the page, the most doubtful ones.")
    ] = 100,
    preset: PresetName = None,
    images: PictureFolder = None,
    vocabulary: LabelledWords = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Rank pictures and masks by how doubtful their labels are.

    Written are review.html (a page to look through, by itself), masks.csv, pictures.csv, and
    order.txt, in whose order `fmbseg export --order` hands pictures to Label Studio and CVAT.
    Pictures that people have corrected are left out. The preset is the one that the labels were
    made with.
    """
    use_weights(weights_dir)
    config = preset_config(preset, params, overrides)

    from fmbseg.data.vocabulary import load_vocabulary
    from fmbseg.export.sources import open_source
    from fmbseg.machine.progress import console_progress
    from fmbseg.review.collect import collect
    from fmbseg.review.ranking import rank
    from fmbseg.review.sheet import SHEET, sheet
    from fmbseg.review.tables import MASKS, ORDER, PICTURES, masks_csv, order_txt, pictures_csv
    from fmbseg.review.words import reasons
    from fmbseg.store.ledger import Ledger

    words = None if vocabulary is None else load_vocabulary(vocabulary)
    found = open_source(source, config, images, words)
    files = (SHEET, MASKS, PICTURES, ORDER)
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out)
    for name in files:
        if not ledger.may_write(name):
            raise DataError(f"{out / name} is not by fmbseg, or was changed: choose another --out")
    progress = console_progress()
    ranking = rank(collect(found, _watcher(found, config, checkpoint), config, progress))
    names, why = found.classes.names, reasons(ranking, found.classes.names)
    page = sheet(ranking, found, config, why, pictures, progress)
    contents = (page, masks_csv(ranking, names, why), pictures_csv(ranking), order_txt(ranking))
    for name, text in zip(files, contents, strict=True):
        ledger.write(name, text.encode())
    for index in ranking.masks[:5]:
        masks = ranking.collected.masks
        image_id = ranking.collected.images[masks.image[index]].image_id
        doubt = 100 * ranking.doubt[index]
        print(f"{doubt:3.0f} %  {image_id}  {names[masks.classes[index]]}: {why[index]}")
    print(
        f"{out}: {len(ranking.pictures)} pictures in order, {len(ranking.like)} near-duplicates "
        f"and {ranking.collected.corrected} corrected ones left out; look at {out / SHEET}"
    )


def _watcher(source: Source, config: Config, checkpoint: Path | None) -> Watcher:
    from fmbseg.align.record import recorded_sha256
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.machine.device import choose_device
    from fmbseg.review.collect import Watcher

    if source.vocabulary is None:
        raise DataError(
            "there are no masks to review: give what `fmbseg run label` or `fmbseg label` wrote"
        )
    head = checkpoint or (_HEAD if recorded_sha256(_HEAD) is not None else None)
    device = choose_device(config.run)
    segmenter = None if head is None else load_segmenter(head, run=config.run)
    encoder = _encoder(config, device)
    return Watcher(source.vocabulary, segmenter, encoder, config.features.short_side)


def _encoder(config: Config, device: DeviceChoice) -> Backbone | None:
    from fmbseg.models.backbone import load_backbone

    try:
        return load_backbone(config.features.encoder, device.device, device.dtype)
    except WeightsError as error:
        _log.warning("what masks look like is left out: %s", error)
        return None
