"""`fmbseg monitor`: whether pictures, or what is said of them, are still as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    use_weights,
    with_threads,
)

DRIFTED = 1
"""Exit code where there is drift."""


def monitor(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="How it was: see below what it may be.")
    ],
    current: Annotated[Path, typer.Argument(metavar="CURRENT", help="How it is.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One HTML page with all of it.")
    ] = None,
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    max_psi: Annotated[
        float, typer.Option(min=0, help="Population stability index of class shares.")
    ] = 0.2,
    max_js: Annotated[
        float, typer.Option(min=0, max=1, help="Jensen-Shannon distance of class shares.")
    ] = 0.15,
    max_ks: Annotated[
        float,
        typer.Option(min=0, max=1, help="Kolmogorov-Smirnov distance of similarities."),
    ] = 0.2,
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="How often chance may give such a distance.")
    ] = 0.01,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Hold two sets of pictures side by side: class shares, similarities, confidences.

    Each is data/pseudo/label, a folder that `fmbseg label` or `fmbseg predict` wrote, or a folder
    of pictures, in which the classes that you name are detected. Drift is a distance above its
    limit that pictures divided at random hardly ever have. Exit code: 0 no drift, 1 drift, 2 a
    mistake of yours.
    """
    use_weights(weights_dir)
    config = lenient_config(params, overrides, outside="tiny")
    words = named_classes(classes, vocabulary) if classes or vocabulary else None
    from fmbseg.machine.progress import console_progress
    from fmbseg.monitor.drift import Limits, compare
    from fmbseg.monitor.page import lines, write_page
    from fmbseg.monitor.sources import observe_both

    config = with_threads(config, params, overrides)
    limits = Limits(max_psi, max_js, max_ks, alpha)
    both = observe_both(reference, current, config, console_progress(), words)
    found = compare(*both, limits)
    for line in lines(found):
        print(line)
    if out is not None:
        write_page(found, out)
        print(f"{out}: open it in a browser")
    if found.drifted:
        raise typer.Exit(DRIFTED)
