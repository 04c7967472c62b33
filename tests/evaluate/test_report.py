"""The table as Markdown, CSV and LaTeX: published rows beside, and never mistaken for measured."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmbseg.errors import DataError
from fmbseg.evaluate.published import COLUMNS, PEER_COLUMNS, PEERS, TABLE_1
from fmbseg.evaluate.report import build_report, comma_separated, latex, markdown, write_report
from fmbseg.evaluate.results import OWN_WORDS, write_result

# Table 1 of arXiv 2403.09307, line by line.
PRINTED = """
GroupViT|41M + labels|50.4|79.7|18.7|27.5|15.3|11.1|9.2
MaskCLIP|-|38.8|74.9|23.6|20.6|16.4|12.6|9.8
ReCo|-|25.1|57.7|19.9|31.6|14.8|21.1|11.2
TCL|15M + labels|55.0|83.2|33.9|31.6|22.4|24.0|17.1
CLIP-S4|0.12M|-|-|33.6|-|22.1|-|-
SCCLIP|-|59.1|-|30.4|-|22.4|-|-
CLIP-DIY|-|59.0|-|30.4|-|-|-|-
CaR|-|67.6|-|30.5|36.6|-|-|-
SAM-CLIP|41M|60.6|-|29.2|-|31.5|-|17.1
FMbSeg|0.12M|67.73|85.65|42.72|57.63|29.88|28.36|16.25
"""


def put(metrics: Path, method: str, benchmark: str, miou: float | None, **more: Any) -> None:
    protocol = {"name": "fmbseg", "weights": {"tiny-clip": "abc", "tiny-encoder": "def"}}
    result = {"benchmark": benchmark, "method": method, "miou": miou, "images": 4}
    more = {"protocol": protocol, "checkpoint_sha256": "1", **more}
    write_result(result | more, metrics / method / f"{benchmark}.json")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    oracle = {"best_miou": 33.333, "best_threshold": 0.35, "miou": {"0.3": 30.0, "0.35": 33.333}}
    put(tmp_path, "maskclip", "voc21", 10.0, checkpoint_sha256=None)
    put(tmp_path, "fmbseg", "voc21", 30.047, threshold_oracle=oracle)
    put(tmp_path, "fmbseg", "camvid", 20.0, images=7)
    put(tmp_path, "fmbseg", "ade20k", None)
    put(tmp_path, "Group_ViT", "voc21", 50.5, protocol={"name": "predictions"})
    return tmp_path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_published_rows_are_as_printed(results: Path) -> None:
    printed = [line.split("|") for line in PRINTED.strip().splitlines()]
    assert [row.method for row in TABLE_1] == [line[0] for line in printed]
    published = [
        row
        for row in rows_of(comma_separated(build_report(results)))
        if row["source"] == "published"
    ]
    for row, (method, data, *values) in zip(published, printed, strict=True):
        assert (row["method"], row["basis"]) == (method, data)
        assert [row[name] or "-" for name in COLUMNS] == values


def test_measured_rows_come_first_and_say_what_they_are(results: Path) -> None:
    rows = rows_of(comma_separated(build_report(results)))
    ours, baseline, theirs = rows[:3]
    assert (ours["method"], ours["source"]) == ("fmbseg", "measured here")
    assert ours["basis"] == "fmbseg, tiny-clip, tiny-encoder"
    assert (ours["voc21"], ours["camvid"], ours["ade20k"]) == ("30.05", "20.00", "")
    assert (ours["images voc21"], ours["images camvid"]) == ("4", "7")
    assert (baseline["method"], baseline["voc21"]) == ("maskclip", "10.00")
    assert theirs["source"] == "its label maps, scored here"
    assert {row["source"] for row in rows[3:]} == {"published"}


def test_results_of_another_head_or_protocol_are_a_row_of_their_own(results: Path) -> None:
    put(results, "fmbseg", "voc20", 40.0, checkpoint_sha256="2")
    put(results, "fmbseg", "context59", 5.0, protocol={"name": "sclip", "weights": {}})
    rows = [r for r in rows_of(comma_separated(build_report(results))) if r["method"] == "fmbseg"]
    assert sorted(row["voc20"] + row["voc21"] + row["context59"] for row in rows) == [
        "30.05",
        "40.00",
        "5.00",
    ]


def test_results_with_other_words_are_a_row_of_their_own_and_say_so(results: Path) -> None:
    weights = {"tiny-clip": "abc", "tiny-encoder": "def"}
    own = {"name": "fmbseg", "weights": weights, "vocabulary": OWN_WORDS}
    put(results, "fmbseg", "voc21", 30.0, protocol=own)
    for benchmark, miou in (("voc20", 41.0), ("ade20k", 12.0)):
        put(results, "fmbseg", benchmark, miou, protocol=own | {"vocabulary": "sclip"})
    rows = [r for r in rows_of(comma_separated(build_report(results))) if r["method"] == "fmbseg"]
    by_basis = {row["basis"]: (row["voc21"], row["voc20"], row["ade20k"]) for row in rows}
    assert by_basis == {
        "fmbseg, tiny-clip, tiny-encoder": ("30.00", "", ""),
        "fmbseg, tiny-clip, tiny-encoder, words of sclip": ("", "41.00", "12.00"),
    }


def test_scenes_are_never_mistaken_for_the_benchmark(results: Path) -> None:
    assert "synthetic" not in markdown(build_report(results))
    unseen = {"miou": 1.0, "images": 2}
    put(results, "fmbseg", "voc20", 40.0, without_held_out_glyphs=unseen)
    text = markdown(build_report(results))
    (row,) = (line for line in text.splitlines() if "40.00" in line)
    assert row.startswith("| fmbseg | measured here, synthetic scenes |") and "30.05" not in row
    assert "not the real benchmarks" in text


def test_markdown_says_what_is_published_and_what_is_an_oracle(results: Path) -> None:
    text = markdown(build_report(results))
    table, _, rest = text.partition("**Peers as published")
    _, _, oracle = rest.partition("**Oracle, not a result")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert all("published" in line for line in lines[5:])
    assert "other weights and other training data" in table
    assert "do not compare" in table
    assert "Context-60" in table
    assert "images: PV-21" not in table and "voc21 4" in table and "camvid 7" in table
    assert "33.33" in oracle and "0.35" in oracle and "33.33" not in table


def test_peers_stand_apart_by_what_they_may_use(results: Path) -> None:
    report = build_report(results)
    write_report(report, results)
    rows = rows_of((results / "peers.csv").read_text())
    assert not {row["method"] for row in rows} & {"fmbseg", "FMbSeg", "maskclip"}
    by_use = {row["may use"] for row in rows}
    assert len(by_use) == 4 and any("supervised" in use for use in by_use)
    found = {row["method"]: row for row in rows}
    assert all(row["source"] for row in rows)
    # The order of the figures is that of their sources, with Context-60 and Context-59.
    assert [found["Talk2DINO"][name] for name in PEER_COLUMNS] == (
        ["65.8", "37.7", "45.1", "88.5", "42.4", "30.2", "38.1", "22.5"]
    )
    assert found["NACLIP + PAMR"]["cityscapes"] == "38.27"
    assert "supervised" in found["SAM3 as it is"]["may use"]
    table, _, peers = markdown(report).partition("**Peers as published")
    assert "ProxyCLIP" not in table and "no ranking" in peers
    for group in PEERS:
        assert group.title in peers and group.title in latex(report)


def test_what_was_refined_is_a_row_of_its_own(results: Path) -> None:
    weights = {"tiny-clip": "abc", "tiny-encoder": "def"}
    put(results, "maskclip", "voc20", 60.0, protocol={"name": "fmbseg", "weights": weights})
    refined = {"name": "fmbseg", "weights": weights, "refine": "pamr"}
    put(results, "maskclip", "ade20k", 61.0, protocol=refined)
    rows = rows_of(comma_separated(build_report(results)))
    by_basis = {row["basis"]: row["ade20k"] for row in rows if row["method"] == "maskclip"}
    assert by_basis["fmbseg, tiny-clip, tiny-encoder, refined: pamr"] == "61.00"


def test_what_was_trained_on_corrections_is_a_row_that_says_so(results: Path) -> None:
    corrected = {"labels": "stage 1", "corrected_images": 7, "corrected_pixels": 9}
    put(results, "fmbseg", "cityscapes", 33.0, supervision=corrected)
    report = build_report(results)
    own = [row for row in report.rows if row.method == "fmbseg" and "cityscapes" in row.miou]
    assert [row.source for row in own] == ["measured here +"]
    assert own[0].basis.endswith("trained on 7 pictures corrected by people")
    assert "+ not annotation-free: trained on 7 pictures corrected by people" in report.notes


def test_latex_is_escaped_and_every_row_has_all_cells(results: Path) -> None:
    text = latex(build_report(results))
    assert r"Group\_ViT" in text
    assert "coco_" not in text.replace(r"coco\_", "")
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    wide = [line for line in rows if line.replace(r"\&", "").count("&") == 2 + len(COLUMNS) + 1]
    # The peers' table is as wide: three columns of text and eight of figures.
    peers = sum(len(group.rows) for group in PEERS)
    assert len(wide) == 1 + 3 + len(TABLE_1) + 1 + peers
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3


def test_files(results: Path) -> None:
    written = write_report(build_report(results), results)
    assert [path.name for path in written] == [
        "table.md",
        "table.csv",
        "table.tex",
        "peers.csv",
        "threshold_oracle.csv",
    ]
    sweep = rows_of((results / "threshold_oracle.csv").read_text())
    assert [row["chosen on truth"] for row in sweep] == ["", "best"]
    # The table's own files are no results: it can be made again.
    report = build_report(results)
    write_report(report, results)
    # Of results that are no longer there nothing stays.
    assert len(write_report(replace(report, sweeps=()), results)) == 4
    assert not (results / "threshold_oracle.csv").exists()


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fmbseg evaluate --all"):
        build_report(tmp_path)
