"""Vocabularies: the classes an image is segmented into, and the words CLIP is asked with.

`classes` says what a vocabulary is; `grammar` how a class is written in a line, `files` how many
are in a YAML file, `importing` how other projects write them; `rest` what is none of them.
"""

from __future__ import annotations

from fmbseg.data.vocabulary.classes import Vocabulary, VocabularyClass
from fmbseg.data.vocabulary.files import variant_names, vocabulary_names, vocabulary_yaml
from fmbseg.data.vocabulary.importing import vocabulary_from_text
from fmbseg.data.vocabulary.loading import load_vocabulary, reworded
from fmbseg.data.vocabulary.names import vocabulary_from_names
from fmbseg.data.vocabulary.rest import with_rest

__all__ = [
    "Vocabulary",
    "VocabularyClass",
    "load_vocabulary",
    "reworded",
    "variant_names",
    "vocabulary_from_names",
    "vocabulary_from_text",
    "vocabulary_names",
    "vocabulary_yaml",
    "with_rest",
]
