"""Sliding windows, resizing and averaged logits against a plain reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fmbseg.config import BackgroundRule, Dense, InferenceSection, ProtocolName, parse_config
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods.maskclip import MaskClip
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.inference.decision import decide
from fmbseg.inference.maps import Maps
from fmbseg.inference.protocol import Sizes, protocol_of
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.inference.sliding import Windows, fitted, scaled_image, scaled_size
from fmbseg.models.clip import load_clip
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig

CLASSES = (
    VocabularyClass("dog"),
    VocabularyClass("grass", ("lawn", "meadow")),
    VocabularyClass("sky"),
    VocabularyClass("person", ("man",)),
)
PLAIN = Vocabulary("plain", CLASSES)
# A background without synonyms is asked with its name: the same words.
WITH_BACKGROUND = Vocabulary("with background", CLASSES, background=2)

# Width x height of the resized image, and what they are: divided by window and stride or not,
# portrait, landscape, smaller than a window on one side or both, a column of pixels more.
SHAPES = {
    "divides": (448, 336),
    "does not": (501, 337),
    "portrait": (336, 596),
    "landscape": (800, 336),
    "one window": (224, 224),
    "one pixel more": (225, 224),
    "low": (400, 150),
    "narrow": (100, 300),
    "smaller than a window": (150, 100),
}


def reference_windows(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """The published rule: count the steps, then pull a window that reaches beyond back."""
    found = []
    for step in range(max(length - window + stride - 1, 0) // stride + 1):
        end = min(step * stride + window, length)
        found.append((max(end - window, 0), end))
    return found


def window_logits(
    pixels: NDArray[np.uint8],
    sizes: Sizes,
    score: Callable[[NDArray[np.uint8]], torch.Tensor],
    batch_size: int,
) -> torch.Tensor:
    windows = Windows(pixels, sizes, batch_size)
    return windows.mean(lambda part: score(windows.crops(part)))


def test_out_of_memory_gives_what_smaller_batches_give() -> None:
    """In the model, as in the upsampling that follows it."""
    clip = load_clip("tiny-clip")
    pixels = np.random.default_rng(0).integers(0, 256, (160, 224, 3), dtype=np.uint8)
    sizes = Sizes(short_side=160, window=64, stride=32)
    given: list[int] = []

    def score(crops: NDArray[np.uint8]) -> torch.Tensor:
        given.append(len(crops))
        return clip.encode_windows(crops)[1].permute(0, 3, 1, 2)

    def limited(module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 3:
            raise torch.OutOfMemoryError("injected")

    expected = window_logits(pixels, sizes, score, batch_size=2)
    given.clear()
    hook = clip.module.visual.conv1.register_forward_pre_hook(limited)
    try:
        found = window_logits(pixels, sizes, score, batch_size=8)
    finally:
        hook.remove()
    assert given[:3] == [8, 4, 2] and set(given[2:]) == {2}
    assert torch.equal(found, expected)


def toy_score(crops: NDArray[np.uint8]) -> torch.Tensor:
    """Means over cells of 7 pixels and their squares: depends on where a window lies."""
    x = torch.from_numpy(crops.astype(np.float32) / 255).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.avg_pool2d(x, 7, ceil_mode=True)
    return torch.cat([pooled, (pooled - pooled.mean(dim=(2, 3), keepdim=True)) ** 2], dim=1)


@pytest.mark.parametrize("sizes", [Sizes(0, 224, 112), Sizes(0, 336, 112), Sizes(0, 448, 224)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_averaged_logits_equal_a_plain_loop(shape: tuple[int, int], sizes: Sizes) -> None:
    width, height = shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert sizes.window is not None and sizes.stride is not None
    total = np.zeros((6, height, width))
    count = np.zeros((height, width))
    for top, bottom in reference_windows(height, sizes.window, sizes.stride):
        for left, right in reference_windows(width, sizes.window, sizes.stride):
            logits = toy_score(pixels[None, top:bottom, left:right])
            size = (bottom - top, right - left)
            full = torch.nn.functional.interpolate(logits, size, mode="bilinear")[0]
            total[:, top:bottom, left:right] += full.numpy()
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    found = window_logits(pixels, sizes, toy_score, batch_size=3)
    np.testing.assert_allclose(found.numpy(), total / count, rtol=0, atol=1e-5)
    windows = Windows(pixels, sizes, 3)
    each = windows.each(toy_score)
    assert torch.equal(windows.mean(lambda part: each[part]), found)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((500, 375), 336, (448, 336)),
        ((500, 333), 336, (505, 336)),  # 504.5 goes up
        ((333, 500), 336, (336, 505)),
        ((640, 427), 336, (504, 336)),  # 503.6
        ((2048, 1024), 560, (1120, 560)),
        ((100, 80), 448, (560, 448)),  # small images are enlarged
        ((3000, 300), 336, (2048, 205)),  # the long side decides: 204.8
        ((300, 3000), 336, (205, 2048)),
        ((3000, 1), 336, (2048, 1)),
    ],
)
def test_resize_keeps_the_ratio_and_rounds_half_up(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, short_side, 2048) == expected
    image = Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8))
    assert scaled_image(image, short_side, 2048).shape == (expected[1], expected[0], 3)


def test_resize_is_bilinear_without_smoothing() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    found = scaled_image(Image.fromarray(pixels), 45, 2048)
    # Halved, each pixel is the mean of 2 x 2; a smoothing filter would look further.
    blocks = pixels.reshape(45, 2, 60, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(found - blocks).max() <= 1


def test_records_say_what_the_protocols_are() -> None:
    by_name = {
        name: protocol_of(InferenceSection(protocol=name)) for name in get_args(ProtocolName)
    }
    assert by_name["tcl"].sizes == Sizes(448, 448, 224)
    assert by_name["sclip"].sizes == Sizes(336, 224, 112)
    assert by_name["sclip"].sizes_for("cityscapes") == Sizes(560, 224, 112)
    assert by_name["sclip"].sizes_for("voc21") == Sizes(336, 224, 112)
    assert by_name["proxyclip"].sizes == Sizes(336, 336, 112)
    assert by_name["proxyclip"].sizes_for("cityscapes") == Sizes(448, 224, 112)
    assert by_name["fmbseg"].sizes == Sizes(128)
    assert protocol_of(InferenceSection(short_side=518)).sizes == Sizes(518)
    assert {p.background_rule for n, p in by_name.items() if n != "tcl"} == {"probability"}
    assert by_name["tcl"].background_rule == "constant"
    changed = InferenceSection(protocol="tcl", background_rule="words")
    assert protocol_of(changed).background_rule == "words"
    with pytest.raises(ConfigError, match="protocol"):
        parse_config({"evaluate": {"protocol": "mmseg"}})


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)) for _ in range(2)]
    return [coarse[0].resize((87, 64)), coarse[1].resize((60, 71))]


@pytest.mark.parametrize("protocol", ["tcl", "sclip", "proxyclip"])
@pytest.mark.parametrize(
    ("method", "dense"),
    [("fmbseg", "value"), ("maskclip", "value"), ("sclip", "sclip"), ("naclip", "naclip")],
)
def test_a_method_under_a_protocol_equals_a_plain_reference(
    method: str, dense: Dense, protocol: str, workspace: Paths, make_config: MakeConfig
) -> None:
    """Cosines of every word, averaged over windows, upsampled whole, decided pixel by pixel."""
    section = {"protocol": protocol, "background_rule": "probability", "logit_scale": 20.0}
    config = make_config(evaluate={**section, "background_threshold": 0.2})
    segmenter = load_segmenter(workspace.align, config.evaluate, config.run)
    clip = load_clip("tiny-clip")
    sizes = {"tcl": (448, 448, 224), "sclip": (336, 224, 112), "proxyclip": (336, 336, 112)}
    short, window, stride = sizes[protocol]
    words, owners = PLAIN.queries
    text = clip.encode_text([f"a photo of a {word}." for word in words])
    predictor = load_predictor(method, config, workspace.align)
    agreed = pixels_seen = 0
    for image in pictures():
        scale = short / min(image.size)
        width, height = (int(side * scale + 0.5) for side in image.size)
        resized = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
        total, count = torch.zeros(len(words), height, width), torch.zeros(height, width)
        for top, bottom in reference_windows(height, window, stride):
            for left, right in reference_windows(width, window, stride):
                crop = resized[top:bottom, left:right]
                if method != "fmbseg":
                    small = Image.fromarray(crop).resize((64, 64), Image.Resampling.BICUBIC)
                    patches = clip.encode_windows(np.array(small)[None], dense)[1][0]
                else:
                    patches = segmenter.encoder(PLAIN).embed(crop[None])[0]
                logits = (patches.float() @ text.T).permute(2, 0, 1)[None]
                size = (bottom - top, right - left)
                total[:, top:bottom, left:right] += torch.nn.functional.interpolate(
                    logits, size, mode="bilinear"
                )[0]
                count[top:bottom, left:right] += 1
        full = torch.nn.functional.interpolate(
            (total / count)[None], (image.height, image.width), mode="bilinear"
        )[0]
        probability = (20.0 * full).softmax(dim=0)
        by_class = torch.stack(
            [
                probability[[i for i, owner in enumerate(owners) if owner == k]].amax(dim=0)
                for k in range(len(PLAIN))
            ]
        )
        highest, best = by_class.max(dim=0)
        for vocabulary in (PLAIN, WITH_BACKGROUND):
            assert vocabulary.queries == PLAIN.queries
            expected = best.numpy().copy()
            if vocabulary.background is not None:
                expected[(highest < 0.2).numpy()] = vocabulary.background
            (decision,) = predictor.decide([image], vocabulary)
            agreed += int((decision.labels == expected).sum())
            pixels_seen += expected.size
    # Sums in another order may turn a tie.
    assert agreed / pixels_seen > 0.999


def test_a_benchmark_with_sizes_of_its_own(make_config: MakeConfig) -> None:
    config = make_config(evaluate={"protocol": "sclip"})
    predictor = MaskClip(config)
    image = pictures()[0]
    usual, other, own = (
        predictor.decide([image], PLAIN, name)[0].labels for name in (None, "voc21", "cityscapes")
    )
    assert (usual == other).all()
    assert (own != usual).any()
    # What a result file says is the same for all: runs are told apart by it.
    assert predictor.protocol(PLAIN)["exceptions"]["cityscapes"]["short_side"] == 560


def test_windows_that_do_not_fit_a_patch_are_resized(
    workspace: Paths, make_config: MakeConfig
) -> None:
    """A low panorama: the long side is limited, so its short side is no multiple of the patch."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (13, 230, 3), dtype=np.uint8))
    predictor = load_predictor(
        "fmbseg", make_config(evaluate={"protocol": "sclip"}), workspace.align
    )
    assert scaled_size(230, 13, 336, 2048)[1] % 8
    assert predictor.decide([image], PLAIN)[0].labels.shape == (13, 230)
    crops = np.zeros((2, 13, 16, 3), np.uint8)
    assert fitted(crops, 16, 16).shape == (2, 16, 16, 3)
    assert fitted(crops, 13, 16) is crops


