"""Exported models: they answer as torch does, and a few lines without this package use them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fmbseg.align.checkpoint import load_checkpoint, save_checkpoint
from fmbseg.align.heads import HeadConfig, seeded_head
from fmbseg.cli import _main
from fmbseg.config import InferenceSection
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.deploy.export import export_model
from fmbseg.deploy.graph import SegmenterGraph, traced
from fmbseg.deploy.onnx_file import TOLERANCE, agreement, onnx_file, open_session, quantised
from fmbseg.deploy.words import asking, words_file
from fmbseg.errors import ConfigError, StoreError
from fmbseg.inference.segmenter import load_segmenter
from fmbseg.models.backbone import Backbone, load_backbone
from fmbseg.models.records import weights_record
from tests.heads import write_head
from tests.workspace import randomised

DIM = 32


def _encoder(name: str, **arguments: Any) -> Backbone:
    """A published encoder's architecture, made small, with random weights."""
    published, _, _ = name.partition(".")
    module = randomised(timm.create_model(published, **arguments).eval(), 1, 0.02)
    return Backbone(module, weights_record(f"timm/{name}"))


def _vit() -> Backbone:
    return _encoder("test_vit.r160_in1k", dynamic_img_size=True)


def _dinov2() -> Backbone:
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 3, "dynamic_img_size": True}
    return _encoder("vit_small_patch14_dinov2.lvd142m", **arguments)


def _convolutional() -> Backbone:
    return _encoder("convnext_atto.d2_in1k", depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))


def _graph(backbone: Backbone) -> SegmenterGraph:
    config = HeadConfig("transformer", backbone.dim, DIM, 4 if backbone.dim % 3 else 3, 2)
    return SegmenterGraph(backbone, seeded_head(config, 0).eval(), 1)


@pytest.mark.parametrize("encoder", [_vit, _dinov2, _convolutional])
def test_onnxruntime_answers_as_torch_at_any_size(encoder: Callable[[], Backbone]) -> None:
    backbone = encoder()
    graph = _graph(backbone)
    with torch.no_grad():
        for parameter in graph.head.parameters():
            parameter.mul_(3)  # cosines that differ from patch to patch
    content = onnx_file(traced(graph, backbone.patch_size, DIM), {})
    found = agreement(content, graph, backbone.patch_size, DIM)
    assert found.difference < TOLERANCE / 10
    assert found.same > 0.99
    small = quantised(content)
    assert len(small) < len(content)
    assert agreement(small, graph, backbone.patch_size, DIM).same > 0.8


def test_the_size_is_that_of_each_call_and_not_of_the_tracing() -> None:
    # A position embedding frozen at one size would answer, and wrongly.
    backbone = _dinov2()
    graph = _graph(backbone)
    session = open_session(onnx_file(traced(graph, 14, DIM), {"patch": "14"}))
    assert session.get_modelmeta().custom_metadata_map["patch"] == "14"
    rng = np.random.default_rng(0)
    for pictures, rows, columns, words in ((1, 37, 37, 1), (3, 2, 8, 171)):
        pixels = rng.integers(0, 256, (pictures, 14 * rows, 14 * columns, 3), dtype=np.uint8)
        text = rng.normal(size=(words, DIM)).astype(np.float32)
        (found,) = session.run(None, {"pixels": pixels, "text": text})
        assert found.shape == (pictures, words, rows, columns)
        features = torch.from_numpy(pixels)
        with torch.no_grad():
            patches = graph.head(backbone.features(features), 1)
        wanted = torch.einsum("nhwd,qd->nqhw", patches, torch.from_numpy(text))
        np.testing.assert_allclose(found, wanted.numpy(), atol=TOLERANCE)


def test_an_encoder_that_cannot_be_exported_is_refused_in_one_line() -> None:
    class ByContent(torch.nn.Module):
        feature_info: ClassVar = [{"num_chs": 3, "reduction": 1}]

        def forward_intermediates(self, pixels: torch.Tensor, **_: Any) -> list[torch.Tensor]:
            return [pixels if pixels.sum() > 0 else -pixels]

    backbone = Backbone(ByContent(), weights_record("tiny-encoder"))
    graph = SegmenterGraph(backbone, seeded_head(HeadConfig("linear", 3, DIM, 1), 0), 0)
    with pytest.raises(ConfigError, match="cannot be exported for pictures of any size"):
        traced(graph, 1, DIM)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of random weights with two projections that differ, on the package's models."""
    folder = tmp_path_factory.mktemp("head")
    write_head(folder, 0, "voc20", "coco_stuff")
    found = load_checkpoint(folder)
    randomised(found.head.projections[0], 3, 0.05)
    save_checkpoint(folder, found.head, found.info)
    return folder


