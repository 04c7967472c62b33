"""The tracker that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from fmbseg.config import Config
from fmbseg.stage.tracker import Tracker


def open_tracker(config: Config, root: Path = Path(".")) -> Tracker:
    """The tracker of `config.tracking`; nothing is contacted before something is logged."""
    from fmbseg.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker(config, root) if config.tracking.enabled else Tracker()
