"""`fmbseg models`: which models there are, fetching their weights, and whether they are right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Overrides,
    Params,
    WeightsDir,
    lenient_config,
    require_place,
    use_weights,
)
from fmbseg.errors import WeightsError

app = typer.Typer(help="Weights of the foundation models.", rich_markup_mode=None)

_UNCHECKED = "not checked, no sha256 is known"
_OTHERS = "timm/NAME[@LAYERS] and open_clip/NAME/TAG name any other encoder and CLIP"


@app.command("list")
def list_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Models; without a name, those of the registry. {_OTHERS}.",
        ),
    ] = None,
    weights_dir: WeightsDir = None,
) -> None:
    """Show models: library, size, licence, their file, the folder it is here in, where it is from.

    Brought by other means, a file has to have the name shown: hubs call many files alike.
    """
    use_weights(weights_dir)
    from fmbseg.evaluate.table import aligned
    from fmbseg.models.records import registry, weights_record

    rows = [("name", "library", "size", "licence", "file", "here", "from")]
    for name in names or registry():
        record = weights_record(name)
        path = weights_file(name)
        megabytes = record.megabytes if path is None else path.stat().st_size / 1e6
        size = "?" if megabytes is None else f"{megabytes:,.1f} MB"
        place = (record.file, "no") if path is None else (path.name, str(path.parent))
        rows.append((name, record.library, size, record.licence, *place, record.origin))
    print("\n".join(aligned(rows, left=(0, 1, 3, 4, 5, 6))))


@app.command("pull")
def pull_models(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help=f"Models; {_OTHERS}.")],
    weights_dir: WeightsDir = None,
) -> None:
    """Fetch weights from where they were published, and check them against a stated sha256.

    What is here and right is left alone; a download that was cut off goes on. On a machine without
    network, or with HF_HUB_OFFLINE=1, the message names the file to bring and where to put it.
    """
    use_weights(weights_dir, made=True)
    from fmbseg.models.records import weights_record
    from fmbseg.models.weights import pinned_digest, pull

    def fetch(name: str) -> str:
        path = pull(name)
        checked = pinned_digest(weights_record(name), path) is not None
        return str(path) if checked else f"{path} ({_UNCHECKED})"

    _each(names, fetch)


@app.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Models; without a name, all of the registry that are here."
        ),
    ] = None,
    weights_dir: WeightsDir = None,
) -> None:
    """Check the weights' sha256 against the published one; a model that is named must be here."""
    use_weights(weights_dir)
    from fmbseg.models.records import registry, weights_record
    from fmbseg.models.weights import pinned_digest, resolve, verify

    def check(name: str) -> str:
        digest = verify(name)
        pinned = pinned_digest(weights_record(name), resolve(name))
        return f"{'ok' if pinned else _UNCHECKED} (sha256 {digest[:12]})"

    here = names or [name for name in registry() if weights_file(name) is not None]
    if not here:
        raise WeightsError("no weights are here: see `fmbseg models list`")
    _each(here, check)


def weights_file(name: str) -> Path | None:
    """Where a model's weights are; None: not here."""
    from fmbseg.models.weights import resolve

    try:
        return resolve(name)
    except WeightsError:
        return None


def _each(names: Iterable[str], action: Callable[[str], str]) -> None:
    """Do all, print what each gives, and name at the end what failed; unknown names come first."""
    from fmbseg.models.records import weights_record

    wanted = [weights_record(name).name for name in names]
    problems = []
    for name in wanted:
        try:
            print(f"{name:<18} {action(name)}", flush=True)
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError("; ".join(problems))


@app.command("evaluate")
def evaluate_models(
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")
    ] = None,
    scenes: Annotated[
        int,
        typer.Option(
            min=2,
            help="Scenes for CLIP; SAM gets half of them, and the encoder's probe learns from 12.5 "
            "times as many.",
        ),
    ] = 120,
    bsds500: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="BSDS500's folder (images/val, groundTruth/val): SAM's covering of its photos.",
        ),
    ] = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Measure CLIP, SAM and the frozen encoder by themselves, on scenes nothing was trained on."""
    use_weights(weights_dir)
    config = lenient_config(params, overrides, outside="tiny")
    if json is not None:
        require_place(json)

    from fmbseg.evaluate.results import write_result
    from fmbseg.machine.progress import console_progress
    from fmbseg.quality import evaluate_models, quality_table

    result = evaluate_models(config, scenes, bsds500, console_progress())
    try:
        if json is not None:
            write_result(result, json)
    finally:
        print(quality_table(result))
    print("\nof these weights:")
    for name, sha256 in result["weights"].items():
        print(f"{name}  sha256 {sha256}")
    if bsds500 is None:
        print("\nSAM's covering of photos is measured with --bsds500 PATH")
