"""What the stages log their runs with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fmbseg.config import Config
from fmbseg.store.paths import Paths

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

    def report(self, config: Config, paths: Paths, files: Sequence[Path]) -> None:
        """Adds the report's files to the run of the present head, if they are not there yet."""

    def run_link(self, config: Config, paths: Paths) -> str | None:
        """Where the run of the present checkpoint is shown; None: nowhere.

        An address for a browser, where `ui_address` knows one, otherwise words.
        """
        return None
