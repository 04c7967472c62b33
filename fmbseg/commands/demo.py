"""`fmbseg demo`: the page in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    HeadFolder,
    Host,
    Names,
    Overrides,
    Params,
    Port,
    WeightsDir,
    lenient_config,
    use_weights,
    with_threads,
)
from fmbseg.errors import DataError, VocabularyError
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary

_CHECKPOINT = Paths().align
_EXAMPLES = 8
_SUGGESTED = 12


def demo(
    checkpoint: HeadFolder = _CHECKPOINT,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Pictures to choose from. Default: some of the demo's scenes."
        ),
    ] = None,
    host: Host = "127.0.0.1",
    name: Names = None,
    port: Port = 7860,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Of an uploaded file.")] = 20.0,
    max_megapixels: Annotated[float, typer.Option(min=0.1, help="Of a picture.")] = 12.0,
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait.")] = 32,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Open a page: choose a picture, type names, see what is where.

    It needs no network, and answers this machine alone, or who knows the password. Shown are the
    labels with names and probabilities under the mouse, CLIP's own before alignment, stage 1's with
    their query points; the label map can be saved as PNG and COCO. Ends with Ctrl-C.
    """
    use_weights(weights_dir)
    from fmbseg.web.serve import open_door

    door = open_door(host, port, name or ())
    config = lenient_config(params, overrides, outside="tiny")
    asked = ask_as_trained(config, checkpoint, overrides or ())
    from fmbseg.commands.options import named_classes
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.web.answers import Answers
    from fmbseg.web.app import Limits, create_app

    asked = with_threads(asked, params, overrides)
    segmenter = load_segmenter(checkpoint, asked.evaluate, asked.run)
    trained = segmenter.checkpoint.info.vocabularies[0]

    def read_words(text: str) -> Vocabulary:
        if not text.strip():
            raise VocabularyError("name the classes that you look for")
        return named_classes(text, None)

    app = create_app(
        Answers(segmenter, asked),
        read_words,
        trained.names[:: max(1, len(trained) // _SUGGESTED)],
        _examples(examples),
        Limits(max_megabytes, max_megapixels, waiting=queue),
    )
    print(f"open {door.address} (Ctrl-C ends it)", flush=True)
    door.serve(app)


def _examples(folder: Path | None) -> Mapping[str, Path]:
    from fmbseg.data.folder import find_pictures

    chosen = folder or Paths().scenes / "coco_stuff164k" / "images" / "val2017"
    if not chosen.is_dir():
        if folder is not None:
            raise DataError(f"{folder} is no folder: give one of pictures")
        return {}
    return {path.name: path for path in find_pictures(chosen).files[:_EXAMPLES]}
