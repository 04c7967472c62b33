from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fmbseg.store.digest import content_key, file_digest, json_digest


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_json_digest_ignores_the_order_of_keys_only() -> None:
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": [1, 2], "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])
    assert json_digest({"a": None}) != json_digest({})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_digest_refuses_what_never_equals_itself(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_digest({"a": value})


def key(sources: list[Path], **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "schema": 1,
        "params": {"stride": 32, "rule": "votes"},
        "inputs": {"manifest": "aa"},
        "weights": {"clip": "bb"},
        "threads": 2,
    }
    return content_key("detect", sources=sources, **(arguments | changes))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "one" / "detection.py"
    path.parent.mkdir()
    path.write_text("x = 1\n")
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"params": {"stride": 16, "rule": "votes"}},
        {"params": {"stride": 32}},
        {"inputs": {"manifest": "cc"}},
        {"weights": {"clip": "cc"}},
        {"weights": {}},
        {"threads": 1},
    ],
)
def test_whatever_changes_the_result_changes_the_key(
    source: Path, change: dict[str, object]
) -> None:
    assert key([source]) == key([source])
    assert key([source], **change) != key([source])


def test_source_code_is_part_of_the_key(source: Path) -> None:
    before = key([source])
    source.write_text("x = 2\n")
    assert key([source]) != before


def test_place_and_order_of_sources_are_not(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "querying.py"
    other.write_text("y = 1\n")
    moved = tmp_path / "two" / "detection.py"
    moved.parent.mkdir()
    moved.write_text("x = 1\n")
    assert key([source, other]) == key([other, moved])


def test_folder_stands_for_its_modules(source: Path) -> None:
    before = key([source.parent])
    (source.parent / "notes.md").write_text("not code")
    assert key([source.parent]) == before
    (source.parent / "querying.py").write_text("y = 1\n")
    assert key([source.parent]) != before
