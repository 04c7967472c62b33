"""What the stages log their runs with, and the addresses those are found at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fmbseg.config import Config
from fmbseg.paths import Paths, project_folder

if TYPE_CHECKING:
    from PIL import Image

OnMetrics = Callable[[int, Mapping[str, float]], None]
Overlay = Callable[[str], "Image.Image | None"]


class Tracker:
    """Where runs are logged; this one logs nothing."""

    @contextmanager
    def training(
        self, config: Config, method: str, checkpoint: Path, key: Callable[[], str]
    ) -> Iterator[OnMetrics | None]:
        """Logs a training while it runs; gives what is to be called with epoch and metrics.

        Args:
            config: all sections.
            method: such as fmbseg.
            checkpoint: folder that the trained head is published in.
            key: gives the training's content key; called when the first epoch is done, if at all.
        """
        yield None

    def trained(self, config: Config, method: str, checkpoint: Path) -> None:
        """Logs a training that is done, if it is not logged yet; arguments as `training`."""

    def evaluation(
        self,
        config: Config,
        paths: Paths,
        method: str,
        benchmarks: Sequence[str],
        overlay: Overlay | None = None,
    ) -> None:
        """Adds what is not there yet of `metrics/<method>/<benchmark>.json` to the run.

        Args:
            config: its tracking section aside, what the results were made with.
            paths: the workspace.
            method: such as fmbseg.
            benchmarks: names.
            overlay: gives the picture of one segmented image of a benchmark.
        """

    def run_link(self, config: Config, paths: Paths) -> str | None:
        """Where the run of the present checkpoint is shown; None: nowhere.

        An address for a browser, where `ui_address` knows one, otherwise words.
        """
        return None


def open_tracker(config: Config, root: Path = Path(".")) -> Tracker:
    """The tracker of `config.tracking`; nothing is contacted before something is logged."""
    from fmbseg.mlflow_tracker import MlflowTracker

    return MlflowTracker(config, root) if config.tracking.enabled else Tracker()


def tracking_uri(uri: str, root: Path) -> str:
    """The address to log to: `MLFLOW_TRACKING_URI` where it is set, otherwise `uri`.

    A relative SQLite path is taken from the project itself, also in the copies of it that DVC
    makes below `.dvc/tmp/exps` for queued experiments.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
    scheme, separator, name = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or name.startswith("/"):
        return uri
    return f"{scheme}:///{project_folder(root).resolve() / name}"


def ui_address(uri: str) -> str | None:
    """Where a browser finds MLflow's pages: `FMBSEG_MLFLOW_UI` where it is set, otherwise `uri`.

    A server among containers has a name that only they know. A password in `uri` is left out.

    Args:
        uri: the address that runs are logged to; a database has no pages.
    """
    if own := os.environ.get("FMBSEG_MLFLOW_UI"):
        return own.rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
