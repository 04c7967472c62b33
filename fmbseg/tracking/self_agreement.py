"""How far a trained head agrees with itself on the pictures it was trained on; no truth is read."""

from __future__ import annotations

from pathlib import Path

from fmbseg.config import Config
from fmbseg.data.datasets import load_dataset
from fmbseg.inference.agreement import agreement
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.store.digest import file_digest, json_digest

_PICTURES = 24  # the first of the data set


def measured(config: Config, checkpoint: Path, root: Path) -> tuple[float, str]:
    """Ask a head for the first vocabulary of its training.

    Args:
        config: sections data and run are read.
        checkpoint: folder of the head.
        root: the project's folder.

    Returns:
        Its agreement, and a digest of the pictures and words that it was measured with.

    Raises:
        FmbsegError: the head or a picture cannot be read.
    """
    data = config.data
    images = load_dataset(data.name, root / data.root, data.split)[: data.limit][:_PICTURES]
    segmenter = load_segmenter(checkpoint, run=config.run)
    words = segmenter.checkpoint.info.vocabularies[0]
    value = agreement(segmenter, [each.image for each in images], words)
    files = [file_digest(path) for _, path in images.image_files]
    return value, json_digest([files, words.digest])
