"""How other tools write masks: run lengths of COCO, bit streams of Label Studio's brush."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as pycoco

from fmbseg.corrections.coco import _mask, _unpacked, decode_runs
from fmbseg.errors import DataError
from fmbseg.export.brush import decode_brush, encode_brush

Mask = npt.NDArray[np.bool_]


def ragged(size: tuple[int, int], share: float, seed: int) -> Mask:
    mask: Mask = np.random.default_rng(seed).random(size) < share
    return mask


def runs_by_loop(mask: Mask) -> list[int]:
    """COCO's run lengths: down the columns, first those without."""
    counts, inside = [0], False
    for value in mask.T.reshape(-1).tolist():
        if value != inside:
            counts.append(0)
            inside = value
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_run_lengths_as_numbers_and_packed(share: float) -> None:
    for seed, size in enumerate([(1, 1), (7, 5), (40, 300), (300, 40)]):
        mask = ragged(size, share, seed)
        counts = runs_by_loop(mask)
        assert (decode_runs(counts, size) == mask).all()
        # By the library that COCO's own masks are packed with: differences of both signs, and
        # numbers of one to three characters.
        packed = pycoco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"].decode()
        assert _unpacked(packed) == counts
        for given in (counts, packed):
            found = _mask({"size": list(size), "counts": given}, size)
            assert found.dtype == np.bool_ and (found == mask).all()


def test_a_packed_number_is_groups_of_five_bits_and_a_sign() -> None:
    # 5; 40 = 8 + 32 (another follows) and 1; -3 is all ones but for the sign's group.
    assert _unpacked("5") == [5]
    assert _unpacked(chr(48 + 32 + 8) + chr(48 + 1)) == [40]
    assert _unpacked(chr(48 + 29)) == [-3]
    # From the fourth on it is what it is more than the one before the last.
    assert _unpacked("1234") == [1, 2, 3, 6]
    assert _unpacked("12345") == [1, 2, 3, 6, 8]
    twelve = chr(48 + 32) * 12
    assert _unpacked(twelve + "1") == [1 << 60]
    with pytest.raises(ValueError, match="damaged"):
        _unpacked(twelve + chr(48 + 32) + "1")
    for text in ("/", "p", "0/"):  # the characters before and after those in use
        with pytest.raises(ValueError, match="damaged"):
            _unpacked(text)
    with pytest.raises(ValueError, match="end too early"):
        _unpacked("1" + chr(48 + 32))


@pytest.mark.parametrize("counts", [[], [5], [3, 4], [-1, 7], [7, -1], [2, 2, 3]])
def test_run_lengths_that_do_not_fit_the_picture(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=f"runs of {sum(counts)} pixels in a picture of 6"):
        decode_runs(counts, (2, 3))
    with pytest.raises(TypeError):
        decode_runs([2.5, 3.5], (2, 3))  # type: ignore[list-item]


def test_polygons_are_drawn_where_they_lie() -> None:
    size = (20, 30)
    expected = np.zeros(size, dtype=bool)
    expected[5:15, 10:20] = expected[0:2, 0:2] = True
    square, corner = [10, 5, 20, 5, 20, 15, 10, 15], [0, 0, 2, 0, 2, 2, 0, 2]
    assert (_mask([square, corner], size) == expected).all()
    assert not _mask([], size).any() and _mask([], size).shape == size
    # As far away as ten pictures' longer side, and not a step farther.
    assert _mask([[-300, 0, 300, 0, 300, 20, -300, 20]], size).all()
    for x in (-300.5, 300.5):
        with pytest.raises(ValueError, match="far outside"):
            _mask([square, [x, 0, 5, 0, 5, 5]], size)
    with pytest.raises(ValueError, match=r"a mask of 3 x 2 px in a picture of 30 x 20"):
        _mask({"size": [2, 3], "counts": [6]}, size)


