from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmbseg.config import DetectionSection
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.classification import classify_masks
from fmbseg.pseudo.detection import detect_classes, looked_for, similarity_to_classes

NO_PATCHES = np.zeros((0, 0, 16), np.float16)  # two of the rules never look at patches


def make_text(classes: int, per_class: int, dim: int, seed: int = 0) -> TextEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    queries = F.normalize(torch.randn(classes * per_class, dim, generator=generator), dim=-1)
    owner = torch.arange(classes).repeat_interleave(per_class)
    anchors = F.normalize(queries.view(classes, per_class, dim).mean(1), dim=-1)
    return TextEmbeddings(queries, owner, anchors)


def unit(shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("per_class", [1, 3])
@pytest.mark.parametrize("min_votes", [1, 3])
@pytest.mark.parametrize("least", [-1.0, 0.3])
def test_votes_equal_a_plain_loop(per_class: int, min_votes: int, least: float) -> None:
    text, windows = make_text(7, per_class, 16), unit((40, 16), 1)
    votes, best = [0] * 7, [-2.0] * 7
    for window in windows.astype(np.float32):
        similarity = [-2.0] * 7
        for query, owner in zip(text.queries.numpy(), text.query_class.tolist(), strict=True):
            similarity[owner] = max(similarity[owner], float(query @ window))
        best = [max(pair) for pair in zip(best, similarity, strict=True)]
        if max(similarity) >= least:
            votes[similarity.index(max(similarity))] += 1
    present = [k for k in range(7) if votes[k] >= min_votes]

    section = DetectionSection(min_votes=min_votes, min_vote_similarity=least)
    found = detect_classes(windows, NO_PATCHES, text, section)

    assert found.classes.tolist() == present
    assert found.votes.tolist() == [votes[k] for k in present]
    np.testing.assert_allclose(found.similarity, [best[k] for k in present], atol=1e-6)
    assert found.classes.dtype == found.votes.dtype == np.int64
    assert found.similarity.dtype == np.float32


def test_similarity_rule_needs_no_vote() -> None:
    text = make_text(3, 1, 8)
    first, second, _ = text.queries.numpy()
    between = first + 0.9 * second
    windows = (between / np.linalg.norm(between))[None]
    similarity = similarity_to_classes(windows, text)[0]
    section = DetectionSection(rule="similarity", min_similarity=float(similarity[1]) - 1e-3)

    found = detect_classes(windows, NO_PATCHES, text, section)

    assert found.classes.tolist() == [0, 1]
    assert found.votes.tolist() == [1, 0]


def test_patches_rule_equals_a_plain_loop() -> None:
    text, windows, dense = make_text(9, 2, 16), unit((6, 16), 4), unit((3, 5, 16), 5)
    best = [-2.0] * 9
    for patch in dense.reshape(-1, 16).astype(np.float32):
        for query, owner in zip(text.queries.numpy(), text.query_class.tolist(), strict=True):
            best[owner] = max(best[owner], float(query @ patch))
    least = sorted(best)[4] - 1e-4
    present = [k for k in range(9) if best[k] >= least]
    assert len(present) == 5

    section = DetectionSection(rule="patches", min_similarity=least)
    found = detect_classes(windows, dense, text, section)

    assert found.classes.tolist() == present
    np.testing.assert_allclose(found.similarity, [best[k] for k in present], atol=1e-6)
    assert found.similarity.dtype == np.float32


def test_nothing_is_detected_when_no_crop_may_vote() -> None:
    section = DetectionSection(min_vote_similarity=1.0)
    found = detect_classes(unit((5, 16), 2), NO_PATCHES, make_text(4, 2, 16), section)
    assert len(found.classes) == 0
    assert found.votes.shape == found.similarity.shape == (0,)


def test_similarity_keeps_leading_axes() -> None:
    text, dense = make_text(4, 2, 16), unit((3, 5, 16), 3)
    similarity = similarity_to_classes(dense, text)
    assert similarity.shape == (3, 5, 4)
    expected = (dense[2, 4].astype(np.float32) @ text.queries.numpy().T).reshape(4, 2).max(1)
    np.testing.assert_allclose(similarity[2, 4], expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["votes", "similarity", "patches"])
def test_a_class_whose_words_are_an_earlier_ones_is_not_found(rule: str) -> None:
    text = make_text(3, 1, 16)
    twice = TextEmbeddings(
        torch.cat([text.queries, text.queries[:1]]), torch.arange(4), text.anchors[[0, 1, 2, 0]]
    )
    windows = text.queries[:1].numpy()
    dense = windows[None]

    def found(same: float | None) -> list[int]:
        section = DetectionSection(rule=rule, min_similarity=0.9, same_words=same)
        words = looked_for(twice, section)
        classes = detect_classes(windows, dense, words, section).classes
        assert classify_masks(windows, words, classes)[0].tolist() == [0]
        return list(classes)

    assert found(0.95) == [0]
    assert found(None) == ([0] if rule == "votes" else [0, 3])
