"""`fmbseg demo`: the page in a browser."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.asking import ask_as_trained
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Overrides,
    Params,
    WeightsDir,
    lenient_config,
    run_section,
    use_weights,
)
from fmbseg.errors import ConfigError, DataError, VocabularyError
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary

_CHECKPOINT = Paths().align
_EXAMPLES = 8
_SUGGESTED = 12


def demo(
    checkpoint: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the trained alignment head.")
    ] = _CHECKPOINT,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Pictures to choose from. Default: some of the demo's scenes."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address that is listened at; the page has no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Of an uploaded file.")] = 20.0,
    max_megapixels: Annotated[float, typer.Option(min=0.1, help="Of a picture.")] = 12.0,
    queue: Annotated[int, typer.Option(min=1, help="Pictures that may wait.")] = 32,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Open a page: choose a picture, type names, see what is where.

    It needs no network, and answers this machine alone. Shown are the labels with names and
    probabilities under the mouse, CLIP's own before alignment, stage 1's with their query points;
    the label map can be saved as PNG and COCO. Ends with Ctrl-C.
    """
    use_weights(weights_dir)
    config = lenient_config(params, overrides, outside="tiny")
    asked = ask_as_trained(config, checkpoint, overrides or ())
    listener = _listen(host, port)

    import uvicorn

    from fmbseg.commands.options import named_classes
    from fmbseg.inference.segmenter import load_segmenter
    from fmbseg.web.answers import Answers
    from fmbseg.web.app import Limits, create_app
    from fmbseg.web.guard import LOOPBACK, guarded

    asked = asked.model_copy(update={"run": run_section(asked, params, overrides)})
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
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"open {address} (Ctrl-C ends it)", flush=True)
    hosts = frozenset({*LOOPBACK, host} - {"0.0.0.0", "::"})
    server = uvicorn.Server(uvicorn.Config(guarded(app, hosts, frozenset()), log_level="warning"))
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises ConfigError where the address is taken or no own one."""
    try:
        return socket.create_server((host, port), backlog=64)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}:{port}: {reason}: take another --port or --host") from error


def _examples(folder: Path | None) -> Mapping[str, Path]:
    from fmbseg.data.folder import find_pictures

    chosen = folder or Paths().scenes / "coco_stuff164k" / "images" / "val2017"
    if not chosen.is_dir():
        if folder is not None:
            raise DataError(f"{folder} is no folder: give one of pictures")
        return {}
    return {path.name: path for path in find_pictures(chosen).files[:_EXAMPLES]}