def packed(values: Sequence[int], sizes: Sequence[int], spelled: bool, bits: int = 8) -> list[int]:
    """A stream by its description: runs of one value, or of values that are spelled out."""
    stream = f"{len(values):032b}{bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    if spelled:
        runs = [list(values[at : at + 5]) for at in range(0, len(values), 5)]
    else:
        runs = [list(group) for _, group in itertools.groupby(values)]
    for run in runs:
        which = next(n for n, size in enumerate(sizes) if len(run) <= 1 << size)
        stream += f"{int(not spelled)}{which:02b}{len(run) - 1:0{sizes[which]}b}"
        stream += "".join(f"{value:0{bits}b}" for value in (run if spelled else run[:1]))
    stream += "0" * (-len(stream) % 8)
    return [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]


def channels(mask: Mask) -> list[int]:
    return [255 * int(value) for value in mask.reshape(-1).tolist() for _ in range(4)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 1.0])
def test_brush_streams_are_as_they_are_described(share: float) -> None:
    # Runs of one pixel and of up to 90: counts of each of the first three sizes.
    mask = ragged((9, 23), share, 3)
    mask[3:7] = False
    sizes = (3, 4, 8, 16)
    assert encode_brush(mask) == packed(channels(mask), sizes, spelled=False)
    for other in (sizes, (1, 2, 5, 12)):
        for spelled in (True, False):
            code = packed(channels(mask), other, spelled)
            found = decode_brush(code, mask.shape)  # type: ignore[arg-type]
            assert found.dtype == np.bool_ and (found == mask).all()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 65, 16384, 16385, 40_000])
def test_runs_at_the_edges_of_what_a_count_holds(length: int) -> None:
    mask = np.zeros((1, length + 3), dtype=bool)
    mask[0, 1 : 1 + length] = True
    code = encode_brush(mask)
    assert (decode_brush(code, mask.shape) == mask).all()  # type: ignore[arg-type]
    values, stream = channels(mask), "".join(f"{byte:08b}" for byte in code)
    # 65,536 values at most in a run, and each in the smallest count that holds it.
    expected = f"{len(values):032b}00111" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for value, group in itertools.groupby(values):
        left = len(list(group))
        while left:
            count = min(left, 65_536)
            which, size = next((n, s) for n, s in enumerate((3, 4, 8, 16)) if count <= 2**s)
            expected += f"1{which:02b}{count - 1:0{size}b}{value:08b}"
            left -= count
    assert stream.rstrip("0") == expected.rstrip("0") and 0 <= len(stream) - len(expected) < 8


def test_what_is_opaque_is_painted_whatever_its_colour() -> None:
    pixels = [(255, 0, 0, 255), (255, 255, 255, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
    code = packed([value for pixel in pixels for value in pixel], (3, 4, 8, 16), spelled=True)
    assert decode_brush(code, (2, 2)).tolist() == [[True, False], [True, False]]


def test_damaged_brush_streams() -> None:
    mask = ragged((5, 6), 0.5, 0)
    code = encode_brush(mask)
    with pytest.raises(DataError, match="it has 120 values, its picture 140"):
        decode_brush(code, (5, 7))
    for cut in (0, 3, 10, len(code) - 1):
        with pytest.raises(DataError, match="ends too early"):
            decode_brush(code[:cut], (5, 6))
    for no_list in (120, None, "brush", {"rle": code}):
        with pytest.raises(DataError, match="no list of bytes"):
            decode_brush(no_list, (5, 6))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is damaged"):
        decode_brush([*code, 256], (5, 6))
    assert (decode_brush(tuple(code), (5, 6)) == mask).all()
    # A last run that is longer than what is left ends with the picture.
    head = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for run in (f"1{2:02b}{19:08b}{255:08b}", f"0{2:02b}{19:08b}" + f"{255:08b}" * 8):
        stream = head + run + "0" * (-len(head + run) % 8)
        long = [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]
        assert decode_brush(long, (1, 2)).all()
