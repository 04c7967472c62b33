from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from PIL import Image
from scipy.special import erf
from torch import Tensor, nn

from fmbseg.config import ClipSection
from fmbseg.data.templates import TEMPLATES
from fmbseg.data.vocabulary import Vocabulary, VocabularyClass, vocabulary_from_names
from fmbseg.errors import ConfigError
from fmbseg.models import tiny
from fmbseg.models.clip import (
    ClipModel,
    TextEmbeddings,
    build_clip,
    class_similarity,
    load_clip,
    tiny_tokenizer,
    visual_tokens,
)

Array = npt.NDArray[np.float64]
SECTION = ClipSection(short_side=128, window=64, stride=32)


@pytest.fixture(scope="module")
def windows() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


# The reference: the tower written out token by token in float64, from the weights' names alone.


def _norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _project(x: Array, weights: dict[str, Array], block: str, part: int) -> Array:
    width = len(x)
    rows = slice(part * width, (part + 1) * width)
    return (
        weights[f"{block}.attn.in_proj_weight"][rows] @ x
        + (weights[f"{block}.attn.in_proj_bias"][rows])
    )


def _block(tokens: list[Array], weights: dict[str, Array], block: str, heads: int) -> list[Array]:
    normed = [_norm(x, weights, f"{block}.ln_1") for x in tokens]
    query, key, value = ([_project(x, weights, block, i) for x in normed] for i in range(3))
    size = len(tokens[0]) // heads
    result = []
    for i, x in enumerate(tokens):
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.array([query[i][part] @ k[part] for k in key]) / np.sqrt(size)
            attention = np.exp(scores - scores.max())
            attention /= attention.sum()
            mixed[part] = sum(a * v[part] for a, v in zip(attention, value, strict=True))
        x = x + _linear(mixed, weights, f"{block}.attn.out_proj")
        hidden = _linear(_norm(x, weights, f"{block}.ln_2"), weights, f"{block}.mlp.c_fc")
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        result.append(x + _linear(hidden, weights, f"{block}.mlp.c_proj"))
    return result


def _unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


def _reference(pixels: npt.NDArray[np.uint8], clip: ClipModel) -> tuple[Array, Array]:
    """Global [D] and dense [h, w, D] embedding of one window [S, S, 3]."""
    state = clip.module.visual.state_dict()
    weights = {name: value.double().numpy() for name, value in state.items()}
    layers = len(clip.module.visual.transformer.resblocks)
    heads = clip.module.visual.transformer.resblocks[0].attn.num_heads
    image = (pixels / 255 - np.array(clip.mean)) / np.array(clip.std)
    patch = clip.patch_size
    side = clip.image_size // patch
    tokens = [weights["class_embedding"]]
    for i in range(side):
        for j in range(side):
            square = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            kernel = weights["conv1.weight"]
            tokens.append((kernel * square.transpose(2, 0, 1)).sum(axis=(1, 2, 3)))
    tokens = [
        _norm(token + place, weights, "ln_pre")
        for token, place in zip(tokens, weights["positional_embedding"], strict=True)
    ]
    for layer in range(layers - 1):
        tokens = _block(tokens, weights, f"transformer.resblocks.{layer}", heads)
    last = f"transformer.resblocks.{layers - 1}"
    dense = []
    for token in tokens[1:]:
        value = _project(_norm(token, weights, f"{last}.ln_1"), weights, last, 2)
        out = _linear(value, weights, f"{last}.attn.out_proj")
        dense.append(_unit(_norm(out, weights, "ln_post") @ weights["proj"]))
    final = _block(tokens, weights, last, heads)[0]
    return (
        _unit(_norm(final, weights, "ln_post") @ weights["proj"]),
        np.array(dense).reshape(side, side, -1),
    )


def test_global_and_dense_embeddings_match_a_tower_written_in_loops(
    clip: ClipModel, windows: npt.NDArray[np.uint8]
) -> None:
    image, dense = clip.encode_windows(windows[:1])
    expected_image, expected_dense = _reference(windows[0], clip)
    np.testing.assert_allclose(image[0].numpy(), expected_image, atol=1e-5)
    np.testing.assert_allclose(dense[0].numpy(), expected_dense, atol=1e-5)


