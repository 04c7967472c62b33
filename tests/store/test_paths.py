from __future__ import annotations

from pathlib import Path

from fmbseg.store.paths import Paths, project_folder


def test_a_workspace_keeps_its_own_work() -> None:
    assert Paths().shards == Path(".fmbseg/shards")
    assert Paths(Path("here")).training == Path("here/.fmbseg/align")


def test_queued_experiments_share_the_work_and_not_the_outs(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    assert project_folder(copy) == tmp_path
    assert Paths(copy).shards == Paths(tmp_path).shards
    assert Paths(copy).align == copy / "data" / "align"
