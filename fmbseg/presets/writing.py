"""A preset written into a file of parameters."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from fmbseg.config import parse_config
from fmbseg.errors import ConfigError
from fmbseg.presets import preset
from fmbseg.store.atomic import write_atomically


@dataclass(frozen=True)
class Change:
    """One parameter that a preset has changed.

    Attributes:
        name: `section.key`.
        old: value before; None also where the file did not name it.
        new: value now.
    """

    name: str
    old: Any
    new: Any


def apply_preset(name: str, path: Path) -> list[Change]:
    """Write a preset into a params file; comments, order and all other parameters stay.

    The file is replaced whole or not at all, and only by one that is valid.

    Returns:
        What has changed, in the preset's order; nothing: the file is left untouched.

    Raises:
        ConfigError: unknown preset; the file is missing, not YAML, or not valid with the preset.
    """
    wanted = preset(name)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: run inside the project or give --params FILE")
    round_trip = YAML()
    round_trip.Representer = _Representer
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    round_trip.indent(mapping=2, sequence=4, offset=2)
    try:
        params = round_trip.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{path} must hold sections (section: key: value)")
    changes = list(_set(params, wanted))
    text = io.StringIO()
    round_trip.dump(params, text)
    try:
        raw = yaml.safe_load(text.getvalue())
    except yaml.YAMLError as error:  # a tag, which ruamel keeps
        raise ConfigError(f"{path} is not plain YAML: {' '.join(str(error).split())}") from error
    parse_config(raw)
    if changes:
        write_atomically(path.resolve(), text.getvalue().encode())
    return changes


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, not as nothing."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _set(params: dict[str, Any], wanted: Mapping[str, Mapping[str, Any]]) -> Iterator[Change]:
    for section, values in wanted.items():
        here = params.setdefault(section, {})
        if not isinstance(here, dict):
            raise ConfigError(f"{section} must be a section (section: key: value)")
        for key, value in values.items():
            old = here.get(key)
            if key not in here or type(old) is not type(value) or old != value:
                here[key] = value
                if old != value:
                    yield Change(f"{section}.{key}", old, value)
