"""CLIP's text side: tokenizer, tower, templates and queries averaged."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary import (
    Vocabulary,
    VocabularyClass,
    load_vocabulary,
    vocabulary_from_names,
)
from fmbseg.errors import ConfigError
from fmbseg.models.build import tiny_tokenizer
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.text import SAME_TO_CLIP, TextEmbeddings, class_similarity

Array = npt.NDArray[np.float64]


def test_the_tiny_tokenizer_fits_the_text_tower(clip: ClipModel) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.vocab_size == 2014
    assert len(clip.module.token_embedding.weight) == tokenizer.vocab_size
    tokens = tokenizer(["a photo of a traffic light.", "Œuvre 5%", "x" * 60])
    assert tokens.shape == (3, clip.module.context_length)
    assert tokens.max() == tokenizer.eot_token_id == 2013  # the tower pools at the largest token
    assert tokens[:, 0].tolist() == [tokenizer.sot_token_id] * 3
    assert (tokens == tokenizer.eot_token_id).sum(dim=1).tolist() == [1, 1, 1]
    assert tokenizer.decode(tokens[0, 1:12].tolist()).strip().startswith("a photo of a traffic")


def test_the_text_tower_reads_up_to_the_end_token_only(clip: ClipModel) -> None:
    tokens = tiny_tokenizer()(["a dog"])
    end = int(tokens.argmax())
    padded = tokens.clone()
    padded[0, end + 1 :] = 7
    with torch.no_grad():
        plain = clip.module.encode_text(tokens)
        torch.testing.assert_close(clip.module.encode_text(padded), plain)
        changed = tokens.clone()
        changed[0, end - 1] += 1
        assert not torch.allclose(clip.module.encode_text(changed), plain)


def test_prompts_are_unit_vectors_and_long_ones_are_reported(
    clip: ClipModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        vectors = clip.encode_text(["a dog", "a cat"])
        assert not caplog.records
        clip.encode_text(["a dog", "an endlessly extended description " * 9])
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    assert vectors.dtype == torch.float32
    assert "1 prompts are cut at 24 tokens" in caplog.text
    assert clip.encode_text([]).shape == (0, clip.embed_dim)


def test_text_embeddings_average_templates_then_queries(clip: ClipModel) -> None:
    vocabulary = Vocabulary(
        "pets", (VocabularyClass("dog", ("puppy", "hound")), VocabularyClass("cat"))
    )
    text = clip.text_embeddings(vocabulary, "subset7")
    assert text.query_class.tolist() == [0, 0, 0, 1]
    assert len(text) == 2
    for row, word in enumerate(["dog", "puppy", "hound", "cat"]):
        total = torch.zeros(clip.embed_dim)
        for template in TEMPLATES["subset7"]:
            total += clip.encode_text([template.format(word)])[0]
        torch.testing.assert_close(text.queries[row], total / total.norm(), atol=1e-5, rtol=0)
    mean = text.queries[:3].mean(dim=0)
    torch.testing.assert_close(text.anchors[0], mean / mean.norm(), atol=1e-6, rtol=0)
    torch.testing.assert_close(text.anchors[1], text.queries[3], atol=1e-6, rtol=0)


def test_text_embeddings_do_not_hang_on_gradients(clip: ClipModel) -> None:
    text = clip.text_embeddings(vocabulary_from_names(["dog", "cat"]))
    z = torch.randn(5, clip.embed_dim, requires_grad=True)
    class_similarity(z, text).sum().backward()  # frozen anchors, used in training
    torch.testing.assert_close(z.grad, text.anchors.sum(dim=0).expand(5, -1))


def test_unknown_templates_are_refused(clip: ClipModel) -> None:
    with pytest.raises(ConfigError, match="unknown templates 'none': choose one of single"):
        clip.text_embeddings(vocabulary_from_names(["dog"]), "none")


def test_class_similarity_takes_the_best_query_of_a_class() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    owners = [0, 2, 1, 2, 2]
    text = TextEmbeddings(queries, torch.tensor(owners), queries[:3])
    x = F.normalize(torch.randn(2, 3, 4, 8, generator=generator), dim=-1)
    similarity = class_similarity(x, text)
    assert similarity.shape == (2, 3, 4, 3)
    for place in np.ndindex(2, 3, 4):
        for k in range(3):
            best = max(float(x[place] @ queries[q]) for q in range(5) if owners[q] == k)
            assert float(similarity[(*place, k)]) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("at_once", [2, 256])
def test_words_that_are_one_stay_with_the_earlier_class(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second, third, fourth = F.normalize(torch.randn(4, 64, generator=generator), dim=-1)
    near = F.normalize(first + 0.01 * second, dim=-1)
    queries = torch.stack([first, second, near, near, third, second, fourth])
    owners = [0, 0, 1, 2, 2, 3, 3]
    text = TextEmbeddings(queries, torch.tensor(owners), F.normalize(queries[[0, 2, 3, 5]], dim=-1))
    monkeypatch.setattr("fmbseg.models.text._WORDS_AT_ONCE", at_once)
    found = text.told_apart(0.95)
    kept = [
        row
        for row in range(7)
        if not any(
            owners[other] < owners[row] and float(queries[other] @ queries[row]) >= 0.95
            for other in range(7)
        )
    ]
    assert kept == [0, 1, 4, 6]
    torch.testing.assert_close(found.queries, queries[kept], atol=0, rtol=0)
    assert found.query_class.tolist() == [0, 0, 2, 3]
    assert found.anchors is text.anchors and len(found) == 4
    # As many words as classes, and yet not one for each.
    similarity = class_similarity(queries[2:4], found)
    assert similarity[:, 1].tolist() == [float("-inf")] * 2
    torch.testing.assert_close(similarity[:, 0], queries[2:4] @ first)
    torch.testing.assert_close(similarity[:, 3], queries[2:4] @ fourth)


def test_words_of_ade20k_that_are_one_to_clip_are_left_to_the_general_one() -> None:
    words = load_vocabulary("ade20k").widened
    text = load_clip("tiny-clip").text_embeddings(words)
    has = {words.names[index] for index in text.told_apart(SAME_TO_CLIP).query_class.tolist()}
    assert {"road", "grass", "tree", "sea", "house", "boat", "table", "lamp"} <= has
    assert not {"path", "field", "palm", "lake", "hovel", "ship", "pool table", "light"} & has
