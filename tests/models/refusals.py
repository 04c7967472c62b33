"""How weights are refused: in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fmbseg.errors import WeightsError
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.sam import load_sam

LOADERS: dict[str, Callable[..., object]] = {
    "tiny-clip": load_clip,
    "tiny-sam": load_sam,
    "tiny-encoder": load_backbone,
}


def refused(action: Callable[[], object]) -> str:
    """The one line with which an action is refused."""
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message