def test_global_embeddings_are_open_clips(clip: ClipModel, windows: npt.NDArray[np.uint8]) -> None:
    image, dense = clip.encode_windows(windows)
    pixels = torch.from_numpy(windows).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(clip.mean)[:, None, None]) / torch.tensor(clip.std)[
        :, None, None
    ]
    with torch.no_grad():
        expected = clip.module.encode_image(pixels, normalize=True)
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    # Already normalised pixels are taken too.
    again, dense_again = clip.encode_windows(pixels)
    torch.testing.assert_close(again, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(dense_again, dense, atol=1e-5, rtol=0)
    assert image.dtype == dense.dtype == torch.float32
    assert dense.shape == (3, 8, 8, clip.embed_dim)
    torch.testing.assert_close(dense.norm(dim=-1), torch.ones(3, 8, 8))


def test_a_window_takes_one_pass_over_the_trunk(clip: ClipModel, picture: Image.Image) -> None:
    seen = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, _: seen.append((module, len(inputs[0])))
        )
        for module in (clip.module.visual, clip.module.visual.transformer.resblocks[0])
    ]
    encoding = clip.encode_image_windows(picture, SECTION.model_copy(update={"batch_size": 4}))
    for hook in hooks:
        hook.remove()
    for module in {module for module, _ in seen}:
        assert sum(count for other, count in seen if other is module) == len(encoding.windows)
    assert len({module for module, _ in seen}) == 2


def test_visual_tokens_pass_gradients_to_both_outputs() -> None:
    module = build_clip(tiny.architecture("clip"))
    image, dense = visual_tokens(module.visual, torch.randn(2, 3, 64, 64))
    dense.square().sum(dim=-1).sum().backward(retain_graph=True)
    assert module.visual.transformer.resblocks[0].mlp.c_fc.weight.grad is not None
    # The dense path goes round the last block's MLP, the global one through it.
    assert module.visual.transformer.resblocks[-1].mlp.c_fc.weight.grad is None
    image.sum().backward()
    assert module.visual.transformer.resblocks[-1].mlp.c_fc.weight.grad is not None


def test_windows_of_another_size_are_refused(clip: ClipModel) -> None:
    with pytest.raises(ConfigError, match="windows are 32 x 32 px: this CLIP takes 64 x 64"):
        clip.encode_windows(np.zeros((1, 32, 32, 3), dtype=np.uint8))


def test_threads_do_not_mix_their_windows(clip: ClipModel, windows: npt.NDArray[np.uint8]) -> None:
    alone = [clip.encode_windows(windows[i : i + 1])[1] for i in range(3)]
    results: dict[int, list[Tensor]] = {i: [] for i in range(3)}

    def work(i: int) -> None:
        for _ in range(10):
            results[i].append(clip.encode_windows(windows[i : i + 1])[1])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        for dense in results[i]:
            torch.testing.assert_close(dense, alone[i], atol=1e-6, rtol=0)


def test_bfloat16_is_close_to_float32(
    random_weights: Path, clip: ClipModel, windows: npt.NDArray[np.uint8]
) -> None:
    half = load_clip("tiny-clip", dtype=torch.bfloat16, weights_dir=random_weights)
    for approximate, exact in zip(
        half.encode_windows(windows), clip.encode_windows(windows), strict=True
    ):
        assert approximate.dtype == torch.float32
        assert F.cosine_similarity(approximate, exact, dim=-1).min() > 0.99
        assert not torch.equal(approximate, exact)


# Sliding windows


