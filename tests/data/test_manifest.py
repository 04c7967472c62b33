from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.data.datasets import load_dataset
from fmbseg.data.images import check_image, read_annotation, read_image
from fmbseg.data.manifest import build_manifest
from fmbseg.errors import DataError


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    noise(40, 30).save(root / "a.jpg")
    noise(20, 50).save(root / "b.png")
    return root


def test_records_hold_size_and_digest(photos: Path) -> None:
    manifest = build_manifest(load_dataset("folder", photos))
    assert [(r.image_id, r.width, r.height) for r in manifest.records] == [
        ("a", 40, 30),
        ("b", 20, 50),
    ]
    for record in manifest.records:
        assert record.sha256 == hashlib.sha256(record.path.read_bytes()).hexdigest()
        assert read_image(record.path).size == (record.width, record.height)


def test_digest_follows_content_and_not_place(photos: Path, tmp_path: Path) -> None:
    manifest = build_manifest(load_dataset("folder", photos))
    copy = shutil.copytree(photos, tmp_path / "copy")
    assert build_manifest(load_dataset("folder", copy)).digest == manifest.digest
    assert build_manifest(load_dataset("folder", copy)[:1]).digest != manifest.digest
    noise(41, 30).save(copy / "a.jpg")
    assert build_manifest(load_dataset("folder", copy)).digest != manifest.digest
    (photos / "a.jpg").rename(photos / "c.jpg")
    assert build_manifest(load_dataset("folder", photos)).digest != manifest.digest


def test_limit_takes_the_first(photos: Path) -> None:
    assert [r.image_id for r in build_manifest(load_dataset("folder", photos)[:1]).records] == ["a"]


def test_an_error_that_may_pass_does_not_condemn_the_picture(photos: Path) -> None:
    failing = photos / "c.jpg"
    failing.symlink_to("/proc/self/mem")  # reading its first bytes is a real input/output error
    for read in (read_image, check_image, read_annotation):
        with pytest.raises(OSError, match="Input/output error") as raised:
            read(failing)
        assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(failing))
    with pytest.raises(OSError, match="Input/output error"):
        build_manifest(load_dataset("folder", photos))


def test_too_many_open_files_say_nothing_of_the_picture(photos: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(photos / "a.jpg", os.O_RDONLY))
        with pytest.raises(OSError) as raised:
            read_image(photos / "a.jpg")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert raised.value.errno == errno.EMFILE
    assert read_image(photos / "a.jpg").size == (40, 30)


def test_a_picture_that_is_broken_is_named(photos: Path) -> None:
    path = photos / "a.jpg"
    path.write_bytes(path.read_bytes()[:200])
    for broken in (path, photos):  # Pillow's own OSError without a number; a folder
        with pytest.raises(DataError, match="replace or remove it"):
            read_image(broken)


def test_annotations_are_not_read(samples: Path, tmp_path: Path) -> None:
    real = samples / "coco_stuff164k"
    with_truth = build_manifest(load_dataset("coco_stuff", real, "val2017"))
    images = tmp_path / "images" / "val2017"
    shutil.copytree(real / "images" / "val2017", images)
    assert (
        build_manifest(load_dataset("coco_stuff", tmp_path, "val2017")).digest == with_truth.digest
    )
    # Not even a broken annotation is noticed.
    (tmp_path / "annotations" / "val2017").mkdir(parents=True)
    (tmp_path / "annotations" / "val2017" / "000000000139.png").write_bytes(b"broken")
    assert (
        build_manifest(load_dataset("coco_stuff", tmp_path, "val2017")).digest == with_truth.digest
    )


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_truncated_images_are_named(name: str, keep: float, photos: Path) -> None:
    file = photos / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=f"{name} is broken, truncated or no image") as caught:
        build_manifest(load_dataset("folder", photos))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=name):
        read_image(file)


def test_a_missing_image_is_named(photos: Path) -> None:
    with pytest.raises(DataError, match=r"c\.jpg does not exist"):
        read_image(photos / "c.jpg")


def test_photos_are_turned_upright(photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = noise(40, 30)
    stored.save(photos / "b.png", exif=exif)
    upright = read_image(photos / "b.png")
    assert upright.size == (30, 40)
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(stored), -1))
    record = build_manifest(load_dataset("folder", photos)).records[1]
    assert (record.width, record.height) == (30, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_images_of_other_modes_become_rgb(mode: str, photos: Path) -> None:
    file = photos / ("a.jpg" if mode == "CMYK" else "b.png")
    noise(20, 10).convert("RGB").convert("L" if mode == "LA" else "RGB").convert(mode).save(file)
    image = read_image(file)
    assert (image.mode, image.size) == ("RGB", (20, 10))


def test_sixteen_bit_images_are_refused(photos: Path) -> None:
    Image.fromarray(np.full((4, 5), 40_000, dtype=np.uint16)).save(photos / "b.png")
    with pytest.raises(DataError, match=r"b\.png has more than 8 bits"):
        read_image(photos / "b.png")
    with pytest.raises(DataError, match=r"b\.png has more than 8 bits"):
        build_manifest(load_dataset("folder", photos))


def test_same_stem_twice_is_refused(photos: Path) -> None:
    noise(8, 8).save(photos / "a.png")
    with pytest.raises(DataError, match=r"a\.png has the same id 'a' as .*a\.jpg"):
        build_manifest(load_dataset("folder", photos))


def test_what_cannot_be_read_is_left_out_where_that_is_asked_for(
    photos: Path, tmp_path: Path
) -> None:
    whole = build_manifest(load_dataset("folder", photos))
    (photos / "c.jpg").write_bytes(b"hello")
    noise(8, 8).save(photos / "a.png")
    for _ in range(2):  # what is remembered of the others says nothing of the broken one
        found = build_manifest(load_dataset("folder", photos), memory=tmp_path, strict=False)
        assert (found.records, found.digest) == (whole.records, whole.digest)
        assert [each.path.name for each in found.left_out] == ["a.png", "c.jpg"]
    noise(9, 9).save(photos / "c.jpg")
    mended = build_manifest(load_dataset("folder", photos), memory=tmp_path, strict=False)
    assert [record.image_id for record in mended.records] == ["a", "b", "c"]
    for path in photos.glob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 4 images can be read: .*a\.png.*is empty"):
        build_manifest(load_dataset("folder", photos), strict=False)
