"""Sizes and sliding windows over an image, shared by CLIP and the encoder. Lengths in pixels."""

from __future__ import annotations

from fmbseg.errors import ConfigError


def resize_to_short_side(
    width: int, height: int, short_side: int, multiple: int = 1
) -> tuple[int, int]:
    """Size with the short side at `short_side`, both sides rounded to a multiple of `multiple`.

    The aspect ratio is kept up to that rounding; no side becomes shorter than one `multiple`.

    Args:
        width: of the original image, pixels.
        height: of the original image, pixels.
        short_side: wanted length of the shorter side, pixels.
        multiple: patch size of the model the image is resized for, pixels.

    Returns:
        `(width, height)` in pixels.

    Raises:
        ConfigError: a length is not positive.
    """
    _require_positive(width=width, height=height, short_side=short_side, multiple=multiple)
    scale = short_side / min(width, height)

    def rounded(length: int) -> int:
        # floor(x + 0.5): Python's round() would send exact halves to the even neighbour, so that
        # two images of nearly the same shape could differ by two patches instead of one.
        return max(1, int(length * scale / multiple + 0.5)) * multiple

    return rounded(width), rounded(height)


def sliding_windows(height: int, width: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Offsets of square windows that cover the image, row by row.

    The last window of a row or column is shifted back to end at the border, so every window lies
    inside the image. Where the image is shorter than the window, that axis has the single offset 0
    and the window takes the image's length there. (1.1 Detection: the sliding window.)

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        window: side of a window, pixels.
        stride: step between windows, pixels; larger than `window` would skip pixels.

    Returns:
        `(top, left)` of each window, pixels.

    Raises:
        ConfigError: a length is not positive, or the stride is larger than the window.
    """
    _require_positive(height=height, width=width, window=window, stride=stride)
    if stride > window:
        raise ConfigError(
            f"stride {stride} is larger than window {window}, pixels would be skipped: lower it"
        )
    return [
        (top, left)
        for top in _offsets(height, window, stride)
        for left in _offsets(width, window, stride)
    ]


def _offsets(length: int, window: int, stride: int) -> list[int]:
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _require_positive(**lengths: int) -> None:
    for name, value in lengths.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}: give a length of at least 1 pixel")
