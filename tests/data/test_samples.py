"""Our own files in the benchmarks' encodings: made by the script beside them, and as cameras do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.data.images import read_image
from fmbseg.errors import DataError
from tests.data.make_samples import SAMPLES, make_samples


def test_the_files_are_those_of_the_script(tmp_path: Path) -> None:
    make_samples(tmp_path)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) > 50
    for path in made:
        committed = SAMPLES / path.relative_to(tmp_path)
        if path.suffix == ".png":  # the bytes are the compressor's
            np.testing.assert_array_equal(Image.open(path), Image.open(committed), str(committed))
        elif path.suffix != ".jpg":
            assert path.read_bytes() == committed.read_bytes(), committed
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 100_000


def test_a_photo_is_upright_rgb_however_it_is_stored() -> None:
    photo = np.asarray(read_image(SAMPLES / "photos" / "camera.jpg")).astype(int)
    for name in ("on_its_side.jpg", "print.jpg"):
        found = np.asarray(read_image(SAMPLES / "photos" / name))
        assert found.shape == photo.shape
        assert np.abs(found - photo).mean() < 6, name


def test_a_picture_of_sixteen_bits_is_refused() -> None:
    with pytest.raises(DataError, match="more than 8 bits"):
        read_image(SAMPLES / "deep" / "sixteen_bits.png")
