"""Similarities smoothed over the frames of a video, along what moves."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fmbseg.errors import ConfigError
from fmbseg.inference.maps import Maps, Similarities

# Shorter side of the grey picture that motion is found in: patches are coarser.
_SEEN = 128
_LONGEST = 8 * _SEEN
# Mean difference of two frames, of 255 grey values, from which they show different things.
_CUT = 40

Grey = npt.NDArray[np.uint8]


class Smoothing:
    """Exponential moving average of similarities, frame by frame, along the motion between frames.

    Of frame t with the similarities s_t the smoothed ones are
    m_t = share * w(m_{t-1}) + (1 - share) * s_t, where w brings each place of the frame before to
    where it is now, by dense inverse search (Kroeger et al., ECCV 2016) on grey pictures whose
    shorter side is 128 px. m_t = s_t for the first frame, after a change of the size, and after a
    cut: the mean grey value of 8 x 8 parts of the frame differs by more than 40 of 255.

    Args:
        share: of what came before, 0 or more and below 1.

    Raises:
        ConfigError: the share is another number.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f"smoothing by {share:g}: give a number from 0 to below 1")
        self._share = share
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.forget()

    def forget(self) -> None:
        """What comes next is the first frame of another video."""
        self._last: tuple[Tensor, Grey] | None = None  # smoothed, and what was seen

    def smoothed(self, image: Image.Image, similarities: Similarities) -> Maps:
        """The next frame's.

        Args:
            image: the frame, RGB.
            similarities: its own.

        Raises:
            ConfigError: there are more words than similarities are held of at once.
        """
        if not isinstance(similarities, Maps):
            raise ConfigError(
                "smoothing keeps all similarities of a frame, and these are too many: name fewer "
                "classes, or leave out --smooth"
            )
        values, seen = similarities.values, _grey(image)
        if self._last is not None:
            before, last = self._last
            same = before.shape == values.shape and last.shape == seen.shape
            if same and not _is_cut(seen, last):
                values = values.lerp(_moved(before, self._came(seen, last)), self._share)
        self._last = values, seen
        return Maps(values, similarities.classes)

    def _came(self, seen: Grey, last: Grey) -> npt.NDArray[np.float32]:
        """[H, W, 2] (x, y): how far off each place of a frame was in the one before, pixels."""
        # It begins with what it is given as its result.
        found = self._flow.calc(seen, last, np.zeros((*seen.shape, 2), np.float32))
        return np.asarray(found, np.float32)


def _grey(image: Image.Image) -> Grey:
    """[h, w] uint8, of the size that motion is found in."""
    scale = min(_SEEN / min(image.size), _LONGEST / max(image.size))
    width, height = (max(16, round(side * scale)) for side in image.size)
    return np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX))


def _is_cut(seen: Grey, last: Grey) -> bool:
    parts = [cv2.resize(each, (8, 8), interpolation=cv2.INTER_AREA) for each in (seen, last)]
    return float(cv2.absdiff(*parts).mean()) > _CUT


def _moved(values: Tensor, came: npt.NDArray[np.float32]) -> Tensor:
    """Maps [M, h, w] brought to where things are now.

    Args:
        values: of the frame before.
        came: [H, W, 2] float32 (x, y), how far off each pixel was in the frame before, in pixels.
    """
    rows, columns = values.shape[1:]
    height, width = came.shape[:2]
    coarse = cv2.resize(came, (columns, rows), interpolation=cv2.INTER_AREA)
    # As grid_sample counts: -1 and 1 are the outer edges.
    x = (2 * np.arange(columns) + 1) / columns - 1 + coarse[..., 0] * 2 / width
    y = ((2 * np.arange(rows) + 1) / rows - 1)[:, None] + coarse[..., 1] * 2 / height
    grid = torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32)).to(values.device)
    return F.grid_sample(values[None], grid[None], padding_mode="border", align_corners=False)[0]
