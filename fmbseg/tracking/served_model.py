"""A logged model as MLflow's scoring server answers for it, without its server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fmbseg.config import TrackingSection
from fmbseg.errors import ConfigError, one_line
from fmbseg.tracking.mlflow_runs import tracking_uri

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def scoring_app(uri: str, section: TrackingSection, root: Path = Path(".")) -> ASGIApp:
    """MLflow's application with `/invocations` and `/ping` for a model.

    Args:
        uri: such as `models:/fmbseg@champion`.
        section: where runs are logged to.
        root: a project's folder.

    Raises:
        ConfigError: there is no such model, or nothing answers where it should be.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import init

    mlflow.set_tracking_uri(tracking_uri(section.uri, root))
    try:
        app: ASGIApp = init(mlflow.pyfunc.load_model(uri))
    except (MlflowException, OSError) as error:
        raise ConfigError(
            f"model {uri} cannot be loaded ({one_line(error)}): name one with --model"
        ) from error
    return app
