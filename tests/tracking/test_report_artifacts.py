"""Page and card of a run are among its artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker
from tests.tracking.world import parent_runs, train


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = Paths(tmp_path).report
    folder.mkdir(parents=True)
    made = [folder / "index.html", folder / "README.md"]
    for path in made:
        path.write_text(path.name)
    return made


def test_the_report_is_in_the_run_of_its_head_and_is_logged_once(
    config: Config, tmp_path: Path, files: list[Path]
) -> None:
    paths, tracker = Paths(tmp_path), open_tracker(config, tmp_path)
    train(config, paths)
    (run,) = parent_runs(config)
    client = MlflowClient(config.tracking.uri)
    times = []
    for _ in range(2):
        tracker.report(config, paths, files)
        shown = client.list_artifacts(run.info.run_id, "report")
        assert [Path(each.path).name for each in shown] == ["README.md", "index.html"]
        place = Path(client.download_artifacts(run.info.run_id, "report/index.html"))
        times.append(place.stat().st_mtime_ns)
    assert times[0] == times[1]
    files[0].write_text("scored anew")
    tracker.report(config, paths, files)
    place = Path(client.download_artifacts(run.info.run_id, "report/index.html"))
    assert place.read_text() == "scored anew"


def test_a_report_without_a_run_is_no_error(
    config: Config, tmp_path: Path, files: list[Path]
) -> None:
    open_tracker(config, tmp_path).report(config, Paths(tmp_path), files)
    assert parent_runs(config) == []
