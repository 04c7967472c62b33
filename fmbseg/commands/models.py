"""`fmbseg models`: which models there are, and whether their weights are here and undamaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import DEFAULT_PARAMS, Overrides, Params, lenient_config

app = typer.Typer(help="Weights of the foundation models.", rich_markup_mode=None)


@app.command("list")
def list_models() -> None:
    """Show every model, its library, licence, and where its weights are."""
    from fmbseg.errors import WeightsError
    from fmbseg.models.weights import registry, resolve

    for record in registry().values():
        try:
            place = str(resolve(record.name))
        except WeightsError:
            place = f"missing ({record.file} from {record.source})"
        print(f"{record.name:<18} {record.library:<17} {record.licence:<14} {place}")


@app.command("verify")
def verify_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Models; without a name, all that are here."),
    ] = None,
) -> None:
    """Check the weights' sha256; a model that is named must be here."""
    from fmbseg.errors import WeightsError
    from fmbseg.models.weights import registry, resolve, verify, weights_record

    wanted = [weights_record(name).name for name in names or ()]
    if not wanted:
        for name in registry():
            try:
                resolve(name)
            except WeightsError:
                continue
            wanted.append(name)
    if not wanted:
        raise WeightsError("no weights are here: see `fmbseg models list`")
    problems = []
    for name in wanted:
        try:
            digest = verify(name)
        except WeightsError as error:
            problems.append(str(error))
            continue
        pinned = "ok" if registry()[name].sha256 else "no digest is pinned for it"
        print(f"{name:<18} {pinned} (sha256 {digest[:12]})")
    if problems:
        raise WeightsError("; ".join(problems))


@app.command("evaluate")
def evaluate_models(
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go, as JSON.")
    ] = None,
    scenes: Annotated[
        int,
        typer.Option(
            "--scenes",
            min=2,
            help="Scenes for CLIP; SAM gets half of them, the encoder's probe 12.5 times as many.",
        ),
    ] = 120,
    bsds500: Annotated[
        Path | None,
        typer.Option(
            "--bsds500",
            metavar="PATH",
            help="BSDS500's folder (images/val, groundTruth/val): SAM's covering of its photos.",
        ),
    ] = None,
    overrides: Overrides = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Measure CLIP, SAM and the frozen encoder by themselves, on scenes nothing was trained on."""
    config = lenient_config(params, overrides)

    from fmbseg.evaluate.results import write_result
    from fmbseg.models.quality import evaluate_models, quality_table
    from fmbseg.progress import console_progress

    result = evaluate_models(config, scenes, bsds500, console_progress())
    if json is not None:
        write_result(result, json)
    print(quality_table(result))
