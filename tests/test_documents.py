"""Texts that parsers choke on: one line each, soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fmbseg.config import load_config
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.documents import parse_json, parse_yaml, read_json
from fmbseg.errors import ConfigError, FmbsegError, VocabularyError

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)
HARD = {
    "aliases": BOMB,
    "deep": "a: " + "[" * 5000,
    "deep, closed": "[" * 3000 + "]" * 3000,
    "a long number": "a: " + "9" * 5000,
    "a tag": "a: !!python/object/apply:os.system [touch pwned]",
    "a tag that fits badly": "a: !!int dog",
    "a list for a key": "? [a, b]\n: 1",
    "control characters": "a: \x00\x07",
    "an alias to nothing": "a: *b",
    "an alias to itself": f"a: &a [{', '.join(['*a'] * 17)}]",
    "two documents": "a: 1\n---\nb: 2\n",
    "long": "a: " + "x" * 2_000_000,
}


@pytest.mark.parametrize("case", HARD)
def test_hard_yaml_is_one_line(case: str, tmp_path: Path) -> None:
    begin = time.process_time()
    with pytest.raises(ConfigError, match="words is not valid YAML: ") as caught:
        parse_yaml(HARD[case], "words", ConfigError)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    path = tmp_path / "text.yaml"
    path.write_text(HARD[case], encoding="utf-8")
    for load, error in ((load_config, ConfigError), (load_vocabulary, VocabularyError)):
        with pytest.raises(error):
            load(path)
    assert time.process_time() - begin < 5


def test_dates_stay_text() -> None:
    text = "{a: 2024-11-27, b: 2024-13-45, c: 2024-11-27 10:00:00}"
    assert parse_yaml(text, "x", ConfigError) == {
        "a": "2024-11-27",
        "b": "2024-13-45",
        "c": "2024-11-27 10:00:00",
    }


def test_an_alias_is_read() -> None:
    assert parse_yaml("{a: &x [1], b: *x}", "x", ConfigError) == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "NaN", "[Infinity]", '{"a": 1', "9" * 5000, "", "\0"]
)
def test_hard_json_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(FmbsegError, match="record is not valid JSON: "):
        parse_json(text, "record", FmbsegError)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FmbsegError, match=r"a\.json is not valid JSON: "):
        read_json(tmp_path / "a.json", FmbsegError)


def test_json_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FmbsegError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json", FmbsegError)
    with pytest.raises(FmbsegError, match="cannot be read"):
        read_json(tmp_path, FmbsegError)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FmbsegError, match="is not valid JSON"):
        read_json(tmp_path / "a.json", FmbsegError)
