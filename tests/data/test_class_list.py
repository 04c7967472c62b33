"""Class lists as annotation tools and editors leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import VocabularyError

GOOD = {
    "UTF-8 with a mark": ("\ufeffdog\nsky\n".encode(), "", ("dog", "sky")),
    "UTF-16": ("dog\r\nsky\r\n".encode("utf-16"), "read as UTF-16", ("dog", "sky")),
    "UTF-16, the other way": (
        b"\xfe\xff" + "狗\n天空\n".encode("utf-16-be"),
        "read as UTF-16",
        ("狗", "天空"),
    ),
    "labelme": (
        b"__ignore__\n_background_\ndog\n",
        "__ignore__, labelme's name of what is not scored, left out",
        ("background", "dog"),
    ),
    "comments": (
        b"# my classes\ndog\n\n  # and\nsky\n",
        "2 lines that begin with #",
        ("dog", "sky"),
    ),
    "numbered": (b"0: dog\n1: hot dog\n", "numbers before the names left out", ("dog", "hot dog")),
    "numbered with tabs": (b"0\tdog\n1\tsky\n", "numbers before the names", ("dog", "sky")),
    "a number in a name": (b"3d printer\n7\n", "", ("3d printer", "7")),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_class_list_is_read_and_what_is_odd_is_told(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, told, names = GOOD[case]
    (tmp_path / "classes.txt").write_bytes(content)
    assert load_vocabulary(tmp_path / "classes.txt").names == names
    assert told in caplog.text and bool(told) == bool(caplog.messages)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("狗\n天空\n".encode("gbk"), "is not UTF-8 text .*GBK.*save it as UTF-8"),
        ("chien\ncafé\n".encode("cp1252"), "is not UTF-8 text"),
        ("dog\nsky\n".encode("utf-16-le"), "give a text file, saved as UTF-8"),
        (b"dog\n__ignore__\n", "__ignore__ is labelme's name"),
        (b"1: dog\n2: sky\n", "numbered 1 to 2, not 0 to 1"),
        (b"0: dog\n2: sky\n", "numbered 0 to 2, not 0 to 1"),
        (b"dog\n" * 300_000, "more than 1000 kB"),
        (b"\n\n# nothing\n", "has no class"),
    ],
)
def test_what_would_shift_or_garble_names_is_refused(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=reason) as caught:
        load_vocabulary(tmp_path / "classes.txt")
    assert "\n" not in str(caught.value)
