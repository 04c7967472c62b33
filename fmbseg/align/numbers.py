"""What a head cannot be trained on: nothing labelled, nothing to tell apart, features of NaN."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fmbseg.align.feature_store import StoredFeatures
from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import DataError, shown

_NAMED = 5
_log = logging.getLogger(__name__)

Labels = Sequence[npt.NDArray[np.integer]]


def require_contrast(
    vocabularies: Sequence[Labels], used: Sequence[int], ids: Sequence[str]
) -> None:
    """Warn where labels give a head little to tell apart.

    With one labelled patch a picture's loss has no other patch in it: of equations (1) to (4) a
    constant is left, and the text of its class.

    Args:
        vocabularies: in each, of every image [h, w] class indices, 255 = unlabelled.
        used: indices of the images that have a labelled patch in one of them.
        ids: of all images.

    Raises:
        DataError: no image has one.
    """
    if not used:
        raise DataError(
            f"no patch of {named(ids, range(len(ids)))} has a label: lower align.purity, or look "
            "at the label maps of `fmbseg run label`"
        )
    found = [
        [np.unique(labels[i][labels[i] != UNLABELLED]) for i in used] for labels in vocabularies
    ]
    classes = [set(np.concatenate(each).tolist()) for each in found]
    if all(len(each) <= 1 for each in classes):
        only = next(iter(set.union(*classes)))
        _log.warning(
            "all labelled patches are of one class (number %d of its vocabulary), in %s: a head "
            "learns to say it of everything; label other classes too",
            only,
            named(ids, used),
        )
    patches = [
        sum(int(np.count_nonzero(labels[i] != UNLABELLED)) for labels in vocabularies) for i in used
    ]
    if lone := [i for i, count in zip(used, patches, strict=True) if count == 1]:
        _log.warning(
            "a single patch is labelled in each of %s: in a batch of its own its loss is constant; "
            "lower align.purity, or raise align.batch_images",
            named(ids, lone),
        )


def unfit_features(features: StoredFeatures, used: Sequence[int]) -> list[int]:
    """Which of some images have a feature that is NaN or infinite."""
    return [i for i in used if not np.isfinite(features.load(i)).all()]


def named(ids: Sequence[str], members: Sequence[int]) -> str:
    """Some pictures in a message: the first by name, the others by number."""
    first = ", ".join(shown(ids[i]) for i in members[:_NAMED])
    count = f"{len(members)} picture{'s' if len(members) != 1 else ''}"
    return f"{count} ({first}{', ...' if len(members) > _NAMED else ''})"
