"""`fmbseg compare`: a line a run, with what was changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmbseg.config import Config, override_config
from fmbseg.errors import DataError
from fmbseg.store.paths import Paths
from fmbseg.tracking.compare import chosen_runs, comparison, scored_runs
from fmbseg.tracking.open import open_tracker
from tests.tracking.world import train, write_checkpoint, write_result


def score(config: Config, root: Path, sha256: str | None, miou: float, method: str) -> None:
    write_result(Paths(root), "voc20", miou, sha256, method)
    write_result(Paths(root), "voc21", miou / 3, sha256, method)
    open_tracker(config, root).evaluation(config, Paths(root), method, ["voc20", "voc21"])


def test_runs_with_their_scores_and_what_was_changed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config, Paths(tmp_path))
    score(config, tmp_path, "abc", 66.04, "fmbseg")
    linear = override_config(config, ["align.head=linear", "align.epochs=5"])
    monkeypatch.setenv("DVC_EXP_NAME", "tired-wolf")
    write_checkpoint(Paths(tmp_path).align, "def")
    score(linear, tmp_path, "def", 50.0, "fmbseg")
    monkeypatch.delenv("DVC_EXP_NAME")
    score(config, tmp_path, None, 30.0, "maskclip")
    # A training that was not scored is no line.
    write_checkpoint(Paths(tmp_path).align, "ghi")
    other = override_config(config, ["align.head=mlp"])
    open_tracker(other, tmp_path).trained(other, "fmbseg", Paths(tmp_path).align)

    runs = scored_runs(config.tracking, tmp_path)
    lines = comparison(runs).splitlines()
    assert lines[0].split()[-3:] == ["voc21", "voc20", "changed"]
    assert len(lines) == 6
    own, changed, clip = lines[2:5]
    assert own.split()[-2:] == ["22.0", "66.0"] and " - " in own
    assert changed.split()[-4:] == ["16.7", "50.0", "align.epochs=5", "align.head=linear"]
    assert "tired-wolf" in changed
    assert "fmbseg-scenes-transformer-tsupcon-" in own and "voc21" not in own
    # The parameters that dense CLIP does not have are no difference.
    assert clip.split()[-3:] == ["10.0", "30.0", "-"] and "maskclip" in clip
    assert max(map(len, lines)) < 160

    first, second, third = runs
    assert chosen_runs(runs, ["tired-wolf", first.run_id[:8]]) == [second, first]
    assert chosen_runs(runs, ["maskclip"]) == [third]
    assert "align.head=transformer" in comparison([second, first]).splitlines()[3]
    with pytest.raises(DataError, match="no run 'nonsense'"):
        chosen_runs(runs, ["nonsense"])


def test_where_nothing_was_logged_no_database_is_made(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"uri": "sqlite:///mlflow.db"})
    with pytest.raises(DataError, match=r"no scored runs in .*mlflow\.db: run `make demo`"):
        scored_runs(section, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_one_line(config: Config, tmp_path: Path) -> None:
    section = config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    with pytest.raises(DataError, match=r"http://127.0.0.1:9 cannot be read \(.*\): is it running"):
        scored_runs(section, tmp_path)
