"""Thousands of names: the same labels, made in parts, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fmbseg.config import InferenceSection, ProtocolName
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.inference import dense, maps
from fmbseg.inference.decision import confidence
from fmbseg.inference.many import best_of_many
from tests.workspace import MakeConfig, draw_picture

NAMES = 20_000


@pytest.mark.parametrize(
    ("count", "grid", "size"),
    [
        (3000, (6, 7), (40, 50)),
        (200, (1, 5), (7, 3)),
        (150, (9, 9), (9, 9)),
        (150, (9, 4), (5, 61)),
    ],
)
def test_the_best_of_many_is_the_best_of_all(
    count: int, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    values = torch.randn(count, *grid, generator=torch.Generator().manual_seed(0)) * 0.1
    full = F.interpolate(values[None], size, mode="bilinear")[0]
    index, best = best_of_many(values, size)
    assert torch.equal(index, full.argmax(dim=0))
    torch.testing.assert_close(best, full.amax(dim=0))


@pytest.mark.parametrize("protocol", ["fmbseg", "sclip"])
def test_similarities_in_parts_give_the_same_labels(
    protocol: ProtocolName, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"protocol": protocol, "short_side": 64, "logit_scale": 20.0}
    config = make_config(evaluate=section)
    words = vocabulary_from_names([f"thing {k}|matter {k}" for k in range(12)], rest="thing 3")
    images = [draw_picture(seed, (64, 48)) for seed in range(2)]
    predictor = load_predictor("maskclip", config)
    expected = list(predictor.segment(images, words))
    monkeypatch.setattr(dense, "_AT_ONCE", 1)
    monkeypatch.setattr(dense, "_PART", 5000)
    for found, whole in zip(predictor.segment(images, words), expected, strict=True):
        assert (found.decision.best == whole.decision.best).all()
        assert found.decision.threshold is not None and whole.decision.threshold is not None
        ours, theirs = (each.decision.threshold.confidence for each in (found, whole))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(found.confidence(), whole.confidence(), atol=1e-5)


def test_confidence_of_a_background_by_threshold_is_that_it_is_nothing_else() -> None:
    values = torch.tensor([[[0.3, 0.11]], [[0.1, 0.1]]])
    words = vocabulary_from_names(["a", "b"], rest="b")
    section = InferenceSection(logit_scale=10.0, background_threshold=0.8)
    given = maps.Maps(values, torch.tensor([0, 1]))
    decision = dense.decide(given, (1, 2), words, section)
    probability = (10 * values).softmax(dim=0)[:, 0]
    assert decision.labels.tolist() == [[0, 1]] and decision.best.tolist() == [[0, 0]]
    sure = confidence(given, decision, section)
    np.testing.assert_allclose(sure, [[probability[0, 0], 1 - probability[0, 1]]], atol=1e-6)


def peak_of(command: list[str], folder: Path) -> float:
    """Peak memory of a command in a process of its own, MB."""
    # Not getrusage: its maximum goes on from that of the process that started this one.
    code = (
        "import re, sys; from fmbseg.cli import _main; code = _main(sys.argv[1:]); "
        "print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.rpartition("peak")[2]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("command", [["predict", "--method", "maskclip"], ["label"]])
def test_twenty_thousand_names_take_bounded_memory(command: list[str], tmp_path: Path) -> None:
    """Held at once, their similarities at the picture's size would take 25 GB."""
    name, *more = command
    (tmp_path / "photos").mkdir()
    draw_picture(0, (640, 480)).save(tmp_path / "photos" / "one.png")
    (tmp_path / "many.txt").write_text("\n".join(f"thing{k:05d}" for k in range(NAMES)))
    few = peak_of([name, "photos", "--classes", "dog, cat", "--out", "few", *more], tmp_path)
    many = peak_of([name, "photos", "--vocabulary", "many.txt", "--out", "many", *more], tmp_path)
    print(f"{name}: {few:.0f} MB with two names, {many:.0f} MB with {NAMES}")
    assert many < few + 800
    (label,) = [*(tmp_path / "many").rglob("one*label.png"), *(tmp_path / "many").glob("labels/*")]
    with Image.open(label) as image:
        values = np.asarray(image)
    assert values.dtype == np.uint16 and values.shape == (480, 640)
    assert set(np.unique(values)) <= {*range(NAMES), 65535}
    out = ["export", "mmseg", "many", "--out", "exported"]
    assert peak_of(out, tmp_path) < few
