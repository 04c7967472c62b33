"""A changed byte never becomes a result: of every kind of file that is written and read back.

`FMBSEG_FLIPS=200` tries that many bytes of each file (default 24).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fmbseg.errors import DataError, FmbsegError, StoreError
from fmbseg.evaluate.results import read_result, write_result
from fmbseg.store.atomic import read_checked, read_listing, seal, write_checked
from fmbseg.store.paths import Paths
from fmbseg.store.shards import MANIFEST, published_digest, published_key
from tests.faults.flips import flips
from tests.workspace import MakeConfig, opened, run

COUNT = int(os.environ.get("FMBSEG_FLIPS", "24"))
STAGES = ("detect", "query", "masks", "label", "features", "align", "evaluate", "plots")


@pytest.fixture
def made(labelled: Paths, make_config: MakeConfig) -> Paths:
    """A workspace in which everything up to the plots has run."""
    for stage in STAGES[4:]:
        run(stage, make_config(), labelled)
    return labelled


def place_of(paths: Paths, stage: str) -> Path:
    return {name: getattr(paths, name) for name in STAGES if name != "evaluate"}[stage]


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "evaluate"])
def test_no_byte_of_an_out_or_its_manifest_may_change(
    made: Paths, make_config: MakeConfig, stage: str
) -> None:
    out = place_of(made, stage)
    config = make_config()
    assert opened(stage, config, made).published
    files = sorted(path for path in out.rglob("*") if path.is_file())
    for path in (*files[:3], out / MANIFEST):
        for place in flips(path, COUNT if path.name == MANIFEST else 3):
            assert not opened(stage, config, made).published, f"{path.name}, byte {place}"
    assert opened(stage, config, made).published


def test_no_byte_of_a_manifest_may_change_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    header = {"key": "k" * 64, "stage": "features", "images": 5, "images_digest": "d" * 64}
    seal(tmp_path, MANIFEST, header)
    listing = read_listing(tmp_path, MANIFEST)
    assert listing is not None and listing.items() >= header.items()
    digest = published_digest(tmp_path)
    size = (tmp_path / MANIFEST).stat().st_size
    for place in flips(tmp_path / MANIFEST, size):
        # White space between the fields may be another one: it says the same.
        if read_listing(tmp_path, MANIFEST) != listing:
            assert published_key(tmp_path) is None, place
            with pytest.raises(StoreError, match="no manifest that is sound"):
                published_digest(tmp_path)
    assert published_digest(tmp_path) == digest


def test_no_number_of_a_result_may_change(tmp_path: Path) -> None:
    result = {"benchmark": "voc21", "method": "fmbseg", "miou": 59.28, "images": 120}
    result |= {"per_class_iou": {"dog": 61.5, "café": None}, "key": "k" * 64}
    path = tmp_path / "voc21.json"
    write_result(result, path)
    assert read_result(path) == result
    silent = 0
    for place in flips(path, path.stat().st_size):
        try:
            assert read_result(path) == result, place
            silent += 1  # another white space
        except DataError:
            pass
    assert silent < 10
    path.write_text(json.dumps({**result, "miou": 60.0}))
    with pytest.raises(DataError, match="has changed since it was written"):
        read_result(path)
    # Another program's results have neither key nor digest.
    theirs = {"benchmark": "voc21", "method": "theirs", "miou": 1.0}
    path.write_text(json.dumps(theirs))
    assert read_result(path) == theirs


def test_a_damaged_result_is_scored_again(made: Paths, make_config: MakeConfig) -> None:
    config, path = make_config(), made.metrics / "fmbseg" / "coco_stuff.json"
    before = path.read_bytes()
    for place in flips(path, COUNT):
        stage = opened("evaluate", config, made)
        if not stage.published:
            run("evaluate", config, made)
        assert path.read_bytes() == before or read_result(path) == json.loads(before), place
        path.write_bytes(before)


def test_what_is_drawn_of_a_damaged_result_is_refused(made: Paths, make_config: MakeConfig) -> None:
    path = made.metrics / "fmbseg" / "coco_stuff.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"miou": 99.9}))
    for stage in ("plots", "report"):
        with pytest.raises(FmbsegError):
            assert opened(stage, make_config(), made).key


def test_checked_files(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_checked(path, bytes(range(256)) * 4)
    assert read_checked(path) == bytes(range(256)) * 4
    for place in flips(path, path.stat().st_size):
        with pytest.raises(StoreError, match="damaged"):
            read_checked(path)
        assert place >= 0
    content = path.read_bytes()
    for length in (0, 10, 32, 500):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="damaged"):
            read_checked(path)


def test_a_cache_that_is_damaged_is_made_again(
    coco: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    """Encodings, what is remembered of files, and how shards were cut."""
    config, paths = make_config(), Paths(coco.parent)
    run("detect", config, paths)
    before = {path.name: path.read_bytes() for path in paths.detect.iterdir()}
    caches = [*paths.encodings.rglob("*.npz"), *paths.manifests.iterdir()]
    caches += paths.shards.rglob("layout.json")
    assert len({path.suffix for path in caches}) == 3
    for path in caches:
        for content in (b"", b"\xff\xfe garbage", path.read_bytes()[:-7]):
            path.write_bytes(content)
            for out in paths.detect.iterdir():
                out.unlink()
            run("detect", config, paths)
            assert {each.name: each.read_bytes() for each in paths.detect.iterdir()} == before
