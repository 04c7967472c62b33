"""Parameters of the flows, typed for the form in Prefect's UI, and the configuration they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from fmbseg.config import Config, load_config, override_config, parse_config
from fmbseg.errors import ConfigError

StageName = Literal[
    "scenes",
    "detect",
    "query",
    "masks",
    "label",
    "features",
    "align",
    "evaluate",
    "baselines",
    "oracle",
]
Stages = Sequence[StageName]
Preset = Annotated[str, Field(pattern=r"^[\w-]+$")] | None
Overrides = Sequence[Annotated[str, Field(pattern=r"^\s*\w+(\.\w+)+\s*=")]]

_PARAMS = Path("params.yaml")
_PRESETS = Path("presets")


def effective_config(
    preset: str | None, overrides: Sequence[str], root: Path = Path(".")
) -> tuple[Config, bool]:
    """The configuration of a run, and whether it is that of params.yaml.

    Args:
        preset: its name; None, or `run.preset` of params.yaml: params.yaml as it is. Another one
            is read from presets/NAME.yaml and goes over params.yaml.
        overrides: section.key=value, over the preset.
        root: the workspace.

    Raises:
        ConfigError: no such preset, or a parameter that is unknown or out of range.
    """
    recorded = load_config(root / _PARAMS)
    config = recorded
    if preset is not None and preset != recorded.run.preset:
        config = parse_config(_merged(recorded.model_dump(mode="json"), _preset(preset, root)))
    config = override_config(config, overrides)
    same = config.model_dump(exclude={"tracking"}) == recorded.model_dump(exclude={"tracking"})
    return config, same


def _preset(name: str, root: Path) -> Mapping[str, Any]:
    path = root / _PRESETS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in (root / _PRESETS).glob("*.yaml"))
        current = load_config(root / _PARAMS).run.preset
        raise ConfigError(
            f"unknown preset {name!r}: use {', '.join(dict.fromkeys([current, *known]))}"
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: correct it") from error
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path} must hold sections (section: key: value)")
    return _merged({"run": {"preset": name}}, raw)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = _merged(inner, value)
        merged[key] = value
    return merged
