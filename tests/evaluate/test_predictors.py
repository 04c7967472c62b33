"""The methods under test, with the library's own classes and small weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass, load_vocabulary
from fmbseg.errors import CheckpointError, ConfigError
from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.methods.maskclip import MaskClip
from fmbseg.evaluate.methods.predictor import Predictor, load_predictor
from fmbseg.evaluate.methods.pseudo import PseudoLabels
from fmbseg.evaluate.regions import paint, vote
from fmbseg.inference.decision import Labels
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.machine.device import choose_device
from fmbseg.models.clip import ClipModel, load_clip
from fmbseg.models.sam import SamModel
from fmbseg.models.text import class_similarity
from fmbseg.pseudo.encodings import ImageEncoder, MaskEncodings, pixels_digest
from fmbseg.pseudo.pipeline import label_image
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig

PLAIN = Vocabulary("plain", tuple(map(VocabularyClass, ("dog", "grass", "sky"))))
WITH_BACKGROUND = Vocabulary("background", PLAIN.classes, background=1)


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(3)]
    sizes = ((96, 64), (70, 81), (96, 64))
    return [
        image.resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(coarse, sizes, strict=True)
    ]


def labelled(predictor: Predictor, image: Image.Image, vocabulary: Vocabulary) -> Labels:
    return predictor.decide([image], vocabulary)[0].labels


@pytest.mark.parametrize("method", [name for name in METHODS if name != "oracle"])
def test_labels_have_the_images_size_and_the_protocol_is_json(
    method: str, equipped: Paths, make_config: MakeConfig
) -> None:
    folder = METHODS[method].made_folder(equipped) or equipped.align
    predictor = load_predictor(method, make_config(), folder)
    images = pictures()
    labels = [decision.labels for decision in predictor.decide(images, PLAIN)]
    for image, label in zip(images, labels, strict=True):
        assert label.shape == (image.height, image.width)
        assert label.dtype == np.int64
        allowed = {0, 1, 2, 255} if method == "pseudo" else {0, 1, 2}
        assert set(np.unique(label)) <= allowed
        other = (labelled(predictor, image, PLAIN) != label).mean()
        # Random texts lie close to each other in the encoder's space: some pixels are ties.
        assert other <= (0.005 if method == "talk2dino" else 0)
    protocol = predictor.protocol(PLAIN)
    assert json.loads(json.dumps(protocol)) == protocol
    assert {"short_side", "templates", "background_rule", "threads", "dtype", "weights"} <= set(
        protocol
    )
    if method == "pseudo":
        # Stage 1 has its own sizes: a protocol changes nothing, and the record says so.
        peers = PseudoLabels(make_config(evaluate={"protocol": "tcl"}))
        assert peers.protocol(PLAIN) == protocol
        assert protocol["name"] == "stage 1"
        assert "evaluate.protocol does not apply" in protocol["windows"]
    # No benchmark or vocabulary is part of it: results of one run are told by equal protocols.
    assert predictor.protocol(load_vocabulary("voc21")) == protocol
    assert (predictor.checkpoint_sha256 is None) == (method not in {"fmbseg", "talk2dino"})


@pytest.mark.parametrize("method", ["stitch", "proxyclip", "corrclip"])
def test_what_joins_windows_takes_none_from_a_protocol(
    method: str, make_config: MakeConfig
) -> None:
    found, image = [], pictures()[1]
    for protocol in ("fmbseg", "tcl"):
        predictor = load_predictor(method, make_config(evaluate={"protocol": protocol}))
        # The protocol's rule for a background is left aside with its windows.
        found.append((predictor.protocol(PLAIN), labelled(predictor, image, WITH_BACKGROUND)))
    (first, labels), (second, again) = found
    assert first == second and (labels == again).all()
    assert "evaluate.protocol does not apply" in first["windows"] and "dense" not in first
    assert not METHODS[method].follows_protocol and METHODS["naclip"].follows_protocol


def test_the_peers_are_told_apart(equipped: Paths, make_config: MakeConfig) -> None:
    """No two of them label a picture alike, whatever way stage 1 goes (`clip.dense`)."""
    image = pictures()[1]
    peers = [name for name, each in METHODS.items() if each.head is None and name != "pseudo"]
    other = make_config(clip={"short_side": 64, "dense": "sclip"})

    def labels_of(name: str, config: Config) -> Labels:
        folder = METHODS[name].made_folder(equipped)
        return labelled(load_predictor(name, config, folder), image, PLAIN)

    found = {name: labels_of(name, make_config()) for name in peers}
    for name, labels in found.items():
        assert (labels_of(name, other) == labels).all()
        assert all((labels != found[one]).any() for one in peers if one != name)


def test_corrclip_gives_a_region_one_label(make_config: MakeConfig) -> None:
    config = make_config()
    predictor = load_predictor("corrclip", config)
    assert {"tiny-clip", "tiny-encoder", "tiny-sam"} == set(predictor.protocol(PLAIN)["weights"])
    image = pictures()[0]
    labels = labelled(predictor, image, PLAIN)
    encodings = MaskEncodings(config, None, choose_device(config.run))
    regions = paint(encodings.masks_of(image, pixels_digest(image)).masks)
    assert regions.max() > 0
    for region in range(1, int(regions.max()) + 1):
        assert len(np.unique(labels[regions == region])) <= 1
    proxy = labelled(load_predictor("proxyclip", config), image, PLAIN)
    assert (vote(proxy, regions) != labels).any(), "the masks restrict the attention, too"


def test_aligned_is_the_segmenter(workspace: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    predictor = load_predictor("fmbseg", config, workspace.align)
    segmenter = load_segmenter(workspace.align, config.evaluate, config.run)
    for image in pictures():
        for vocabulary in (PLAIN, WITH_BACKGROUND):
            expected = segmenter.predict(image, vocabulary=vocabulary).label_map
            assert (labelled(predictor, image, vocabulary) == expected).all()


def test_maskclip_is_dense_clip_upsampled(make_config: MakeConfig) -> None:
    # The protocol's image size is evaluate's, as for the aligned encoder, not that of stage 1.
    config = make_config(clip={"short_side": 64}, evaluate={"short_side": 96})
    image = pictures()[1]
    clip = load_clip("tiny-clip")
    section = config.clip.model_copy(update={"short_side": 96})
    dense = torch.from_numpy(clip.encode_image_windows(image, section).dense).float()
    similarity = class_similarity(dense, clip.text_embeddings(PLAIN)).permute(2, 0, 1)
    scores = torch.nn.functional.interpolate(
        similarity[None], (image.height, image.width), mode="bilinear"
    )[0]
    label = torch.from_numpy(labelled(MaskClip(config), image, PLAIN))
    # Where two classes are equally similar, either may win.
    chosen = scores.gather(0, label[None])[0]
    assert torch.allclose(chosen, scores.max(dim=0).values, atol=1e-5)


def test_below_the_threshold_is_background(make_config: MakeConfig) -> None:
    # A small scale: with three classes the probability could else round to 1, which is not below 1.
    section = {"short_side": 64, "logit_scale": 1.0}
    everything = MaskClip(make_config(evaluate={**section, "background_threshold": 1.0}))
    nothing = MaskClip(make_config(evaluate={**section, "background_threshold": 0.0}))
    image = pictures()[0]
    assert (labelled(everything, image, WITH_BACKGROUND) == 1).all()
    plain = labelled(nothing, image, PLAIN)
    assert (labelled(nothing, image, WITH_BACKGROUND) == plain).all()
    assert (labelled(everything, image, PLAIN) == plain).all()


def test_pseudo_labels_are_stage_1s_and_unlabelled_is_background(make_config: MakeConfig) -> None:
    # One query point and no automatic masks: surely something stays unlabelled.
    config = make_config(label={"use_masks": False})
    image = pictures()[0]
    encoder = ImageEncoder(config, None, choose_device(config.run))
    text = encoder.clip.model.text_embeddings(PLAIN)
    encodings = encoder.encode(image)
    expected = label_image(encodings, encoder.sam.model, text, config).label.astype(np.int64)
    predictor = PseudoLabels(config)
    assert (labelled(predictor, image, PLAIN) == expected).all()
    filled = labelled(predictor, image, WITH_BACKGROUND)
    assert (filled == np.where(expected == 255, 1, expected)).all()


@pytest.mark.parametrize("method", ["maskclip", "pseudo"])
def test_pictures_that_benchmarks_share_are_encoded_once(
    method: str,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(detection={"min_similarity": -1.0}, label={"min_similarity": -1.0})
    root = tmp_path / "encodings"
    image = pictures()[0]
    fresh = load_predictor(method, config, tmp_path)
    expected = [labelled(fresh, image, words) for words in (PLAIN, WITH_BACKGROUND)]
    assert not root.exists()
    first = load_predictor(method, config, tmp_path, root)
    assert (labelled(first, image, PLAIN) == expected[0]).all()
    # As another benchmark in another process, with other classes: no model sees the picture.
    other = load_predictor(method, config, tmp_path, root)
    for model, encode in ((ClipModel, "encode_windows"), (SamModel, "encode")):
        monkeypatch.setattr(model, encode, lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(SamModel, "automatic_masks", lambda *_: pytest.fail("made again"))
    assert (labelled(other, image, WITH_BACKGROUND) == expected[1]).all()
    assert len(np.unique(expected)) > 1, "a picture with nothing in it would show nothing"


@pytest.mark.parametrize("least", [0.0, 1.0], ids=["masks", "no mask"])
def test_stored_automatic_masks_are_the_fresh_ones(
    least: float, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(masks={"min_predicted_iou": least})
    choice, image = choose_device(config.run), pictures()[1]
    fresh = ImageEncoder(config, None, choice).encode(image).automatic
    assert (len(fresh.masks) == 0) == (least == 1.0)
    for _ in ("made", "stored"):
        found = ImageEncoder(config, tmp_path, choice).encode(image).automatic
        for name in ("masks", "predicted_iou", "stability"):
            expected, got = getattr(fresh, name), getattr(found, name)
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert (got == expected).all()


def test_unknown_method_and_missing_head(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sam.*fmbseg, maskclip"):
        load_predictor("sam", make_config(), tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_predictor("oracle", make_config(), tmp_path)