CLASSES = (VocabularyClass("a"), VocabularyClass("b"))


def test_what_is_below_its_classs_threshold_has_no_label_or_is_background() -> None:
    values = torch.tensor([[[0.3, 0.5]], [[0.2, 0.6]]])
    maps = Maps(values, torch.tensor([0, 1]))
    section = InferenceSection(background_rule="words")
    classes = (VocabularyClass("a", threshold=0.31), VocabularyClass("b", threshold=0.6))
    for background, expected in ((None, [[255, 1]]), (1, [[1, 1]])):
        words = Vocabulary("two", classes, background)
        assert decide(maps, (1, 2), words, section).labels.tolist() == expected
    plain = Vocabulary("two", CLASSES)
    assert decide(maps, (1, 2), plain, section).labels.tolist() == [[0, 1]]


def test_background_rules() -> None:
    """Two words of class 0 (the background), one of class 1, on four pixels."""
    values = torch.tensor([[[0.1, 0.5, 0.1, 0.1]], [[0.3, 0.0, 0.1, 0.1]], [[0.2, 0.3, 0.15, 0.4]]])
    maps = Maps(values, torch.tensor([0, 0, 1]))

    def labels(rule: BackgroundRule, background: int | None = 0, maps: Maps = maps) -> Any:
        section = InferenceSection(
            background_rule=rule, logit_scale=10.0, background_threshold=0.6, background_score=0.18
        )
        words = Vocabulary("two", CLASSES, background)
        return decide(maps, (1, 4), words, section).labels.tolist()

    assert labels("words") == [[0, 0, 1, 1]]
    # The background's words are not asked; it has the cosine 0.18 everywhere.
    assert labels("constant") == [[1, 1, 0, 1]]
    probability = (10 * values).softmax(dim=0).amax(dim=0)[0]
    expected = [[0, 0, 1 if probability[2] >= 0.6 else 0, 1 if probability[3] >= 0.6 else 0]]
    assert labels("probability") == expected == [[0, 0, 0, 1]]
    assert labels("constant", background=None) == [[0, 0, 1, 1]]
    assert labels("constant", maps=Maps(values[:2], torch.tensor([0, 0]))) == [[0, 0, 0, 0]]
