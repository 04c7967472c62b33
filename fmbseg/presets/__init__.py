"""Sets of models with the sizes and thresholds that go with them: `tiny`, `base` and `paper`.

Each set is a YAML file in this folder, in the form of params.yaml; all of them name the same
parameters, so that one replaces another whole. What is not of the models (images, benchmarks,
tracking, device, threads) they leave alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fmbseg.errors import ConfigError

PRESETS = ("tiny", "base", "paper")


def preset(name: str) -> dict[str, dict[str, Any]]:
    """The parameters of a preset by section.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    sections: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return sections
