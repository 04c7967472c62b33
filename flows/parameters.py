"""Parameters of the flows, typed for the form in Prefect's UI, and the configuration they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fmbseg import presets
from fmbseg.config import Config, load_config, override_config, parse_config

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
    "plots",
]
Stages = Sequence[StageName]
Preset = Literal["tiny", "base", "paper"] | None
Overrides = Sequence[Annotated[str, Field(pattern=r"^\s*\w+(\.\w+)+\s*=")]]

PARAMS = Path("params.yaml")


def effective_config(
    preset: str | None,
    overrides: Sequence[str],
    root: Path = Path("."),
    params: Path = PARAMS,
) -> tuple[Config, bool]:
    """The configuration of a run, and whether it is that of params.yaml.

    Args:
        preset: its name; None, or `run.preset` of params.yaml: params.yaml as it is. Another one
            goes over params.yaml, as `fmbseg preset` would write it.
        overrides: section.key=value, over the preset.
        root: the workspace.
        params: the parameters' file, relative to the workspace.

    Raises:
        ConfigError: no such preset, or a parameter that is unknown or out of range.
    """
    config = recorded = load_config(root / params)
    if params != PARAMS and (root / PARAMS).is_file():
        recorded = load_config(root / PARAMS)
    if preset is not None and preset != config.run.preset:
        config = parse_config(_merged(config.model_dump(mode="json"), presets.preset(preset)))
    config = override_config(config, overrides)
    same = config.model_dump(exclude={"tracking"}) == recorded.model_dump(exclude={"tracking"})
    return config, same


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = _merged(inner, value)
        merged[key] = value
    return merged
