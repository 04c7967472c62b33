"""The printed table of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fmbseg.errors import DataError
from fmbseg.evaluate.results import write_result
from fmbseg.evaluate.table import result_table


def put(metrics: Path, method: str, benchmark: str, miou: float | None, **more: Any) -> None:
    result = {"benchmark": benchmark, "method": method, "miou": miou, "images": 4, **more}
    write_result(result, metrics / method / f"{benchmark}.json")


def test_table_of_methods_and_benchmarks(tmp_path: Path) -> None:
    put(tmp_path, "oracle", "voc21", 51.0)
    put(tmp_path, "fmbseg", "voc21", 30.04)
    put(tmp_path, "maskclip", "coco_stuff", None, images=7)
    put(tmp_path, "fmbseg", "coco_stuff", 20.26, images=9)
    lines = result_table(tmp_path).splitlines()
    assert lines[0].split() == ["mIoU,", "%", "voc21", "coco_stuff"]  # as in the published table
    assert set(lines[1]) == {"-"}
    assert [line.split() for line in lines[2:6]] == [
        ["fmbseg", "30.0", "20.3"],
        ["maskclip", "-", "-"],
        ["oracle", "51.0", "-"],
        ["images", "4", "7/9"],
    ]
    assert lines[6:] == ["oracle = same encoder and head, trained on truth: the ceiling"]


def test_scenes_and_tiny_models_are_said(tmp_path: Path) -> None:
    unseen = {"miou": 12.0, "images": 2}
    protocol = {"weights": {"tiny-clip": "abc"}}
    put(tmp_path, "maskclip", "voc21", 10.0, without_held_out_glyphs=unseen, protocol=protocol)
    table = result_table(tmp_path)
    assert "10.0 (12.0)" in table
    assert "never saw" in table
    assert "do not compare" in table
    assert "oracle" not in table


def test_no_results_and_damage_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results in"):
        result_table(tmp_path / "none")
    (tmp_path / "fmbseg").mkdir()
    (tmp_path / "fmbseg" / "voc21.json").write_text("{}")
    with pytest.raises(DataError, match=r"voc21\.json"):
        result_table(tmp_path)
