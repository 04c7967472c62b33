"""Options that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.asking import overridden
from fmbseg.config import Config, load_config, override_config, parse_config
from fmbseg.errors import ConfigError, FmbsegError, VocabularyError

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary

DEFAULT_PARAMS = Path("params.yaml")


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion of a parameter that takes one of some names, or something of the user's."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def vocabularies() -> Iterable[str]:
    """Names that a vocabulary may be given by."""
    from fmbseg.data.vocabulary import variant_names, vocabulary_names

    return (*vocabulary_names(), *variant_names())


Params = Annotated[Path, typer.Option("--params", metavar="FILE", help="Parameters of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one parameter for this call; may be repeated.",
    ),
]


def experiment_names(incomplete: str = "") -> list[str]:
    """Shell completion of an experiment's name."""
    from fmbseg.params import experiments

    with suppress(FmbsegError):
        return [e.name for e in experiments(DEFAULT_PARAMS) if e.name.startswith(incomplete)]
    return []


ExperimentName = Annotated[
    str | None,
    typer.Option(
        "--experiment",
        metavar="NAME",
        autocompletion=experiment_names,
        help="What experiments/NAME.yaml changes; `fmbseg experiments` lists them. --set goes over "
        "it.",
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAMES",
        help='Such as "dog|puppy, cat>0.24, -wolf": synonyms, a least cosine, what is no class.',
    ),
]
VocabularyName = Annotated[
    str | None,
    typer.Option(
        "--vocabulary",
        metavar="NAME|FILE",
        autocompletion=completing(vocabularies),
        help="A benchmark's names, or a YAML or .txt file.",
    ),
]
RestName = Annotated[
    str | None,
    typer.Option(
        "--rest",
        metavar="NAME",
        help="The class of what is none of the others. Default: background, where one class alone "
        "is named, or what is no class.",
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(
        "--groups", metavar="FILE", help="Classes merged or renamed, `animal: [dog, cat]`."
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="tiny, base or paper. Default: params.yaml; where there is none, tiny.",
    ),
]
PictureRoot = Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, in any depth.")]
Order = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Image ids, a line each (order.txt of `fmbseg review`): those pictures alone.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at pictures that cannot be read.")]
HeadFolder = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of the trained alignment head.")
]
# Of labels that were made earlier.
PictureFolder = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="FOLDER", help="Where the pictures are, if not where they were."
    ),
]
LabelledWords = Annotated[
    str | None,
    typer.Option(
        "--vocabulary", metavar="NAME|FILE", help="Classes of the labels, if not those recorded."
    ),
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        metavar="DIR",
        help="Folder of the models' weights, in place of the one in FMBSEG_WEIGHTS.",
    ),
]
# Of servers.
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Where it listens. One that other machines reach needs a password: "
        "FMBSEG_LOGIN=user:password in the environment.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="A further name that it is called by; may be repeated."),
]


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A parser of an option that takes one of some names."""
    known = tuple(names)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}")
        return value

    return parse


def use_weights(folder: Path | None, *, made: bool = False) -> None:
    """Look for weights in a folder as if FMBSEG_WEIGHTS named it, in processes started here too.

    Args:
        folder: None: what the variable says holds.
        made: the folder may be missing: it is yet to be made.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return
    place = folder.expanduser().absolute()
    if not made and not place.is_dir():
        raise ConfigError(
            f"--weights-dir: {place} is no folder: name another, or fetch weights into it with "
            "`fmbseg models pull`"
        )
    os.environ["FMBSEG_WEIGHTS"] = str(place)


def require_place(file: Path) -> None:
    """Refuse, before long work, a place where its result cannot be written.

    Raises:
        ConfigError: the file is a folder or a device, or its folder cannot be written to.
    """
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file} is no regular file: name one for the result")
    folder = next(place for place in file.absolute().parents if place.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{file} cannot be written: {folder} is no folder that takes files")


def lenient_config(params: Path, overrides: list[str] | None, outside: str | None = None) -> Config:
    """The configuration of a call that also works outside a project.

    Args:
        params: file; the project's own may be missing.
        overrides: applied in order.
        outside: preset that holds where there is no project; None: the defaults.

    Raises:
        ConfigError: a named file is missing, or a parameter is unknown or out of range.
    """
    if params != DEFAULT_PARAMS or params.exists():
        from fmbseg.params import project_config

        return project_config(params, overrides or ())
    if outside is None:
        return load_config(None, overrides or ())
    from fmbseg.presets import preset

    return override_config(parse_config(preset(outside)), overrides or ())


def with_experiment(experiment: str | None, params: Path, overrides: list[str] | None) -> list[str]:
    """The overrides of a call that may name an experiment: its own, and --set over them.

    Raises:
        ConfigError: there is no such experiment, or params.yaml is not valid with it.
    """
    if experiment is None:
        return [*(overrides or ())]
    from fmbseg.params import experiment as find

    return [*find(experiment, params).overrides, *(overrides or ())]


def preset_config(preset: str | None, params: Path, overrides: list[str] | None) -> Config:
    """The configuration of a call that may name a preset in the place of the project's own.

    Raises:
        ConfigError: as `lenient_config`, or there is no such preset.
    """
    if preset is None:
        return lenient_config(params, overrides, outside="tiny")
    from fmbseg.presets import preset as parameters

    return override_config(parse_config(parameters(preset)), overrides or ())


def with_threads(config: Config, params: Path, overrides: list[str] | None) -> Config:
    """Without a file of parameters that says otherwise, as many threads as the machine gives."""
    import torch

    if params.exists() or "run.threads" in overridden(overrides or ()):
        return config
    run = config.run.model_copy(update={"threads": torch.get_num_threads()})
    return config.model_copy(update={"run": run})


def named_classes(
    classes: str | None,
    vocabulary: str | None,
    rest: str | None = None,
    groups: Path | None = None,
) -> Vocabulary:
    """The classes that a call names by --classes or by --vocabulary.

    Args:
        classes: names, parted by commas.
        vocabulary: name or file.
        rest: name of the class of what is none of the others, see `with_rest`.
        groups: file of classes that are merged or renamed.

    Raises:
        VocabularyError: none or both are given, or the names are no class list.
    """
    if (classes is None) == (vocabulary is None):
        raise VocabularyError('give either --classes "dog, cat" or --vocabulary voc21')
    from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names, with_rest
    from fmbseg.data.vocabulary.grouping import load_grouping

    if vocabulary is not None:
        words = with_rest(load_vocabulary(vocabulary), rest)
    else:
        words = vocabulary_from_names([name.strip() for name in str(classes).split(",")], rest=rest)
    return words if groups is None else load_grouping(groups, words.names).merged(words)
