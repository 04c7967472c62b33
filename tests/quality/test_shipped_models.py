"""The weights that come with the package: their size, and the lines their figures must reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fmbseg.config import load_config, parse_config
from fmbseg.machine.progress import silent_progress
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.sam import load_sam
from fmbseg.models.tiny import FOLDER
from fmbseg.quality import evaluate_models, quality_table
from fmbseg.quality.encoder import NEIGHBOURS, encoder_figures
from fmbseg.quality.photos import find_photos, photo_figures
from fmbseg.scenes.classes import THING_CLASSES

ZERO_SHOT = f"zero-shot top-1 of {len(THING_CLASSES)}, crops of one object"
DETECTION = "detection among 171 names, from 0.5 % of the scene"
PROBE, NEIGHBOUR = "linear probe, thing patches", f"k-NN (k = {NEIGHBOURS}), thing patches"
# What each must reach at least; percent, or IoU from 0 to 1.
LINES = {
    ("clip", f"{ZERO_SHOT}, templates single"): 90,
    ("clip", f"{ZERO_SHOT}, templates subset7"): 90,
    ("clip", f"{ZERO_SHOT}, templates imagenet80"): 90,
    ("clip", f"{DETECTION}: recall, mean over classes"): 85,
    ("clip", f"{DETECTION}: precision, mean over classes there"): 85,
    ("clip", "dense (value) among classes present: patches"): 85,
    ("sam", "1 interior point: most confident of 3 masks"): 0.80,
    ("sam", "5 points: most confident of 3 masks"): 0.85,
    ("sam", "automatic masks: instances found at IoU 0.5"): 85,
    ("encoder", PROBE): 80,
}


def test_the_shipped_encoder_beats_random_weights_and_clips_tokens() -> None:
    config = parse_config({"run": {"threads": 1, "device": "cpu"}})
    name, clip = config.features.encoder, load_clip(config.clip.model)
    figures = encoder_figures(load_backbone(name), name, clip, config, 240, silent_progress())
    value = {figure.name: figure.value for figure in figures}
    for measure in (PROBE, NEIGHBOUR):
        assert value[measure] > value[f"with random weights: {measure}"] + 40, value
        assert value[measure] > value[f"CLIP's last tokens: {measure}"] + 10, value


def test_the_shipped_weights_are_small() -> None:
    sizes = {file.name: file.stat().st_size for file in FOLDER.glob("*.safetensors")}
    assert set(sizes) == {"clip.safetensors", "encoder.safetensors", "sam.safetensors"}
    assert sum(sizes.values()) <= 20_000_000


@pytest.mark.slow
def test_the_shipped_models_reach_their_lines(repository: Path) -> None:
    config = load_config(repository / "params.yaml", ["run.threads=1", "run.device=cpu"])
    result = evaluate_models(config, 120, None, silent_progress())
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["weights"]) == {"tiny-clip", "tiny-sam", "tiny-encoder"}
    by_name = {(each["model"], each["name"]): each for each in result["figures"]}
    assert len(by_name) == len(result["figures"]) == 44
    top1 = by_name["clip", f"{ZERO_SHOT}, templates single"]
    assert top1["of"] == 6 * len(THING_CLASSES)
    values = {name: each["value"] for name, each in by_name.items()}
    missed = {name: values[name] for name, line in LINES.items() if values[name] < line}
    assert not missed
    for figure in (PROBE, NEIGHBOUR):
        for other in ("with random weights", "CLIP's last tokens"):
            ahead = values["encoder", figure] - values["encoder", f"{other}: {figure}"]
            assert ahead > 10, (figure, other)
    for variant in ("value", "sclip", "clearclip", "naclip"):
        among = values["clip", f"dense ({variant}) among classes present: patches"]
        assert 60 < among <= 100, variant
    table = quality_table(result).splitlines()
    assert len(table) == 2 + 44
    assert len({len(line) for line in table}) == 1
    assert f"{top1['value']:.1f} %" in table[2]


@pytest.mark.slow
def test_sam_covers_photos_better_than_a_grid_and_superpixels(
    repository: Path, realdata: Path
) -> None:
    photos = find_photos(realdata / "bsds500")
    assert len(photos) == 20
    config = load_config(repository / "params.yaml", ["run.threads=1"])
    figures = photo_figures(load_sam("tiny-sam"), config, photos, silent_progress())
    masks, grid, slic = (figure.value for figure in figures)
    assert grid < masks and slic < masks
