"""Images, annotations, vocabularies and synthetic scenes."""

from __future__ import annotations

from fmbseg.data.datasets import Sample, SegmentationDataset, load_dataset
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary, vocabulary_from_names

__all__ = [
    "Sample",
    "SegmentationDataset",
    "Vocabulary",
    "load_dataset",
    "load_vocabulary",
    "vocabulary_from_names",
]
