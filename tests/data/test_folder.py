"""The pictures of a folder as people have them: one list, and a reason for what is not on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from fmbseg.data import folder, load_dataset
from fmbseg.data.folder import find_pictures, name_problem, picture_id, said
from fmbseg.errors import DataError
from fmbseg.store.atomic import seal
from fmbseg.store.ledger import Ledger


def add(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(path, "PNG")


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_pictures(root).files]


def reasons(root: Path) -> dict[str, str]:
    return {each.path.name: each.reason for each in find_pictures(root).left_out}


def test_sub_folders_and_every_format_are_seen(tmp_path: Path) -> None:
    expected = ["a.JPG", "b.jfif", "day 1/c.webp", "day 1/x/d.tiff", "e.avif", "f.gif", "g.jp2"]
    add(*(tmp_path / name for name in expected))
    assert names(tmp_path) == sorted(expected)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    add(tmp_path / "a.jpg", tmp_path / "._a.jpg", tmp_path / ".b.jpg", tmp_path / "c.heic")
    add(tmp_path / "d.NEF", tmp_path / "Masks" / "a.png", tmp_path / "@eaDir" / "a.jpg")
    add(tmp_path / ".thumbnails" / "a.png", tmp_path / "labels" / "a.png")
    for name in (".DS_Store", "notes.txt", "more.TXT", "README"):
        (tmp_path / name).write_text("x")
    assert names(tmp_path) == ["a.jpg"]
    found = reasons(tmp_path)
    assert {*found} == {
        *("._a.jpg", ".b.jpg", "c.heic", "d.NEF", "Masks", "@eaDir", ".thumbnails", "labels")
    }
    assert "HEIC" in found["c.heic"] and "raw" in found["d.NEF"]
    assert "label maps" in found["Masks"] and "thumbnails" in found["@eaDir"]
    lines = [*said(find_pictures(tmp_path))]
    assert lines[-1] == "no pictures: 2 .txt, 1 without extension"
    assert len(lines) == 9
    # By its own name it is taken.
    assert names(tmp_path / "Masks") == ["a.png"]


def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    root, camera = tmp_path / "photos", tmp_path / "camera"
    add(root / "a.jpg", root / "z" / "b.jpg", camera / "day1" / "c.jpg", tmp_path / "d.jpg")
    (root / "day1").symlink_to(camera / "day1")
    (root / "again").symlink_to(root / "z")  # before it by name
    (root / "z" / "up").symlink_to(root)
    (root / "loop").symlink_to("loop")
    (root / "e.jpg").symlink_to(tmp_path / "d.jpg")
    assert names(root) == ["a.jpg", "day1/c.jpg", "e.jpg", "z/b.jpg"]
    assert {*reasons(root)} == {"again", "up"}
    # A link's own links are followed, too.
    add(tmp_path / "disk" / "f.jpg")
    (camera / "day1" / "more").symlink_to(tmp_path / "disk")
    assert names(root)[1:3] == ["day1/c.jpg", "day1/more/f.jpg"]


def test_links_to_the_system_or_to_what_holds_the_folder_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    add(root / "a.jpg", tmp_path / "secret.jpg")
    targets = {
        "disk": Path("/"),
        "outer": tmp_path,
        "proc": Path("/proc/self"),
        "sys": Path("/sys"),
    }
    for name, target in targets.items():
        (root / name).symlink_to(target)
    assert names(root) == ["a.jpg"]
    found = reasons(root)
    assert {*found} == {*targets}
    assert found["disk"].startswith("links to /, which holds the folder itself")
    assert found["proc"].endswith("which is of the system")
    # A process's own folder has links to the disk, and to where it works.
    monkeypatch.chdir(root)
    process = find_pictures(Path("/proc/self/task"))
    assert [path.name for path in process.files] == ["a.jpg", "secret.jpg"]  # by photos/outer
    assert {each.reason.split(",")[0] for each in process.left_out} >= {"links to /"}


def test_folders_behind_links_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, camera, more = (tmp_path / name for name in ("photos", "camera", "more"))
    add(root / "deep" / "er" / "a.jpg", *(camera / f"{day}" / "b.jpg" for day in range(4)))
    add(more / "c.jpg")
    (root / "camera").symlink_to(camera)
    (camera / "more").symlink_to(more)
    assert len(names(root)) == 6 and not find_pictures(root).unusable
    monkeypatch.setattr(folder, "_MOST_LINKED", 3)
    found = find_pictures(root)
    assert len(found.files) == 3  # one of the folder itself, and two of three folders behind a link
    assert {each.path.parent.name for each in found.unusable} == {"camera"}
    assert all("name the folder that is meant" in each.reason for each in found.unusable)


def test_what_should_have_been_a_picture_is_counted(tmp_path: Path) -> None:
    add(tmp_path / "a.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = find_pictures(tmp_path)
    assert names(tmp_path) == ["a.jpg"]
    assert [each.path.name for each in found.unusable] == ["gone.jpg", "loop.png", "pipe.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_counted(tmp_path: Path) -> None:
    add(tmp_path / "a.jpg", tmp_path / "closed" / "b.jpg")
    (tmp_path / "closed").chmod(0)
    (each,) = find_pictures(tmp_path).unusable
    (tmp_path / "closed").chmod(0o755)
    assert each.path.name == "closed" and "Permission denied" in each.reason


def test_own_results_are_no_pictures(tmp_path: Path) -> None:
    add(tmp_path / "a.jpg", tmp_path / "b.overlay.png")
    ledger = Ledger(tmp_path)
    for ending in (".overlay.png", ".label.png", ".json"):
        ledger.write(f"a{ending}", b"x")
        (tmp_path / f"old{ending}").write_bytes(b"x")  # an earlier version's
    # What only looks like one is the user's.
    assert names(tmp_path) == ["a.jpg", "b.overlay.png"]
    assert reasons(tmp_path) == {tmp_path.name: "holds 7 results of fmbseg"}
    (tmp_path / "out").mkdir()
    add(tmp_path / "out" / "p" / "c.png")
    seal(tmp_path / "out", "manifest.json", {"key": "0123"})
    assert reasons(tmp_path)["out"] == "holds results of fmbseg"


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match=r"(none|file) cannot be listed"):
            find_pictures(place)


def test_ids_are_names_of_files() -> None:
    assert picture_id(Path("a.b.jpg")) == "a.b"
    assert picture_id(Path("trip/day 1/a.jpg")) == "trip__day 1__a"
    long = picture_id(Path("f" * 150, "g" * 150, "a.jpg"))
    assert long.endswith("__a") and len(long) == 11
    assert long != picture_id(Path("f" * 150, "h" * 150, "a.jpg"))
    assert name_problem(long) is None
    assert "too long" in str(name_problem("x" * 250))
    assert "too long" in str(name_problem("日" * 85))
    assert "not UTF-8" in str(name_problem(os.fsdecode(b"caf\xe9")))
    assert "control character" in str(name_problem("a\nb"))


def test_a_data_set_takes_what_its_names_allow(tmp_path: Path) -> None:
    deep = tmp_path / ("f" * 200) / ("g" * 200)
    add(tmp_path / "a.jpg", tmp_path / "a.png", deep / "b.jpg", tmp_path / "x\ny.jpg")
    (tmp_path / "classes.txt").write_text("dog\n")
    dataset = load_dataset("folder", tmp_path)
    assert [sample.image_id.rpartition("__")[2] for sample in dataset] == ["a", "b"]
    assert sorted(each.path.name for each in dataset.unusable) == ["a.png", "x\ny.jpg"]
    # A score needs all of them.
    with pytest.raises(DataError, match="2 images of split 'all' cannot be scored"):
        dataset.require_labels()
    assert dataset.of({"a"}).unusable == ()
