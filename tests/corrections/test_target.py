"""Which picture and class a correction is of; what an import keeps of earlier ones."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target, paint, read_json
from fmbseg.data.corrections import Correction, read_corrections
from fmbseg.errors import DataError
from fmbseg.export.source import NOTHING, Classes, LabelledImage, Source
from fmbseg.machine.progress import silent_progress
from tests.export.labels import NAMES, Label, hard_source

PLACE = Path("export.json")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return hard_source(tmp_path / "source")[0]


def named(image_id: str, path: str) -> LabelledImage:
    return LabelledImage(image_id, Path(path), Path("labels.png"))


def test_a_picture_is_known_by_its_id_or_else_by_its_stem() -> None:
    images = (
        named("1", "photos/a.b.jpg"),
        named("a", "photos/1.jpg"),
        named("one", "x/same.png"),
        named("two", "y/same.png"),
    )
    target = Target(Source(Classes(NAMES), images))
    # The id goes before the file of that stem, with a suffix, below folders of either system.
    for name in ("1", "1.png", "some/where/1.jpg", "C:\\photos\\1.jpg"):
        assert target.image(name, PLACE) is images[0]
    assert target.image("a.b.jpg", PLACE) is images[0]
    assert target.image("a.jpeg", PLACE) is images[1]
    with pytest.raises(DataError, match=r"the picture 'same\.png', which is 2 of the 4 pictures"):
        target.image("x/same.png", PLACE)
    with pytest.raises(DataError, match=r"export\.json is of .* which is none of the 4 pictures"):
        target.image("b", PLACE)


def test_a_label_map_begins_as_background_or_unlabelled(source: Source) -> None:
    whole = next(image for image in source.images if image.image_id == "whole")
    for background, value in ((None, NOTHING), (0, 0), (2, 2)):
        target = Target(Source(Classes(NAMES, background), source.images))
        for size in (None, (25, 31)):
            label = target.empty(whole, size, PLACE)
            assert label.dtype == np.int32 and label.shape == (25, 31) and (label == value).all()
    with pytest.raises(DataError, match=r"has whole with 25 x 31 px, the picture .* has 31 x 25"):
        Target(source).empty(whole, (31, 25), PLACE)
    assert Target(source).class_index("grass", PLACE) == 3
    with pytest.raises(DataError, match="the class 'cow', which is none of the 4 classes"):
        Target(source).class_index("cow", PLACE)


def test_a_region_is_painted_where_it_is() -> None:
    label = np.zeros((2, 3), dtype=np.int32)
    paint(label, np.array([[True, False, False], [False, True, True]]), 7, PLACE)
    assert label.tolist() == [[7, 0, 0], [0, 7, 7]]
    with pytest.raises(DataError, match="a mask of 1 x 3 px in a picture of 3 x 2"):
        paint(label, np.ones((3, 1), dtype=bool), 1, PLACE)


def test_json_that_is_missing_or_broken_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text("{")
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError, match="the tool exported, or export it again"):
            read_json(tmp_path / name)


class Counted:
    """A progress that counts."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.names: list[str] = []

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Counted]:
        self.names.append(description)
        yield self

    def advance(self, count: int = 1) -> None:
        self.done.append(count)


