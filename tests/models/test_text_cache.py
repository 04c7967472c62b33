"""Text embeddings by content: the same numbers, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.models import records
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.records import weights_record
from fmbseg.models.text_cache import project_text_cache


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of prompts of each call of the text encoder."""
    made: list[int] = []
    encode = ClipModel.encode_text

    def counted(self: ClipModel, prompts: Sequence[str]) -> torch.Tensor:
        made.append(len(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(ClipModel, "encode_text", counted)
    return made


def test_embeddings_are_computed_once_and_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_text_cache(lambda: "") is None
    vocabulary = load_vocabulary("voc21")
    plain = load_clip("tiny-clip").text_embeddings(vocabulary, "subset7")
    assert not (tmp_path / ".fmbseg").exists()  # outside a project nothing is kept

    (tmp_path / ".fmbseg").mkdir()
    count = len(vocabulary.queries[0])
    for _ in range(2):  # a model of its own each time, as in stages that are processes
        found = load_clip("tiny-clip").text_embeddings(vocabulary, "subset7")
        assert torch.equal(found.queries, plain.queries)
        assert torch.equal(found.anchors, plain.anchors)
    assert calls == [7 * count, 7 * count]
    # Other words, other templates or other threads are other content.
    clip = load_clip("tiny-clip")
    clip.text_embeddings(vocabulary, "single")
    clip.text_embeddings(load_vocabulary("sclip/voc21"), "single")
    assert len(calls) == 4
    clip.text_embeddings(vocabulary, "single")
    assert len(calls) == 4


def test_a_file_under_another_record_has_embeddings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fmbseg").mkdir()
    vocabulary = load_vocabulary("voc20")
    plain = load_clip("tiny-clip").text_embeddings(vocabulary).queries
    quick = replace(weights_record("tiny-clip"), activation="quick_gelu")
    monkeypatch.setattr(records, "registry", lambda: {"tiny-clip": quick})
    model = load_clip("tiny-clip")
    found = model.text_embeddings(vocabulary).queries
    assert not torch.allclose(found, plain, atol=1e-3)
    model.text_cache = None
    assert torch.equal(found, model.text_embeddings(vocabulary).queries)


def test_a_damaged_file_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fmbseg").mkdir()
    clip, vocabulary = load_clip("tiny-clip"), load_vocabulary("voc20")
    first = clip.text_embeddings(vocabulary)
    (file,) = (tmp_path / ".fmbseg" / "text").iterdir()
    file.write_bytes(file.read_bytes()[:-30])
    assert torch.equal(clip.text_embeddings(vocabulary).queries, first.queries)
    assert len(calls) == 2
    assert torch.equal(clip.text_embeddings(vocabulary).queries, first.queries)
    assert len(calls) == 2
