"""The segmenter: shapes, classes, the background rule, inputs, and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import fmbseg
from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
from fmbseg.align.heads import seeded_head
from fmbseg.align.record import HeadConfig
from fmbseg.config import InferenceSection, RunSection
from fmbseg.data.vocabulary import (
    Vocabulary,
    VocabularyClass,
    load_vocabulary,
    vocabulary_from_names,
)
from fmbseg.errors import CheckpointError, DataError, VocabularyError
from fmbseg.inference import maps
from fmbseg.inference.segmenter import Segmenter, load_segmenter
from fmbseg.models import tiny
from fmbseg.models.weights import WEIGHTS_VARIABLE, weights_digest
from tests.heads import write_head
from tests.workspace import write_weights

CPU = RunSection(device="cpu", threads=1)


@pytest.fixture(scope="module")
def checkpoint(random_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a head with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = tiny.architecture("encoder")["model_args"]["embed_dim"]
    space = tiny.architecture("clip")["embed_dim"]
    info = CheckpointInfo(
        encoder=ModelReference("tiny-encoder", weights_digest("tiny-encoder", random_weights)),
        clip=ModelReference("tiny-clip", weights_digest("tiny-clip", random_weights)),
        vocabularies=(Vocabulary("three", tuple(map(VocabularyClass, ("dog", "cat", "grass")))),),
        templates="single",
        short_side=64,
        inference=InferenceSection(short_side=64, background_threshold=0.9),
        training={},
        metrics={},
    )
    save_checkpoint(folder, seeded_head(HeadConfig("transformer", encoder, space, 4), 0), info)
    return folder


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path, random_weights: Path) -> Segmenter:
    return load_segmenter(checkpoint, run=CPU, weights_dir=random_weights)


def picture(width: int = 90, height: int = 70, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def test_is_the_public_api() -> None:
    assert fmbseg.load_segmenter is load_segmenter
    assert fmbseg.Segmenter is Segmenter


def test_predict_gives_labels_and_scores(segmenter: Segmenter) -> None:
    result = segmenter.predict(picture(), classes=["dog", "a red car", "sky", "road"])
    assert result.classes == ("dog", "a red car", "sky", "road")
    assert result.label_map.shape == (70, 90)
    assert result.label_map.dtype == np.int64
    assert result.scores.shape == (4, 70, 90)
    assert result.scores.dtype == np.float32
    assert np.abs(result.scores).max() <= 1.0 + 1e-5
    np.testing.assert_array_equal(result.scores.argmax(axis=0), result.label_map)
    assert result.maps.values.shape == (4, 8, 10)


def test_scores_are_the_upsampled_similarities(segmenter: Segmenter) -> None:
    result = segmenter.predict(picture(), classes=["dog", "cat"])
    expected = F.interpolate(result.maps.values[None], (70, 90), mode="bilinear")
    torch.testing.assert_close(torch.from_numpy(result.scores), expected[0])


def test_default_classes_are_those_of_the_training(segmenter: Segmenter) -> None:
    assert segmenter.predict(picture()).classes == ("dog", "cat", "grass")
    assert segmenter.predict(picture(), vocabulary="voc20").classes[0] == "aeroplane"
    assert len(segmenter.predict(picture(), vocabulary=load_vocabulary("voc21")).classes) == 21


def test_every_kind_of_image(segmenter: Segmenter, tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "image.png"
    image.save(path)
    expected = segmenter.predict(image)
    for same in (np.asarray(image), path, str(path), image.convert("RGBA")):
        np.testing.assert_array_equal(segmenter.predict(same).label_map, expected.label_map)
    grey = np.asarray(image.convert("L"))
    assert segmenter.predict(grey).label_map.shape == (70, 90)


def test_odd_sizes(segmenter: Segmenter) -> None:
    for width, height in ((1, 1), (5, 200), (333, 21), (64, 64)):
        result = segmenter.predict(picture(width, height), classes=["dog", "cat"])
        assert result.label_map.shape == (height, width)
        assert result.scores.shape == (2, height, width)


def test_one_class_alone_is_set_against_a_rest(segmenter: Segmenter) -> None:
    found = segmenter.predict(picture(), classes=["dog|puppy"])
    assert found.classes == ("dog", "background")
    assert np.unique(found.label_map).tolist() != [0]


def test_synonyms_count_for_their_class(segmenter: Segmenter) -> None:
    plain = segmenter.predict(picture(), classes=["dog", "puppy", "cat"])
    merged = Vocabulary("two", (VocabularyClass("dog", ("puppy",)), VocabularyClass("cat")))
    result = segmenter.predict(picture(), vocabulary=merged)
    values = plain.maps.values
    torch.testing.assert_close(
        result.maps.values, torch.stack([values[:2].amax(dim=0), values[2]]), rtol=0, atol=1e-6
    )


def test_batches_equal_single_images(segmenter: Segmenter) -> None:
    images = [picture(90, 70, 0), picture(40, 80, 1), picture(90, 70, 2), picture(64, 64, 3)]
    vocabulary = load_vocabulary("voc20")
    for image, (_, together) in zip(images, segmenter.segment(images, vocabulary), strict=True):
        ((_, alone),) = segmenter.segment([image], vocabulary)
        assert (together.labels == alone.labels).mean() > 0.999  # sums may turn a tie


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """But for what is said of the random weights."""
    return [entry.getMessage() for entry in caplog.records if "inference" in entry.name]


def test_a_head_is_asked_as_its_checkpoint_says_unless_told(
    checkpoint: Path, random_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = InferenceSection(short_side=64, background_threshold=0.9)
    for given in (None, own):
        found = load_segmenter(checkpoint, given, CPU, random_weights)
        assert found.inference == own
        assert found.predict(picture()).maps.values.shape == (3, 8, 10)
    assert said(caplog) == []
    section = own.model_copy(update={"short_side": 128, "logit_scale": 3.0})
    large = load_segmenter(checkpoint, section, CPU, random_weights)
    assert large.predict(picture()).maps.values.shape == (3, 16, 21)
    (line,) = said(caplog)
    assert "evaluate.short_side=128, evaluate.logit_scale=3.0" in line
    assert "not with its own evaluate.short_side=64, evaluate.logit_scale=40.0" in line


def test_other_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    write_weights(tmp_path, seed=5)
    with pytest.raises(CheckpointError, match="other weights of tiny-encoder"):
        load_segmenter(checkpoint, run=CPU, weights_dir=tmp_path)


def test_mistakes_are_named(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_segmenter(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        segmenter.predict(tmp_path / "none.jpg")
    with pytest.raises(DataError, match=r"float64: give \[H, W, 3\] uint8"):
        segmenter.predict(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="give"):
        segmenter.predict(np.zeros((4, 4, 2), dtype=np.uint8))
    with pytest.raises(VocabularyError, match="one of the two"):
        segmenter.predict(picture(), classes=["dog"], vocabulary="voc20")
    with pytest.raises(VocabularyError, match="twice"):
        segmenter.predict(picture(), classes=["dog", "Dog "])
    with pytest.raises(VocabularyError):
        segmenter.predict(picture(), classes=[])


def test_pictures_of_more_than_8_bits_are_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    """Pillow would turn them white in silence."""
    deep = np.linspace(0, 65535, 32 * 48).reshape(32, 48)
    for array in (deep.astype(np.uint16), deep.astype(np.int32), deep.astype(np.float32)):
        image = Image.fromarray(array)
        assert image.mode in ("I;16", "I", "F")
        with pytest.raises(DataError, match="the image has more than 8 bits a channel"):
            segmenter.predict(image)
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        segmenter.predict(tmp_path / "deep.png")


def test_a_library_call_leaves_the_process_as_it_is(
    checkpoint: Path, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(random_weights))
    torch.set_num_threads(3)
    torch.backends.cudnn.benchmark = True
    load_segmenter(checkpoint).predict(picture())
    assert torch.get_num_threads() == 3
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    # A machine with more threads than a configuration may name.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 384)
    load_segmenter(checkpoint)
    monkeypatch.undo()
    load_segmenter(checkpoint, run=CPU, weights_dir=random_weights)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("size", [(40, 30), (7, 50), (3, 2), (8, 10)])
def test_pixels_are_decided_in_bands_and_classes_in_parts(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 8, 10, generator=generator) * 0.2
    scores = F.interpolate(values[None], size, mode="bilinear")[0]
    probability = (40 * scores).softmax(dim=0).amax(dim=0)
    classes = torch.arange(5)
    whole = maps.Maps(values, classes)

    def some(wanted: torch.Tensor) -> maps.Maps:
        return maps.Maps(values[wanted], wanted)

    for elements in (1, 5 * size[1] * 3, 1 << 24):
        monkeypatch.setattr(maps, "_BAND_ELEMENTS", elements)
        for given in (whole, maps.ManyMaps(some, classes, at_once=2)):
            found = maps.best_class(given, size)
            assert found is not None and torch.equal(found.classes, scores.argmax(dim=0))
            torch.testing.assert_close(found.cosine, scores.amax(dim=0))
            found = maps.best_class(given, size, logit_scale=40.0)
            assert found is not None and torch.equal(found.classes, scores.argmax(dim=0))
            torch.testing.assert_close(found.probability(40.0), probability)
            own = maps.probability_of(given, found.classes, size, 40.0)
            torch.testing.assert_close(own, probability)
            second = (found.classes + 1) % 5
            expected = (40 * scores).softmax(dim=0).gather(0, second[None])[0]
            torch.testing.assert_close(maps.probability_of(given, second, size, 40.0), expected)


def test_the_projection_asked_is_that_of_the_words(tmp_path: Path) -> None:
    """By the shipped CLIP, to which `aeroplane` and `airplane` are one."""
    names = ("coco_stuff", "voc20", "cityscapes")
    write_head(tmp_path, 0, *names)
    segmenter = load_segmenter(tmp_path, run=CPU)
    asked = {name: segmenter.projection(load_vocabulary(name)) for name in (*names, "voc21")}
    assert asked == {"coco_stuff": 0, "voc20": 1, "cityscapes": 2, "voc21": 0}
    own = ["vegetation", "terrain", "car"]
    assert segmenter.projection(vocabulary_from_names(own)) == 2
    assert segmenter.projection(vocabulary_from_names(["giraffe", "quasar"])) == 0

    # Weights of one projection alone change what its words are answered.
    image = picture()
    before = [segmenter.predict(image, vocabulary=name).scores for name in names]
    with torch.no_grad():
        segmenter.checkpoint.head.projections[2].weight.neg_()  # type: ignore[operator]
    after = [segmenter.predict(image, vocabulary=name).scores for name in names]
    same = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert same == [True, True, False]
