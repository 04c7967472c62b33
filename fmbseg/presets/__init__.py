"""Sets of models with the sizes and thresholds that go with them.

Each set is a YAML file in this folder, in the form of params.yaml, or `like` another one with what
differs; all of them name the same parameters, so that one replaces another whole. What is not of
the models (images, benchmarks, tracking, device, threads) they leave alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fmbseg.errors import ConfigError

PRESETS = ("tiny", "base", "paper", "dinov3", "c-radio", "tipsv2")
_LIKE = "like"


def preset(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a preset by section.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    own: dict[str, Any] = yaml.safe_load(text)
    if _LIKE not in own:
        return own
    sections = preset(own.pop(_LIKE))
    for section, values in own.items():
        sections[section] |= values
    return sections
