from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fmbseg.store.digest import canonical_json, file_digest, json_digest


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


def test_the_form_that_content_keys_are_made_of() -> None:
    # Keys of what was computed hang on each letter: another form makes all of it anew.
    value = {"b": [1, 2.5, None, True], "a": "caf\xe9"}
    text = '{"a":"caf\xe9","b":[1,2.5,null,true]}'
    assert canonical_json(value) == text
    assert json_digest(value) == hashlib.sha256(text.encode("utf-8")).hexdigest()
