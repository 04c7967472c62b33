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
    # Wherever the process is: only the folder that is handed in counts.
    (tmp_path / "elsewhere" / ".fmbseg").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    vocabulary = load_vocabulary("voc21")
    plain = load_clip("tiny-clip").text_embeddings(vocabulary, "subset7")
    assert not list(tmp_path.rglob("*.npz"))  # without a folder nothing is kept

    folder = tmp_path / "encodings"
    count = len(vocabulary.queries[0])
    for _ in range(2):  # a model of its own each time, as in stages that are processes
        found = load_clip("tiny-clip", text_cache=folder).text_embeddings(vocabulary, "subset7")
        assert torch.equal(found.queries, plain.queries)
        assert torch.equal(found.anchors, plain.anchors)
    assert calls == [7 * count, 7 * count]
    # Other words, other templates or other threads are other content.
    clip = load_clip("tiny-clip", text_cache=folder)
    clip.text_embeddings(vocabulary, "single")
    clip.text_embeddings(load_vocabulary("sclip/voc21"), "single")
    assert len(calls) == 4
    clip.text_embeddings(vocabulary, "single")
    assert len(calls) == 4
    torch.set_num_threads(torch.get_num_threads() + 1)
    clip.text_embeddings(vocabulary, "single")
    assert len(calls) == 5


def test_a_file_under_another_record_has_embeddings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = load_vocabulary("voc20")
    plain = load_clip("tiny-clip", text_cache=tmp_path).text_embeddings(vocabulary).queries
    quick = replace(weights_record("tiny-clip"), activation="quick_gelu")
    monkeypatch.setattr(records, "registry", lambda: {"tiny-clip": quick})
    model = load_clip("tiny-clip", text_cache=tmp_path)
    found = model.text_embeddings(vocabulary).queries
    assert not torch.allclose(found, plain, atol=1e-3)
    model.text_cache = None
    assert torch.equal(found, model.text_embeddings(vocabulary).queries)


def test_a_damaged_file_is_made_again(tmp_path: Path, calls: list[int]) -> None:
    clip, vocabulary = load_clip("tiny-clip", text_cache=tmp_path), load_vocabulary("voc20")
    first = clip.text_embeddings(vocabulary)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-30])
    assert torch.equal(clip.text_embeddings(vocabulary).queries, first.queries)
    assert len(calls) == 2
    assert torch.equal(clip.text_embeddings(vocabulary).queries, first.queries)
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    vocabulary = load_vocabulary("voc20")
    plain = load_clip("tiny-clip").text_embeddings(vocabulary)
    clip = load_clip("tiny-clip", text_cache=tmp_path / "file" / "encodings")
    assert torch.equal(clip.text_embeddings(vocabulary).queries, plain.queries)
    assert len(caplog.messages) == 1