def by_hand(folder: Path, **values: int) -> Path:
    """Label maps of one value each for the pictures `whole` and `hard`."""
    sizes = {"whole": (25, 31), "hard": (40, 52)}
    folder.mkdir()
    for name, value in values.items():
        Image.fromarray(np.full(sizes[name], value, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_an_import_counts_pictures_and_writes_maps_that_can_be_looked_at(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    progress, out = Counted(), Path("deep/er/out")  # a place that one is in, not there yet
    folder = by_hand(tmp_path / "hand", whole=3, hard=255)
    origin = Correction("png", 0, "Ada", "2026-01-01")
    found = import_corrections(READERS["png"], folder, Target(source), out, progress, origin)
    assert progress.names == ["import"] and progress.done == [1, 1]
    labelled = int((np.asarray(Image.open("source/labels/hard.png")) != 255).sum())
    assert found == {
        "hard": Correction("png", labelled, "Ada", "2026-01-01"),
        "whole": Correction("png", 25 * 31, "Ada", "2026-01-01"),
    }
    record = read_corrections(out)
    assert record is not None and record.images == found and record.classes == NAMES
    for name in found:
        assert Image.open(out / "labels" / f"{name}.png").mode == "P"
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["out"]


def test_a_later_import_leaves_earlier_files_as_they_are(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def take(folder: Path) -> None:
        origin = Correction("png", 0)
        progress = silent_progress()
        import_corrections(READERS["png"], folder, Target(source), out, progress, origin)

    take(by_hand(tmp_path / "one", whole=3, hard=0))
    files = {name: out / "labels" / f"{name}.png" for name in ("whole", "hard")}
    before = {name: (path.read_bytes(), path.stat().st_ino) for name, path in files.items()}
    # `hard` is read, and then `whole` is broken: neither may have been written to.
    broken = by_hand(tmp_path / "two", hard=1)
    (broken / "whole.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="is broken"):
        take(broken)
    assert all(path.read_bytes() == before[name][0] for name, path in files.items())
    take(by_hand(tmp_path / "three", hard=1))
    after = {name: (path.read_bytes(), path.stat().st_ino) for name, path in files.items()}
    assert after["whole"] == before["whole"]  # linked: thousands of them take no room twice
    assert after["hard"][0] != before["hard"][0]
    assert (np.asarray(Image.open(files["hard"])) == 1).all()


def test_a_picture_that_comes_twice_is_refused(source: Source, tmp_path: Path) -> None:
    folder = by_hand(tmp_path / "hand", whole=3)
    shutil.copy(folder / "whole.png", folder / "whole.PNG.png")
    images = [each for each in source.images if each.image_id == "whole"]
    one = Source(source.classes, tuple(images))

    def twice(file: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
        for _ in range(2):
            yield images[0], images[0].label(target.classes)

    with pytest.raises(DataError, match="has whole twice: leave one of them out"):
        import_corrections(
            twice, folder, Target(one), tmp_path / "out", silent_progress(), Correction("png", 0)
        )

    def none(file: Path, target: Target) -> Iterator[tuple[LabelledImage, Label]]:
        yield from ()

    with pytest.raises(DataError, match="corrects no picture"):
        import_corrections(
            none, folder, Target(one), tmp_path / "out", silent_progress(), Correction("png", 0)
        )
    assert not (tmp_path / "out").exists()


LABELMAP = """# label:color_rgb:parts:actions

dog:1,2,3::
sky:200,100,50::
background:0,0,0::
ignored:9,9,9::
"""


def cvat_folder(folder: Path, labelmap: str | bytes | None = LABELMAP) -> Path:
    """An unpacked archive: of `whole` four columns, the rest background."""
    (folder / "SegmentationClass").mkdir(parents=True)
    (folder / "SegmentationObject").mkdir()
    pixels = np.zeros((25, 31, 3), dtype=np.uint8)
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = (1, 2, 3), (200, 100, 50), (9, 9, 9)
    for name in ("SegmentationClass", "SegmentationObject"):
        Image.fromarray(pixels).save(folder / name / "whole.png")
    if labelmap is not None:
        data = labelmap if isinstance(labelmap, bytes) else labelmap.encode()
        (folder / "labelmap.txt").write_bytes(data)
    return folder


def packed(folder: Path) -> Path:
    """The same as an archive."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("pack", [lambda folder: folder, packed], ids=["folder", "archive"])
@pytest.mark.parametrize("background", [None, 1])
def test_cvat_s_colours(
    source: Source, tmp_path: Path, pack: Callable[[Path], Path], background: int | None
) -> None:
    target = Target(Source(Classes(NAMES, background), source.images))
    ((image, label),) = READERS["cvat"](pack(cvat_folder(tmp_path / "a")), target)
    assert image.image_id == "whole"
    expected = np.full((25, 31), NOTHING if background is None else background)
    expected[:, 0], expected[:, 1], expected[:, 2] = 0, 2, NOTHING
    assert (label == expected).all()


@pytest.mark.parametrize("pack", [lambda folder: folder, packed], ids=["folder", "archive"])
@pytest.mark.parametrize(
    ("labelmap", "said"),
    [
        (None, r"has no labelmap\.txt: export it as"),
        (b"\xff\xfe", r"labelmap\.txt is not text"),
        ("dog:1,2", "has the line 'dog:1,2'"),
        ("dog:1,2,3::\n", r"has the colour \(0, 0, 0\) of no class"),
        ("#" * 10_000_001, r"labelmap\.txt has 10000001 characters"),
    ],
)
def test_cvat_without_a_sound_label_map(
    source: Source,
    tmp_path: Path,
    pack: Callable[[Path], Path],
    labelmap: str | bytes | None,
    said: str,
) -> None:
    file = pack(cvat_folder(tmp_path / "a", labelmap))
    with pytest.raises(DataError, match=said):
        list(READERS["cvat"](file, Target(source)))


def test_cvat_s_maps_are_png_alone(source: Source, tmp_path: Path) -> None:
    """Whatever else Pillow can open, no decoder but one is given what somebody sent."""
    folder = cvat_folder(tmp_path / "a")
    with Image.open(folder / "SegmentationClass" / "whole.png") as picture:
        picture.save(folder / "SegmentationClass" / "whole.png", "BMP")
    with pytest.raises(DataError, match=r"whole\.png"):
        list(READERS["cvat"](folder, Target(source)))


def test_cvat_without_maps_or_at_all(source: Source, tmp_path: Path) -> None:
    folder = cvat_folder(tmp_path / "a")
    shutil.rmtree(folder / "SegmentationClass")
    with pytest.raises(DataError, match="has nothing in SegmentationClass/"):
        list(READERS["cvat"](folder, Target(source)))
    with pytest.raises(DataError, match="does not exist: name the archive"):
        list(READERS["cvat"](tmp_path / "none", Target(source)))
    with pytest.raises(DataError, match="is no regular file"):
        list(READERS["cvat"](Path("/dev/null"), Target(source)))
