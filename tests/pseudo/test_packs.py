"""Packed label maps: the same bytes, found one by one, and read like loose ones everywhere."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.cli import _main
from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target
from fmbseg.data.corrections import Correction
from fmbseg.errors import DataError
from fmbseg.export.sources import open_source
from fmbseg.machine.progress import silent_progress
from fmbseg.pseudo.labels import label_png, load_label
from fmbseg.pseudo.packs import has_label, label_ids, label_source, repack, unpack, write_pack
from fmbseg.store.paths import Paths
from tests.workspace import SIZES, MakeConfig, run

IDS = [f"{number:06d}" for number in range(2000)]
PACKED = {"pack_labels": True}


def content(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest() * (1 + int(image_id) % 3)


def packed(folder: Path, ids: list[str], size: int) -> Path:
    for start in range(0, len(ids), size):
        write_pack(folder, {name: content(name) for name in ids[start : start + size]})
    repack(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_pack_is_an_archive_that_other_tools_open(tmp_path: Path) -> None:
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    write_pack(tmp_path, {"b": label_png(label + 1), "a": label_png(label)})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        assert archive.testzip() is None
    shutil.unpack_archive(tmp_path / "a.zip", tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png")), label + 1)


def test_published_packs_do_not_depend_on_shards_order_or_time(tmp_path: Path) -> None:
    one = files_of(packed(tmp_path / "one", IDS, 64))
    # Cut otherwise, in another order, and later than the second that archives know.
    other = files_of(packed(tmp_path / "other", IDS[::-1], 301))
    assert one == other
    assert 2 < len(one) < 30


def test_one_picture_more_changes_one_pack(tmp_path: Path) -> None:
    left_out = IDS[1003]
    whole = files_of(packed(tmp_path / "whole", IDS, 64))
    less = files_of(packed(tmp_path / "less", [name for name in IDS if name != left_out], 64))
    assert len({*whole.items()} ^ {*less.items()}) == 2  # one pack before and after


def test_each_picture_is_found_without_unpacking(tmp_path: Path) -> None:
    folder = packed(tmp_path, IDS, 64)
    assert label_ids(folder) == IDS
    for name in IDS:
        assert label_source(folder / f"{name}.png") == content(name)
    for name in ("", "0000000", "999999", "000000a"):
        assert not has_label(folder / f"{name}.png")
        assert label_source(folder / f"{name}.png") == folder / f"{name}.png"


def test_no_file_stays_open(tmp_path: Path) -> None:
    folder = packed(tmp_path, IDS, 64)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in IDS:
        label_source(folder / f"{name}.png")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    folder = packed(tmp_path, IDS[:300], 64)
    unpack(folder)
    assert files_of(folder) == {f"{name}.png": content(name) for name in IDS[:300]}


def test_a_loose_label_map_wins(tmp_path: Path) -> None:
    folder = packed(tmp_path, IDS[:300], 64)
    (folder / f"{IDS[7]}.png").write_bytes(b"another")
    assert label_source(folder / f"{IDS[7]}.png") == folder / f"{IDS[7]}.png"
    repack(folder)
    assert {path.suffix for path in folder.iterdir()} == {".zip"}
    assert label_source(folder / f"{IDS[7]}.png") == b"another"
    assert label_source(folder / f"{IDS[8]}.png") == content(IDS[8])


@pytest.mark.parametrize("place", [0, 40, 75, -1, -30])
def test_damage_is_told(tmp_path: Path, place: int) -> None:
    write_pack(tmp_path, {name: content(name) for name in IDS[:3]})
    path = tmp_path / f"{IDS[0]}.zip"
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    # What is not the picture's or its place may change: the picture is then the same.
    try:
        for name in IDS[:3]:
            found = label_source(tmp_path / f"{name}.png")
            assert found in (content(name), tmp_path / f"{name}.png")
    except DataError as error:
        assert "is damaged" in str(error)
    path.write_bytes(bytes(data[:50]))
    with pytest.raises(DataError, match=r"000000\.zip is damaged: `fmbseg run label`"):
        label_source(path.with_suffix(".png"))


def test_packed_labels_are_the_same_labels(labelled: Paths, make_config: MakeConfig) -> None:
    loose = files_of(labelled.label / "labels")
    tables = [(labelled.label / name).read_bytes() for name in ("masks.parquet", "areas.parquet")]
    config = make_config(data={"root": str(labelled.root / "coco")}, run=PACKED)

    report = run("label", config, labelled)

    assert report.computed == 0  # the same shards in another form
    assert tables == [
        (labelled.label / name).read_bytes() for name in ("masks.parquet", "areas.parquet")
    ]
    names = files_of(labelled.label / "labels")
    assert names and all(name.endswith(".zip") for name in names)
    for name, data in loose.items():
        assert label_source(labelled.label / "labels" / name) == data
    source = open_source(labelled.label, config)
    assert len(source.images) == len(SIZES)
    assert all(image.label(source.classes).shape for image in source.images)
    again = run("label", make_config(data={"root": str(labelled.root / "coco")}), labelled)
    assert again.computed == 0
    assert files_of(labelled.label / "labels") == loose


def test_a_head_learns_the_same_from_packed_labels(
    labelled: Paths, make_config: MakeConfig
) -> None:
    heads = []
    for packed_labels in (False, True):
        run_ = {"pack_labels": packed_labels}
        config = make_config(data={"root": str(labelled.root / "coco")}, run=run_)
        for stage in ("label", "features", "align"):
            run(stage, config, labelled)
        heads.append((labelled.align / "head.safetensors").read_bytes())
    assert heads[0] == heads[1]


def test_corrections_reach_packed_labels(labelled: Paths, make_config: MakeConfig) -> None:
    config = make_config(data={"root": str(labelled.root / "coco")}, run=PACKED)
    run("label", config, labelled)
    name = "000000000001"
    place = labelled.label / "labels" / f"{name}.png"
    machine, other = load_label(place), load_label(place.with_stem("000000000000"))
    person = np.where(machine == 16, 17, 16).astype(np.uint8)
    by_hand = labelled.root / "by hand"
    by_hand.mkdir()
    (by_hand / f"{name}.png").write_bytes(label_png(person))
    target = Target(open_source(labelled.label, config))
    origin = Correction("png", 0)
    import_corrections(
        READERS["png"], by_hand, target, labelled.corrections, silent_progress(), origin
    )

    assert run("label", config, labelled).computed == 0

    assert np.array_equal(load_label(place), person)
    assert np.array_equal(load_label(place.with_stem("000000000000")), other)
    assert np.array_equal(load_label(labelled.label / "machine" / f"{name}.png"), machine)
    assert not list((labelled.label / "labels").glob("*.png"))


def test_people_unpack_them(
    labelled: Paths, make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = files_of(labelled.label / "labels")
    run("label", make_config(data={"root": str(labelled.root / "coco")}, run=PACKED), labelled)
    out, few = tmp_path / "out", tmp_path / "few"
    command = ["labels", "unpack", str(labelled.label), "--out"]
    assert _main([*command, str(out)]) == 0
    assert files_of(out) == loose
    wanted = tmp_path / "order.txt"
    wanted.write_text("000000000001\n")
    assert _main([*command, str(few), "--order", str(wanted)]) == 0
    assert list(files_of(few)) == ["000000000001.png"]
    wanted.write_text("nobody\n")
    assert _main([*command, str(tmp_path / "none"), "--order", str(wanted)]) == 2
    assert "no label map of 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert _main([*command, str(out)]) == 2
    assert "holds something already" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert _main(["labels", "unpack", str(empty), "--out", str(tmp_path / "x")]) == 2
    assert "has no label maps" in capsys.readouterr().err
