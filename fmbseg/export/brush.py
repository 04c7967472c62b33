"""Label Studio's run lengths of brush masks (the bit stream of @thi.ng/rle-pack).

32 bits: number of values; 5 bits: size of a value - 1; four times 4 bits: sizes of counts - 1.
Then runs: 1 bit (1: one value repeated, 0: each value spelled out), 2 bits: which size the count
has, the count - 1, and the value or values. Values are the RGBA bytes of the picture in row-major
order; a pixel of the mask has 255 in all four.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fmbseg.errors import DataError

_COUNT_BITS = (3, 4, 8, 16)
_CHANNELS = 4
_VALUE_BITS = 8


def encode_brush(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The run lengths of a mask [H, W] bool, as bytes."""
    flat = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size)) * _CHANNELS
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_VALUE_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _COUNT_BITS]
    most = 1 << _COUNT_BITS[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "1" * _VALUE_BITS if flat[start] else "0" * _VALUE_BITS
        for left in range(length, 0, -most):
            count = min(left, most)
            which = next(n for n, size in enumerate(_COUNT_BITS) if count <= 1 << size)
            bits.append(f"1{which:02b}{count - 1:0{_COUNT_BITS[which]}b}{value}")
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def decode_brush(code: Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask [H, W] bool of run lengths; `size` is (H, W).

    Raises:
        DataError: the run lengths are damaged, or of another size.
    """
    try:
        if not isinstance(code, list | tuple):  # of a number bytes() makes as many
            raise TypeError("no list of bytes")
        values = _unpack(bytes(code), size[0] * size[1] * _CHANNELS)
    except (ValueError, TypeError) as error:
        raise DataError(f"a brush mask is damaged ({error}): export it again") from error
    # The editor draws with any colour: what is opaque is painted.
    return values.reshape(*size, _CHANNELS)[:, :, 3] > 0


def _unpack(code: bytes, expected: int) -> npt.NDArray[np.int64]:
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        if place > len(bits):
            raise ValueError("it ends too early")
        return int(bits[place - size : place], 2)

    total, value_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if total != expected:
        raise ValueError(f"it has {total} values, its picture {expected}")
    values = np.zeros(total, dtype=np.int64)
    done = 0
    while done < total:
        repeated = read(1)
        count = read(sizes[read(2)]) + 1
        if repeated:
            values[done : done + count] = read(value_bits)
        else:
            for offset in range(min(count, total - done)):
                values[done + offset] = read(value_bits)
        done += count
    return values
