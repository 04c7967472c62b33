"""Checkpoints: a round trip, the same bytes twice, and one line for each kind of damage."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fmbseg.align.checkpoint import (
    CheckpointInfo,
    ModelReference,
    load_checkpoint,
    require_weights,
    save_checkpoint,
)
from fmbseg.align.heads import AlignmentHead, seeded_head
from fmbseg.align.record import HeadConfig
from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass, load_vocabulary
from fmbseg.errors import CheckpointError
from fmbseg.models.weights import weights_digest


def info() -> CheckpointInfo:
    vocabulary = Vocabulary(
        "pets",
        (VocabularyClass("background", ("wall", "sky")), VocabularyClass("dog")),
        background=0,
        templates="subset7",
    )
    return CheckpointInfo(
        encoder=ModelReference("tiny-encoder", weights_digest("tiny-encoder")),
        clip=ModelReference("tiny-clip", weights_digest("tiny-clip")),
        vocabularies=(vocabulary, load_vocabulary("voc20")),
        templates="single",
        short_side=96,
        inference=InferenceSection(background_threshold=0.9),
        training={"epochs": 2, "seed": 0},
        metrics={"loss": 1.25},
    )


def head() -> AlignmentHead:
    return seeded_head(HeadConfig("transformer", 16, 8, 2), 0)


def test_round_trip(tmp_path: Path) -> None:
    trained = head()
    sha256 = save_checkpoint(tmp_path, trained, info())
    found = load_checkpoint(tmp_path)
    assert found.info == info()
    assert found.sha256 == sha256
    assert sha256 == hashlib.sha256((tmp_path / "head.safetensors").read_bytes()).hexdigest()
    assert not found.head.training
    x = torch.randn(1, 3, 4, 16)
    with torch.no_grad():
        assert torch.equal(found.head(x), trained.eval()(x))


def test_the_words_asked_with_come_back(tmp_path: Path) -> None:
    for name in ("sclip/voc21", "proxyclip/voc21", "voc21", "coco_stuff"):
        trained = replace(info(), vocabularies=(load_vocabulary(name),))
        save_checkpoint(tmp_path, head(), trained)
        found = load_checkpoint(tmp_path).info.vocabularies
        assert found == trained.vocabularies
        assert found[0].queries == trained.vocabularies[0].queries


def test_a_record_without_all_its_words_is_refused(tmp_path: Path) -> None:
    trained = replace(info(), vocabularies=(load_vocabulary("sclip/voc21"),))
    save_checkpoint(tmp_path, head(), trained)
    path = tmp_path / "checkpoint.json"
    record = json.loads(path.read_text())
    for entry in record["vocabularies"][0]["classes"]:
        entry.pop("ask", None)
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is damaged or was changed by hand") as e:
        load_checkpoint(tmp_path)
    assert "\n" not in str(e.value)


def test_record_says_what_it_fits(tmp_path: Path) -> None:
    sha256 = save_checkpoint(tmp_path, head(), info())
    record = json.loads((tmp_path / "checkpoint.json").read_text())
    assert record["format"] == 3
    assert record["sha256"] == sha256
    assert record["head"] == {
        "kind": "transformer",
        "in_dim": 16,
        "out_dim": 8,
        "heads": 2,
        "projections": 1,
    }
    assert record["vocabularies"][0]["digest"] == info().vocabularies[0].digest
    assert record["encoder"]["name"] == "tiny-encoder"


def test_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, head(), info())
    for file in ("head.safetensors", "checkpoint.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_damage_is_named(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match) as caught:
            load_checkpoint(tmp_path)
        assert "\n" not in str(caught.value)

    refused("no checkpoint in")
    save_checkpoint(tmp_path, head(), info())
    weights, record = tmp_path / "head.safetensors", tmp_path / "checkpoint.json"
    data, text = weights.read_bytes(), record.read_text()

    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("is damaged or belongs to another")
    weights.unlink()
    refused("is missing")
    weights.write_bytes(data)

    record.write_text(text[: len(text) // 2])
    refused("is damaged")
    record.write_text(text.replace('"format": 3', '"format": 1'))
    refused("has format 1")
    for old, new in (
        ('"in_dim": 16', '"in_dim": 32'),
        ('"heads": 2', '"heads": 4'),
        ('"name": "dog"', '"name": "wall"'),
        ('"loss": 1.25', '"loss": NaN'),
        ('"templates": "single"', '"templates": "custom9"'),
        ('"background_threshold": 0.9', '"background_threshold": 0.1'),
    ):
        assert old in text
        record.write_text(text.replace(old, new))
        refused("is damaged or was changed by hand: .* `--set evaluate.NAME=VALUE`")
    record.write_text("[]")
    refused("has format None")
    record.write_text(text)
    load_checkpoint(tmp_path)


def test_a_byte_of_the_record_that_differs_is_refused_or_means_the_same(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, head(), info())
    path = tmp_path / "checkpoint.json"
    whole, right = path.read_bytes(), load_checkpoint(tmp_path)
    rng, same = random.Random(0), 0
    for place in range(len(whole)):
        for byte in (whole[place] ^ (1 << rng.randrange(8)), rng.choice(b"0123456789 ,aA")):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                found = load_checkpoint(tmp_path)
            except CheckpointError:
                continue
            same += 1
            assert (found.info, found.sha256) == (right.info, right.sha256), (place, byte)
            assert found.head.config == right.head.config
    assert 0 < same < len(whole) / 4  # blanks


def test_other_weights_are_refused() -> None:
    require_weights(info().encoder)
    with pytest.raises(CheckpointError, match="other weights of tiny-encoder"):
        require_weights(ModelReference("tiny-encoder", "0" * 64))