def test_stitching_is_the_mean_over_the_windows_of_a_patch(
    clip: ClipModel, picture: Image.Image
) -> None:
    encoding = clip.encode_image_windows(picture, SECTION)
    assert encoding.size == (216, 128)
    resized = np.asarray(picture.resize(encoding.size, Image.Resampling.BICUBIC))
    total = np.zeros((16, 27, clip.embed_dim))
    count = np.zeros((16, 27))
    for (top, left), window in zip(encoding.offsets, encoding.windows, strict=True):
        image, dense = clip.encode_windows(resized[None, top : top + 64, left : left + 64].copy())
        np.testing.assert_allclose(window, image[0].numpy(), atol=1e-3)
        for i in range(8):
            for j in range(8):
                total[top // 8 + i, left // 8 + j] += dense[0, i, j].numpy()
                count[top // 8 + i, left // 8 + j] += 1
    assert count.min() == 1 and count.max() >= 4
    mean = total / count[..., None]
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    assert encoding.dense.dtype == encoding.windows.dtype == np.float16
    np.testing.assert_allclose(encoding.dense, mean, atol=1e-3)


def test_an_encoding_does_not_depend_on_what_was_encoded_before(
    clip: ClipModel, picture: Image.Image
) -> None:
    first = clip.encode_image_windows(picture, SECTION)
    clip.encode_image_windows(picture.transpose(Image.Transpose.ROTATE_90), SECTION)
    again = clip.encode_image_windows(picture, SECTION)
    assert first.windows.tobytes() == again.windows.tobytes()
    assert first.dense.tobytes() == again.dense.tobytes()


def test_the_batch_size_changes_no_more_than_the_last_digit(
    clip: ClipModel, picture: Image.Image
) -> None:
    one = clip.encode_image_windows(picture, SECTION.model_copy(update={"batch_size": 1}))
    many = clip.encode_image_windows(picture, SECTION)
    np.testing.assert_allclose(one.dense, many.dense, atol=5e-4)
    np.testing.assert_allclose(one.windows, many.windows, atol=5e-4)


def test_windows_that_are_not_the_models_size_are_resized(
    clip: ClipModel, picture: Image.Image
) -> None:
    section = ClipSection(short_side=128, window=96, stride=32)
    encoding = clip.encode_image_windows(picture, section)
    assert encoding.dense.shape == (16, 27, clip.embed_dim)
    resized = picture.resize((216, 128), Image.Resampling.BICUBIC)
    crop = resized.crop((0, 0, 96, 96)).resize((64, 64), Image.Resampling.BICUBIC)
    image, dense = clip.encode_windows(np.asarray(crop)[None].copy())
    np.testing.assert_allclose(encoding.windows[0], image[0].numpy(), atol=1e-3)
    # The corner patch is seen by the first window alone: patch (0, 0) of 12 x 12 over its 8 x 8.
    moved = F.interpolate(dense.permute(0, 3, 1, 2), (12, 12), mode="bilinear")[0, :, 0, 0]
    np.testing.assert_allclose(encoding.dense[0, 0], F.normalize(moved, dim=0), atol=1e-3)


def test_an_image_smaller_than_the_window_gives_one_window(clip: ClipModel) -> None:
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
    encoding = clip.encode_image_windows(small, ClipSection(short_side=40, window=64, stride=32))
    assert encoding.size == (48, 40)
    assert encoding.offsets == [(0, 0)]
    assert encoding.windows.shape == (1, clip.embed_dim)
    assert encoding.dense.shape == (5, 6, clip.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(encoding.dense.astype(float), axis=-1), 1, atol=1e-3)


def test_a_grey_image_is_taken_as_rgb(clip: ClipModel, picture: Image.Image) -> None:
    grey = picture.convert("L")
    encoding = clip.encode_image_windows(grey, SECTION)
    expected = clip.encode_image_windows(grey.convert("RGB"), SECTION)
    np.testing.assert_array_equal(encoding.dense, expected.dense)


@pytest.mark.parametrize("change", [{"window": 60}, {"stride": 20}])
def test_lengths_that_cut_patches_are_refused(
    clip: ClipModel, picture: Image.Image, change: dict[str, int]
) -> None:
    name = next(iter(change))
    with pytest.raises(ConfigError, match=f"clip.{name} is .*multiple of the model's patch, 8 px"):
        clip.encode_image_windows(picture, SECTION.model_copy(update=change))


# Text


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


# Published architectures


@pytest.mark.parametrize(("name", "grid", "dim"), [("ViT-B-16", 14, 512), ("ViT-L-14", 16, 768)])
def test_the_published_architectures_are_open_clips_with_quick_gelu(
    name: str, grid: int, dim: int
) -> None:
    with torch.device("meta"):
        module = build_clip({**open_clip.get_model_config(name), "quick_gelu": True})
        image, dense = visual_tokens(module.visual, torch.zeros(2, 3, 224, 224))
    assert image.shape == (2, dim)
    assert dense.shape == (2, grid, grid, dim)
    for tower in (module.visual.transformer, module.transformer):
        assert all(isinstance(block.mlp.gelu, QuickGELU) for block in tower.resblocks)


def test_the_tiny_architecture_has_plain_gelu(clip: ClipModel) -> None:
    assert all(isinstance(b.mlp.gelu, nn.GELU) for b in clip.module.visual.transformer.resblocks)
    assert json.loads((tiny.FOLDER / "clip.json").read_text())["text_cfg"]["vocab_size"] == 2014


@pytest.mark.slow
def test_a_published_size_loads_and_encodes(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    torch.manual_seed(0)
    module = build_clip({**open_clip.get_model_config("ViT-B-16"), "quick_gelu": True})
    # OpenAI's files hold half precision weights and three numbers besides.
    state = {name: value.half() for name, value in module.state_dict().items()}
    state |= {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}
    torch.save(state, tmp_path / "ViT-B-16.pt")
    model = load_clip("clip-vit-b-16", weights_dir=tmp_path)
    assert (model.image_size, model.patch_size, model.embed_dim) == (224, 16, 512)
    assert model.module.visual.conv1.weight.dtype == torch.float32
    pixels = np.asarray(picture.resize((224, 224)))[None].copy()
    image, dense = model.encode_windows(pixels)
    preprocess = open_clip.image_transform(224, is_train=False, mean=model.mean, std=model.std)
    expected = model.module.encode_image(
        preprocess(picture.resize((224, 224)))[None], normalize=True
    )
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    assert dense.shape == (1, 14, 14, 512)
    text = model.text_embeddings(vocabulary_from_names(["dog", "traffic light"]), "subset7")
    assert class_similarity(dense, text).shape == (1, 14, 14, 2)
