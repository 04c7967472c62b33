"""The parameters of a call: params.yaml, what this machine has of its own, an experiment, `--set`.

Later ones go over earlier ones. An experiment is a file of `experiments/` with the parameters in
which it differs from params.yaml; it stands for overrides, `section.key=value`, so whatever takes
those takes experiments. What this machine has of its own is `params.local.yaml`, which is not in
git: no content key and no stage of DVC sees it, so it may hold only what no result depends on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fmbseg.config import Config, load_config
from fmbseg.documents import read_yaml
from fmbseg.errors import ConfigError
from fmbseg.store.paths import project_folder

EXPERIMENTS = "experiments"
LOCAL = ("run.device", "run.cache_gb", "run.strict", "tracking")
"""Parameters, or sections, that a machine may have of its own: they are in no content key."""
_ABOUT = "about"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """Parameters that differ from params.yaml, and why one would look at that.

    Attributes:
        name: of its file.
        about: one line.
        overrides: section.key=value.
    """

    name: str
    about: str
    overrides: tuple[str, ...]


def project_config(params: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a call in a project; one line says what the machine's own file changes.

    Args:
        params: file; beside it may lie `params.local.yaml`.
        overrides: section.key=value, over both.

    Raises:
        ConfigError: as `load_config`; the machine's file names a parameter that results depend on.
    """
    return load_config(params, [*_local(params), *overrides])


def experiments(params: Path) -> list[Experiment]:
    """All experiments of a project, by name.

    Args:
        params: the project's file of parameters, beside which the folder lies.

    Raises:
        ConfigError: a file is no experiment.
    """
    return [_read(path) for path in sorted((params.parent / EXPERIMENTS).glob("*.yaml"))]


def experiment(name: str, params: Path) -> Experiment:
    """An experiment by its name.

    Args:
        name: of its file, without `.yaml`.
        params: the file of parameters that it goes over.

    Raises:
        ConfigError: there is none of this name, or params.yaml is not valid with it.
    """
    known = {path.stem: path for path in (params.parent / EXPERIMENTS).glob("*.yaml")}
    if name not in known:
        there = f"choose one of {', '.join(sorted(known))}" if known else "there are none"
        raise ConfigError(f"no experiment {name!r} in {params.parent / EXPERIMENTS}: {there}")
    found = _read(known[name])
    load_config(params)  # its own mistakes are not the experiment's
    try:
        load_config(params, found.overrides)
    except ConfigError as error:
        raise ConfigError(f"{known[name]}: {error}") from error
    return found


def _read(path: Path) -> Experiment:
    raw = read_yaml(path, ConfigError)
    about = raw.pop(_ABOUT, None) if isinstance(raw, dict) else None
    if not isinstance(about, str) or not about.strip() or "\n" in about.strip():
        raise ConfigError(f"{path}: it needs `{_ABOUT}:` and one line that says what it is for")
    overrides = tuple(_overrides(raw, path))
    if not overrides:
        raise ConfigError(f"{path} changes nothing: name the parameters that differ")
    return Experiment(path.stem, about.strip(), overrides)


def _local(params: Path) -> list[str]:
    """What this machine has of its own, as overrides; none: there is no such file."""
    # A queued experiment of DVC runs in a copy that holds only what is in git.
    path = project_folder(params.parent) / f"{params.stem}.local.yaml"
    if not path.is_file():
        return []
    found = list(_overrides(read_yaml(path, ConfigError) or {}, path))
    for override in found:
        name = override.partition("=")[0]
        if not any(name == own or name.startswith(f"{own}.") for own in LOCAL):
            raise ConfigError(
                f"{path}: results depend on {name}, and neither git nor DVC sees this file: write "
                f"it into {params.name}; a machine may have its own {', '.join(LOCAL)}"
            )
    if found:
        _say(f"{path.name} holds on this machine: {', '.join(found)}")
    return found


@cache
def _say(line: str) -> None:
    """Once in a process, however often the file is read."""
    _log.warning("%s", line)


def _overrides(raw: Any, path: Path) -> Iterator[str]:
    """`section.key=value` of each parameter in nested sections."""
    if not isinstance(raw, Mapping) or not all(isinstance(each, Mapping) for each in raw.values()):
        raise ConfigError(f"{path} must hold sections (section: key: value)")

    def walk(name: str, value: Any) -> Iterator[str]:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                yield from walk(f"{name}.{key}", inner)
        else:
            yield f"{name}={_text(value)}"

    for section, values in raw.items():
        yield from walk(str(section), values)


def _text(value: Any) -> str:
    """A value as `--set` and `dvc exp run -S` take it, without a blank where it has none."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else str(value)
