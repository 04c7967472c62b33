"""Digest of images together with their truth: what a benchmark's result was made on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.errors import DataError
from fmbseg.machine.progress import Progress
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.file_memory import remembered

# What turns an annotation file into class indices; what it said is asked anew when it changes.
_READING = ("datasets.py", "detail.py", "formats.py", "images.py", "layouts.py", "truth.py")


def truth_digest(
    samples: SegmentationDataset, progress: Progress, memory: Path | None = None
) -> str:
    """Digest of images and truth as they are read, whatever files the truth lies in.

    Args:
        samples: with truth.
        progress: of the reading.
        memory: folder where it is remembered what unchanged files hold; None: all are read.

    Raises:
        DataError: a sample has no truth, or cannot be read.
    """
    code = [file_digest(Path(__file__).with_name(name)) for name in _READING]
    classes = [sample.num_classes for sample in samples[:1]]

    def read(index: int) -> str:
        return json.dumps(_digests(samples[index]))

    files = [
        tuple(path for path in (sample.image_path, sample.annotation_path) if path is not None)
        for sample in samples
    ]
    name = json_digest(["truth", code, classes, samples.name, str(samples.root.resolve())])
    found = remembered(memory, name, files, read, progress, "digest")
    pairs = (json.loads(value) for value in found)
    return json_digest([[s.image_id, *pair] for s, pair in zip(samples, pairs, strict=True)])


def _digests(sample: Sample) -> list[str]:
    label = sample.label
    if label is None:
        raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
    # Labels are 0 to 255; eight times less to hash.
    values = hashlib.sha256(repr(label.shape).encode() + label.astype("uint8").tobytes())
    return [file_digest(sample.image_path), values.hexdigest()]
