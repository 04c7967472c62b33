"""A stage with nothing to do reads no picture and no annotation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fmbseg.store.ledger import LEDGER
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run

_heard: list[str] = []
_listening = False


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _heard.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hear)  # it stays for the whole process, and is deaf but in these tests


@pytest.fixture
def opens() -> Iterator[Callable[[Path], list[str]]]:
    """Gives the pictures and annotations below a folder opened since it was last asked."""
    global _listening
    _listening = True

    def asked(folder: Path) -> list[str]:
        # The lister looks for the ledger of what fmbseg has written; that is no picture.
        heard = [Path(name) for name in _heard]
        found = [str(f) for f in heard if f.is_relative_to(folder) and f.name != LEDGER]
        _heard.clear()
        return found

    asked(Path())
    yield asked
    _listening = False


def grow_old(folder: Path) -> None:
    """Files of long ago: those of a moment ago are read again, see `store.file_memory`."""
    for path in folder.rglob("*.*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))


STAGES = ("detect", "query", "masks", "label", "features", "align", "oracle")


def test_nothing_is_read_where_nothing_is_to_be_done(
    coco: Path, make_config: MakeConfig, opens: Callable[[Path], list[str]]
) -> None:
    grow_old(coco)
    config, paths = make_config(), Paths(coco.parent)
    for name in STAGES:
        run(name, config, paths)
    read = opens(coco)
    assert {Path(name).suffix for name in read} >= {".jpg", ".png"}  # it hears
    for name in STAGES:
        assert run(name, config, paths).computed == 0
        assert opens(coco) == [], name
        assert opened(name, config, paths).published
        assert opens(coco) == [], name


def test_a_changed_picture_is_read_and_makes_another_key(
    coco: Path, make_config: MakeConfig, opens: Callable[[Path], list[str]]
) -> None:
    grow_old(coco)
    config, paths = make_config(), Paths(coco.parent)
    before = opened("masks", config, paths).key
    picture = sorted((coco / "images").rglob("*.jpg"))[0]
    picture.write_bytes(picture.read_bytes() + b"\0")
    opens(coco)
    assert opened("masks", config, paths).key != before
    assert opens(coco) == [str(picture)]
