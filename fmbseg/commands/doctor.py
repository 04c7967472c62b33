"""`fmbseg doctor`: whether this machine has what a run needs, and whether a data set is sound."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from fmbseg import __version__
from fmbseg.commands import data
from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Overrides,
    Params,
    WeightsDir,
    lenient_config,
    use_weights,
)
from fmbseg.errors import ConfigError, FmbsegError, WeightsError

_LIBRARIES = ("torch", "timm", "open_clip_torch", "numpy", "prefect", "dvc", "mlflow", "onnx")


def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A data set to be examined, as `fmbseg data doctor` does: voc21, folder.",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data set's folder.")
    ] = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Check this machine: versions, device, weights, disk, folders of data; or examine a data set.

    Exit code 2 if something that a run needs is missing.
    """
    if name is not None:
        if root is None:
            raise ConfigError(f"Missing option '--root': the folder of {name}")
        data.doctor(name, root)
        return
    use_weights(weights_dir)
    config = lenient_config(params, overrides, outside="tiny")
    from fmbseg.machine.device import choose_device
    from fmbseg.models.weights import verify

    print(f"fmbseg {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for library in _LIBRARIES:
        print(f"  {library}: {_version(library)}")
    choice = choose_device(config.run)
    print(f"  computes on: {choice.device}, {choice.dtype}, {config.run.threads} threads")
    missing = []
    for model in (config.clip.model, config.sam.model, config.features.encoder):
        try:
            print(f"  weights of {model}: {verify(model)}")
        except WeightsError as error:
            missing.append(str(error))
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    print(f"  disk: {free:.1f} GB free, encodings take up to {2 * config.run.cache_gb:g} GB")
    if free < 2 * config.run.cache_gb:
        missing.append(f"{free:.1f} GB of disk are free: make room, or lower run.cache_gb")
    if params.is_file():
        places = [config.data.root]
        places += [each.root for each in config.evaluate.benchmarks.values()]
        for place in dict.fromkeys(places):
            there = Path(place).is_dir()
            print(f"  {place}: {'there' if there else 'missing'}")
            if not there:
                missing.append(f"{place} is missing: `fmbseg run scenes` draws, or put it there")
    for problem in missing:
        print(f"  wrong: {problem}")
    if missing:
        raise FmbsegError(f"{len(missing)} things are missing (above): {missing[0]}")
    print("nothing is missing")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
