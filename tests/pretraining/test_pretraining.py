"""The pretraining scripts: data, losses, and that a cut-off run resumes to the same weights."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.models.build import build_sam
from fmbseg.models.tiny import FOLDER, architecture
from fmbseg.models.weights import resolve
from fmbseg.scenes.classes import SCENE_CLASSES
from pretraining import samples
from pretraining.augment import to_pixels
from pretraining.captions import VOCABULARIES, words
from pretraining.encoder import NEAR, TEMPERATURE, correspondence_loss
from pretraining.loop import Recipe, make_optimisers, origin, train
from pretraining.sam import BOX, Promptable, draw_kind, draw_prompts, enlarge
from pretraining.samples import (
    captioned_crops,
    corresponding_pair,
    instance_scene,
    materialise,
)
from pretraining.teacher import Teacher


def test_every_name_of_every_vocabulary_is_a_word() -> None:
    vocabulary, meaning = words()
    assert meaning.shape == (len(vocabulary), len(SCENE_CLASSES))
    for name in VOCABULARIES:
        missing = {q.lower() for q in load_vocabulary(name).queries[0]} - set(vocabulary)
        assert not missing, f"{name}: {missing}"
    named = dict(zip(vocabulary, meaning, strict=True))
    names = [c.name for c in SCENE_CLASSES]
    assert named["aeroplane"].nonzero().tolist() == [[names.index("airplane")]]
    assert not named["microwave"].any(), "nothing drawn is a microwave"


def test_captions_name_what_is_in_the_crop() -> None:
    for index in range(5):
        for crop in captioned_crops(index):
            assert crop["image"].shape == (64, 64, 3)
            shares = crop["share"].astype(float) / 255
            assert 0.95 < shares.sum() < 1.05
            assert set(np.unique(crop["patch"])) <= set(np.flatnonzero(crop["share"]))


def test_corresponding_patches_show_the_same_spot() -> None:
    glyphs, textures, seen = 0, 0, set[int]()
    for index in range(20):
        pair = corresponding_pair(index)[0]
        first, second = (set(regions.tolist()) for regions in pair["region"])
        shared = first & second
        glyphs += any(region >= 0 for region in shared)
        textures += any(region < 0 for region in shared)
        own = {region for region in first | second if region < 0}
        assert len(own) <= 2 and not own & seen, "no other pair has these textures"
        seen |= own
    assert glyphs >= 15
    assert textures >= 15


def test_a_texture_is_seen_in_another_part_size_and_light() -> None:
    pair = corresponding_pair(5)[0]
    (number,) = {int(r) for r in pair["region"][0]} & {int(r) for r in pair["region"][1]} - {3}
    assert number < 0
    patches = []
    for view in range(2):
        place = np.flatnonzero((pair["region"][view] == number) & (pair["purity"][view] == 1))[0]
        top, left = 8 * (place // 8), 8 * (place % 8)
        patches.append(pair["image"][view, top : top + 8, left : left + 8].astype(float))
    difference = abs(patches[0].mean((0, 1)) - patches[1].mean((0, 1)))
    assert 0 < difference.max() < 60  # of 255: alike, and not the same
    assert not np.array_equal(patches[0], patches[1])


def test_the_teacher_is_the_packages_encoder_whatever_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(folder))
    assert resolve("tiny-encoder") == folder / "encoder.safetensors"
    teacher = Teacher(8, torch.rand(2, 3, 64, 64))
    saved = load_file(FOLDER / "encoder.safetensors")
    state = teacher._frozen[0].state_dict()
    assert all(torch.equal(state[key], saved[key]) for key in saved)


def test_correspondence_loss_equals_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(14, 8, generator=generator, dtype=torch.float64)
    z = z / z.norm(dim=1, keepdim=True)
    region = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, -5, -5, -9, -9, 3, 0])
    uv = torch.rand(14, 2, generator=generator, dtype=torch.float64)
    uv[5:8] = 0.5
    terms = []
    for i in range(14):
        near, others = [], []
        for j in range(14):
            if i == j:
                continue
            score = float(z[i] @ z[j]) / TEMPERATURE
            if region[i] == region[j]:
                close = float((uv[i] - uv[j]).abs().max()) < NEAR
                if close or region[i] < 0:
                    near.append(score)
                    others.append(score)
            else:
                others.append(score)
        if near:
            log_sum = float(np.log(np.sum(np.exp(others))))
            terms.append(log_sum - float(np.mean(near)))
    assert correspondence_loss(z, region, uv).item() == pytest.approx(np.mean(terms), abs=1e-9)


def test_prompts_lie_inside_their_masks() -> None:
    instances = np.stack([instance_scene(index)[0]["instance"] for index in (3, 4)])
    for kind in (1, 3, 5):
        drawn = draw_prompts(np.random.default_rng(0), instances, 40, kind)
        assert drawn.points is not None and drawn.boxes is None
        assert drawn.points.shape == (80, kind, 2)
        assert drawn.scene.tolist() == [0] * 40 + [1] * 40
        for mask, points in zip(drawn.masks, drawn.points.tolist(), strict=True):
            assert all(mask[int(y), int(x)] for x, y in points)
    drawn = draw_prompts(np.random.default_rng(0), instances, 40, BOX)
    assert drawn.boxes is not None and drawn.points is None
    for mask, box in zip(drawn.masks, drawn.boxes.numpy(), strict=True):
        ys, xs = np.nonzero(mask.numpy())
        edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(box, edges, atol=8)  # jittered by 1.5 pixels
    for scene, mask in zip(drawn.scene.tolist(), drawn.masks.numpy(), strict=True):
        assert len(np.unique(instances[scene][mask])) == 1
    assert len(draw_prompts(np.random.default_rng(0), instances * 0, 4, 1).scene) == 0
    rng = np.random.default_rng(0)
    assert {draw_kind(rng) for _ in range(200)} == {BOX, 1, 2, 3, 4, 5}


@torch.no_grad()
@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.parametrize("kind", [1, 5, BOX])
def test_scenes_decoded_together_are_as_the_stock_model_decodes_each(kind: int, share: int) -> None:
    records = [instance_scene(index)[0] for index in (3, 4)]
    images = to_pixels(np.stack([record["image"] for record in records]))
    instances = np.stack([record["instance"] for record in records])
    model = Promptable(images).eval()
    for module in model.sam.modules():
        if isinstance(module, Attention) and module.use_rel_pos:  # zero in a fresh model
            torch.nn.init.normal_(module.rel_pos_h, std=0.5)
            torch.nn.init.normal_(module.rel_pos_w, std=0.5)
    torch.nn.init.normal_(model.sam.image_encoder.pos_embed)
    size = model.size // share
    stock = _shrunk(model.sam, size)
    pixels = enlarge(images, size)
    embeddings, _ = model.encode(pixels, torch.ones(2, 1, size, size))
    drawn = draw_prompts(np.random.default_rng(0), instances, 3, kind)
    low, iou = model.decode(embeddings, drawn)

    def placed(prompts: torch.Tensor) -> torch.Tensor:
        # Sam adds half a pixel of its own size to each coordinate.
        return (prompts * model.size / 128 + 0.5) / share - 0.5

    for scene in range(2):
        chosen = drawn.scene == scene
        request = {"image": (pixels[scene] + 1) * 127.5, "original_size": (128, 128)}
        if drawn.points is not None:
            request["point_coords"] = placed(drawn.points[chosen])
            request["point_labels"] = torch.ones(3, kind)
        else:
            request["boxes"] = placed(drawn.boxes[chosen])
        (wanted,) = stock([request], multimask_output=True)
        torch.testing.assert_close(low[chosen], wanted["low_res_logits"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(iou[chosen], wanted["iou_predictions"], atol=1e-4, rtol=1e-4)


def _shrunk(sam: Sam, size: int) -> Sam:
    """A stock Sam of another input size with the same weights, position embeddings resized."""
    record = architecture("sam")
    record["image_encoder"]["img_size"] = size
    other = build_sam(record)
    weights = other.state_dict()
    for name, value in sam.state_dict().items():
        wanted = weights[name].shape
        if name.endswith("pos_embed"):
            small = F.interpolate(value.permute(0, 3, 1, 2), wanted[1:3], mode="area")
            value = small.permute(0, 2, 3, 1)
        elif value.shape != wanted:
            value = F.interpolate(value.T[None], wanted[0], mode="linear")[0].T
        weights[name] = value
    other.load_state_dict(weights)
    return other.eval()


@pytest.mark.parametrize("muon", [0.0, 1.0])
def test_a_resumed_training_has_the_same_weights(muon: float, tmp_path: Path) -> None:
    data = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))

    def run(state: Path, stop_after: int | None) -> nn.Linear:
        torch.manual_seed(3)
        model = nn.Linear(5, 2)

        def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
            if step == stop_after:
                raise KeyboardInterrupt
            time.sleep(0.02)
            chosen = torch.from_numpy(rng.choice(64, 8))
            noise = torch.randn(8, 2)  # torch's own generator resumes too
            loss: torch.Tensor = (model(data[chosen]) - noise).square().mean()
            return loss

        recipe = Recipe(steps=12, learning_rate=0.05, warmup=3, mixed=False, muon=muon)
        train(
            model,
            recipe,
            loss_of,
            state,
            {"data": data_digest},
            export=lambda: exported.append(state.stem),
            save_every=0.0,
            log=said.append,
        )
        return model

    exported: list[str] = []
    said: list[str] = []
    data_digest = "these"
    whole = run(tmp_path / "whole.pt", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", 7)
    assert exported == ["whole"]  # half-trained weights replace nothing
    resumed = run(tmp_path / "cut.pt", None)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)
    assert exported == ["whole", "cut"]
    spent = torch.load(tmp_path / "cut.pt", weights_only=True)["seconds"]
    assert spent >= 12 * 0.02  # of both runs

    again = run(tmp_path / "cut.pt", None)
    assert torch.equal(whole.weight, again.weight)
    assert "nothing is left to train" in said[-1]
    data_digest = "others"
    with pytest.raises(SystemExit, match=r"cut\.pt is the state of a training with other data"):
        run(tmp_path / "cut.pt", None)


def test_a_training_may_be_lengthened_until_its_rate_falls(tmp_path: Path) -> None:
    rates: list[float] = []

    def run(steps: int, stop_after: int | None = None) -> None:
        model = nn.Linear(2, 1)
        recipe = Recipe(steps=steps, learning_rate=0.1, warmup=1, mixed=False)

        def loss_of(rng: np.random.Generator, step: int) -> torch.Tensor:
            if step == stop_after:
                raise KeyboardInterrupt
            rates.append(recipe.rate(step))
            loss: torch.Tensor = model(torch.ones(1, 2)).square().sum()
            return loss

        state = tmp_path / "state.pt"
        train(model, recipe, loss_of, state, {}, export=lambda: None, save_every=0.0)

    with pytest.raises(KeyboardInterrupt):
        run(10, 6)
    with pytest.raises(KeyboardInterrupt):
        run(20, 14)
    # Up to now as if 20 had been meant from the beginning.
    assert rates == [Recipe(steps=20, learning_rate=0.1, warmup=1).rate(k) for k in range(14)]
    for steps in (40, 15):
        with pytest.raises(SystemExit, match=r"of step 14 of 20, when the learning rate was fall"):
            run(steps)
    run(20)
    assert len(rates) == 20


def test_a_state_is_of_its_script_its_settings_and_its_models(tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text("{}")

    def made(**changed: object) -> dict[str, str]:
        arguments = {"batch": 8, "steps": 5, "threads": 1, "work": tmp_path, "out": tmp_path}
        return origin("encoder", tmp_path, Namespace(**{**arguments, **changed}))

    assert made() == made(steps=9, threads=2, out=Path("elsewhere"))
    other = made(batch=4)
    assert [name for name, digest in made().items() if other[name] != digest] == ["settings"]


def test_muon_trains_the_matrices_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4))
    assert len(make_optimisers(model, Recipe(steps=1, learning_rate=1.0))) == 1
    adam, muon = make_optimisers(model, Recipe(steps=1, learning_rate=0.1, muon=2.0))
    assert [p is model[1].weight for p in muon.param_groups[0]["params"]] == [True]
    assert sum(len(group["params"]) for group in adam.param_groups) == 2
    model(torch.arange(9)).square().sum().backward()
    before = model[1].weight.detach().clone()
    muon.step()
    # An orthogonal step: all its singular values are alike, whatever the gradient's were.
    values = torch.linalg.svdvals(before - model[1].weight)
    assert values.max() / values.min() < 2
    gradient = torch.linalg.svdvals(model[1].weight.grad)
    assert gradient.max() / gradient.min() > 4


def test_data_drawn_by_other_code_are_drawn_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = materialise(corresponding_pair, range(2), tmp_path)["image"].copy()
    np.save(tmp_path / "image.npy", drawn * 0)
    assert not materialise(corresponding_pair, range(2), tmp_path)["image"].any()  # as it is there
    edited = tmp_path / "samples.py"
    edited.write_text("# edited")
    monkeypatch.setattr(samples, "_DRAWING", (edited,))
    np.testing.assert_array_equal(
        materialise(corresponding_pair, range(2), tmp_path)["image"], drawn
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "size"),
    [
        ("encoder", ("--pairs=60", "--batch=8")),
        ("clip", ("--scenes=60", "--batch=8")),
        ("sam", ("--scenes=80", "--half-size-steps=1")),
    ],
)
def test_scripts_run_from_zero(script: str, size: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    command = [sys.executable, "-m", f"pretraining.{script}", *size]
    command += ["--steps=2", "--threads=1", f"--work={tmp_path}", f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stdout
    assert load_file(out)