@pytest.fixture(scope="module")
def exported(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the command wrote for voc21."""
    folder = tmp_path_factory.mktemp("exported")
    command = ["export-model", "--checkpoint", str(head), "--vocabulary", "voc21"]
    asked = ("background_threshold=0.2", "short_side=96", "min_region=0.02")
    settings = [part for each in asked for part in ("--set", f"evaluate.{each}")]
    assert _main([*command, *settings, "--out", str(folder / "segmenter.onnx")]) == 0
    return folder


def test_the_lines_of_the_page_segment_as_predict_does(
    exported: Path, head: Path, picture: Image.Image, repository: Path, tmp_path: Path
) -> None:
    page = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    (lines,) = (block for block in re.findall(r"(?ms)^```python\n(.*?)^```$", page))
    for path in exported.glob("segmenter.*"):
        shutil.copy(path, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    picture.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    alone = "import sys; assert not {'torch', 'fmbseg', 'open_clip', 'timm'} & {*sys.modules}"
    # -I: nothing of this project is on the path.
    command = [sys.executable, "-I", "-c", f"{lines}\n{alone}"]
    subprocess.run(command, cwd=tmp_path, check=True)
    asked = InferenceSection(short_side=96, min_region=0.02, background_threshold=0.2)
    wanted = load_segmenter(head, asked).predict(tmp_path / "photo.jpg", vocabulary="voc21")
    with Image.open(tmp_path / "photo.label.png") as label:
        found = np.asarray(label)
    assert found.shape == wanted.label_map.shape == (150, 90)
    assert (found == wanted.label_map).mean() > 0.999
    # The background and classes beside it: both rules were at work.
    shares = np.bincount(wanted.label_map.ravel(), minlength=21) / wanted.label_map.size
    assert 0.05 < shares[0] < 0.95
    assert (shares > 0.01).sum() > 2


def test_the_export_has_the_projection_that_the_words_ask(exported: Path, head: Path) -> None:
    session = open_session((exported / "segmenter.onnx").read_bytes())
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["projection"] == "coco_stuff"
    segmenter = load_segmenter(head)
    assert facts["head_sha256"] == segmenter.checkpoint.sha256
    stuff = load_vocabulary("coco_stuff")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    text = segmenter.text(stuff).queries.numpy()
    (found,) = session.run(None, {"pixels": pixels, "text": text})
    for projection, same in ((1, True), (0, False)):
        graph = SegmenterGraph(segmenter.backbone, segmenter.checkpoint.head, projection)
        with torch.no_grad():
            wanted = graph(torch.from_numpy(pixels), torch.from_numpy(text)).numpy()
        assert (np.abs(found - wanted).max() < TOLERANCE) == same


def test_int8_is_smaller_and_nearly_the_same(exported: Path, head: Path) -> None:
    content = (exported / "segmenter.onnx").read_bytes()
    small = quantised(content)
    assert len(small) < 0.6 * len(content)
    backbone = load_backbone("tiny-encoder")
    graph = SegmenterGraph(backbone, load_segmenter(head).checkpoint.head, 1)
    found = agreement(small, graph, backbone.patch_size, graph.head.config.out_dim)
    assert 1e-5 < found.difference < 0.2
    assert found.same > 0.9


def test_the_graph_of_torch_is_loaded_without_this_package(head: Path, tmp_path: Path) -> None:
    segmenter = load_segmenter(head)
    made = export_model(segmenter, load_vocabulary("coco_stuff"), tmp_path / "segmenter.pt2")
    assert made.agreement is None
    code = (
        "import sys, torch; f = {'projection': ''}; "
        "m = torch.export.load('segmenter.pt2', extra_files=f).module(); "
        "assert 'fmbseg' not in sys.modules; "
        "print(f['projection']); torch.save(m(**torch.load('in.pt')), 'out.pt')"
    )
    pixels = torch.randint(0, 256, (1, 40, 72, 3), dtype=torch.uint8)
    text = torch.randn(4, segmenter.checkpoint.head.config.out_dim)
    torch.save({"pixels": pixels, "text": text}, tmp_path / "in.pt")
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "coco_stuff"
    graph = SegmenterGraph(segmenter.backbone, segmenter.checkpoint.head, 1)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), graph(pixels, text))


def test_words_say_how_they_are_asked(head: Path) -> None:
    segmenter = load_segmenter(head)
    words = load_vocabulary("voc21")
    with np.load(io.BytesIO(words_file(segmenter, words))) as archive:
        assert archive["names"].tolist() == [*words.names]
        _, owners = words.queries
        assert archive["first"].tolist() == [owners.index(each) for each in range(21)]
        assert len(archive["embeddings"]) == len(owners)
        assert (archive["background"], archive["short_side"], archive["patch"]) == (0, 64, 8)
    assert asking(segmenter, vocabulary_from_names(["dog", "cat"]))["background"] == -1
    segmenter.inference = InferenceSection(background_rule="words")
    assert asking(segmenter, words)["background"] == -1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"background_rule": "constant"}, "background rule constant leaves words out"),
        ({"protocol": "sclip"}, "asked by protocol sclip, whose windows no exported model has"),
    ],
)
def test_what_a_graph_cannot_do_is_refused(
    head: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    segmenter = load_segmenter(head, InferenceSection(**changes))
    with pytest.raises(ConfigError, match=reason):
        export_model(segmenter, load_vocabulary("voc21"), tmp_path / "segmenter.onnx")
    assert not [*tmp_path.iterdir()]


def test_thresholds_of_single_classes_are_refused(head: Path, tmp_path: Path) -> None:
    words = vocabulary_from_names(["dog>0.3", "cat"])
    assert words.thresholds is not None
    with pytest.raises(ConfigError, match="thresholds of single classes"):
        export_model(load_segmenter(head), words, tmp_path / "segmenter.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "segmenter.bin"], "segmenter.bin ends neither in .onnx nor in .pt2"),
        (["--out", "segmenter.pt2", "--int8"], "--int8 is for .onnx"),
        (["--out", "segmenter.onnx", "--classes", "a", "--vocabulary", "voc21"], "give either"),
    ],
)
def test_a_mistake_is_one_line(
    head: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _main(["export-model", "--checkpoint", str(head), *arguments]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_users_file_of_that_name_stays(head: Path, tmp_path: Path) -> None:
    (tmp_path / "segmenter.pt2").write_bytes(b"mine")
    with pytest.raises(StoreError, match="not by fmbseg"):
        export_model(load_segmenter(head), load_vocabulary("voc20"), tmp_path / "segmenter.pt2")
    assert (tmp_path / "segmenter.pt2").read_bytes() == b"mine"
