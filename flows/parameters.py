"""Parameters of the flows, typed for the form in Prefect's UI, and the configuration they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from fmbseg import presets
from fmbseg.config import Config, load_config, override_config, parse_config
from fmbseg.params import experiment as find_experiment
from fmbseg.params import project_config
from fmbseg.pipeline.run import makes_the_same
from fmbseg.pipeline.table import ROWS


def one_of(names: Iterable[str]) -> FieldInfo:
    """One of these names; the form offers them."""
    listed = [*names]
    info: FieldInfo = Field(
        pattern=f"^({'|'.join(listed)})$", json_schema_extra={"enum": [*listed]}
    )
    return info


Stages = Sequence[Annotated[str, one_of(ROWS)]]
Preset = Annotated[str, one_of(presets.PRESETS)] | None
Overrides = Sequence[Annotated[str, Field(pattern=r"^\s*\w+(\.\w+)+\s*=")]]
Experiment = Annotated[str, Field(pattern=r"^[\w.-]+$")] | None
Runner = Literal["threads", "dask", "ray"]
Workers = Annotated[int, Field(ge=1)]
Storage = Annotated[str, Field(pattern=r"^(/|[a-z0-9+]+://)")] | None

PARAMS = Path("params.yaml")


def effective_config(
    preset: str | None,
    overrides: Sequence[str],
    root: Path = Path("."),
    params: Path = PARAMS,
    experiment: str | None = None,
) -> Config:
    """The configuration of a run.

    Args:
        preset: its name; None, or `run.preset` of params.yaml: params.yaml as it is. Another one
            goes over params.yaml, as `fmbseg preset` would write it.
        overrides: section.key=value, over the preset and the experiment.
        root: the workspace.
        params: the parameters' file, relative to the workspace.
        experiment: name of a file of experiments/, which goes over the preset.

    Raises:
        ConfigError: no such preset or experiment, or a parameter that is unknown or out of range.
    """
    config = project_config(root / params)
    if experiment is not None:
        overrides = [*find_experiment(experiment, root / params).overrides, *overrides]
    if preset is not None and preset != config.run.preset:
        raw = config.model_dump(mode="json")
        for section, values in presets.preset(preset).items():
            raw[section] |= values
        config = parse_config(raw)
    return override_config(config, overrides)


def is_params_yaml(names: Iterable[str], config: Config, root: Path = Path(".")) -> bool:
    """Whether these stages and all before them make what params.yaml, as it is now, asks for.

    Raises:
        ConfigError: params.yaml is missing or not valid.
    """
    return makes_the_same(names, config, load_config(root / PARAMS))
