"""`fmbseg experiments`: the files of experiments/, listed and shown."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from fmbseg.commands.options import DEFAULT_PARAMS, Params, experiment_names
from fmbseg.errors import ConfigError


def experiments(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", autocompletion=experiment_names, help="One of them. Default: all."
        ),
    ] = None,
    dvc: Annotated[
        bool,
        typer.Option("--dvc", help="Print NAME as options of `dvc exp run`, and nothing else."),
    ] = False,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """List the experiments: files of experiments/ with what they change in params.yaml.

    `fmbseg run STAGE --experiment NAME` and `fmbseg evaluate --experiment NAME` use one, as does
    the parameter `experiment` of Prefect's deployments. DVC takes it by
    `dvc exp run -n NAME $(fmbseg experiments NAME --dvc)`.
    """
    from fmbseg.params import experiment
    from fmbseg.params import experiments as listed

    if name is None:
        if dvc:
            raise ConfigError(
                "--dvc needs the name of an experiment: `fmbseg experiments` lists them"
            )
        found = listed(params)
        width = max((len(each.name) for each in found), default=0)
        for each in found:
            print(f"{each.name:{width}}  {each.about}")
        if not found:
            print("no experiments: write experiments/NAME.yaml (docs/experiments.md)")
        return
    chosen = experiment(name, params)
    if dvc:
        print(" ".join(f"-S {shlex.quote(each)}" for each in chosen.overrides))
        return
    print(chosen.about)
    for override in chosen.overrides:
        print(f"  {override}")
