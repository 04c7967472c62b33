"""The printed table of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fmbseg.errors import DataError
from fmbseg.evaluate.report import build_report
from fmbseg.evaluate.results import current_results, write_result
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
    said = "oracle = same encoder and head, trained on truth: no ceiling for the other methods"
    assert lines[6:] == [said]


def test_scenes_and_tiny_models_are_said(tmp_path: Path) -> None:
    unseen = {"miou": 12.0, "images": 2}
    protocol = {"weights": {"tiny-clip": "abc"}}
    put(tmp_path, "maskclip", "voc21", 10.0, without_held_out_glyphs=unseen, protocol=protocol)
    table = result_table(tmp_path)
    assert "10.0 (12.0)" in table
    assert "never saw" in table
    assert "do not compare" in table
    assert "oracle" not in table


def test_what_people_have_corrected_is_never_shown_as_annotation_free(tmp_path: Path) -> None:
    plain = {"labels": "stage 1", "corrected_images": 0, "corrected_pixels": 0}
    put(tmp_path, "fmbseg", "voc21", 40.0, supervision=plain)
    put(tmp_path, "oracle", "voc21", 60.0, supervision=plain | {"labels": "ground truth"})
    assert "+" not in result_table(tmp_path)
    put(tmp_path, "fmbseg", "voc20", 50.0, supervision=plain | {"corrected_images": 20})
    lines = result_table(tmp_path).splitlines()
    (row,) = [line for line in lines if line.startswith("fmbseg")]
    assert "40.0 " in row and "50.0+" in row
    assert "+ not annotation-free: trained on 20 pictures corrected by people" in lines
    put(tmp_path, "fmbseg", "voc20", 50.0, supervision=plain | {"labels": "data.labels"})
    assert "trained on labels of data.labels" in result_table(tmp_path)


def test_no_results_and_damage_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results in"):
        result_table(tmp_path / "none")
    (tmp_path / "fmbseg").mkdir()
    (tmp_path / "fmbseg" / "voc21.json").write_text("{}")
    with pytest.raises(DataError, match=r"voc21\.json"):
        result_table(tmp_path)


def test_results_of_an_earlier_head_are_marked_and_left_out(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    put(metrics, "fmbseg", "voc21", 59.3, checkpoint_sha256="first")
    put(metrics, "fmbseg", "voc20", 42.0, checkpoint_sha256="second")
    put(metrics, "oracle", "voc21", 61.0, checkpoint_sha256="first")
    put(metrics, "maskclip", "voc21", 20.0, checkpoint_sha256=None)
    put(metrics, "GroupViT", "voc21", 50.4, checkpoint_sha256=None)
    # No head is here, as in a fresh clone: nothing is known.
    assert "*" not in result_table(metrics)
    assert len(current_results(metrics)) == 5
    write_sha256(tmp_path / "data" / "align", "second")
    lines = result_table(metrics).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:6]}
    assert rows == {
        "fmbseg": ["59.3*", "42.0"],
        "maskclip": ["20.0", "-"],
        "oracle": ["61.0", "-"],
        "GroupViT": ["50.4", "-"],
    }
    assert "* of an earlier head than the one that is there now" in lines[7]
    kept = [(result["method"], result["benchmark"]) for result in current_results(metrics)]
    assert ("fmbseg", "voc21") not in kept and len(kept) == 4
    # The oracle is held against its own head.
    write_sha256(tmp_path / "data" / "oracle", "third")
    assert "61.0*" in result_table(metrics)
    report = build_report(metrics)
    assert "left out: 2 results of an earlier head" in report.notes
    write_sha256(tmp_path / "data" / "align", "first")
    assert "59.3*" not in result_table(metrics) and "42.0*" in result_table(metrics)


def write_sha256(head: Path, sha256: str) -> None:
    head.mkdir(parents=True, exist_ok=True)
    (head / "checkpoint.json").write_text(json.dumps({"sha256": sha256}))
