"""Scenes: determinism, truth, held-out glyphs, and the layouts they are written in."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmbseg.config import parse_config
from fmbseg.data import load_dataset
from fmbseg.errors import DataError
from fmbseg.scenes.classes import CLASS_INDEX, SCENE_CLASSES, STUFF_CLASSES, THING_CLASSES
from fmbseg.scenes.files import SIZES, write_scenes
from fmbseg.scenes.layouts import SCENE_LAYOUTS, voc_palette
from fmbseg.scenes.render import GLYPHS, SEED_RANGES, render_scene, scene_seed
from fmbseg.store.paths import Paths
from fmbseg.store.shards import StageReport
from tests.workspace import opened, run


def _digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_enough_classes_with_the_benchmarks_names() -> None:
    assert len(THING_CLASSES) >= 60
    assert len(STUFF_CLASSES) >= 12
    assert sorted(c.voc_index for c in SCENE_CLASSES if c.voc_index) == list(range(1, 21))
    assert len({c.coco_id for c in SCENE_CLASSES}) == len(SCENE_CLASSES)
    glyphs = [g for c in SCENE_CLASSES for g in c.glyphs]
    assert len(set(glyphs)) == len(glyphs), "a glyph stands for two classes"


def test_coco_ids_are_those_of_the_real_pixel_maps(samples: Path) -> None:
    names = json.loads((samples / "coco_stuff164k" / "labels_raw182.json").read_text())
    for scene_class in SCENE_CLASSES:
        raw = names[str(scene_class.coco_id)].removesuffix("-other").removesuffix("-stuff")
        # "floor-wood" is the raw list's way of writing "wood floor".
        assert set(raw.split("-")) == set(scene_class.name.split(" ")) or raw == scene_class.name


def test_a_scene_is_its_seed() -> None:
    first, again, other = (render_scene(seed, correspondence=True) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    assert not np.array_equal(first.image, other.image)


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted(SEED_RANGES.values(), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    assert scene_seed("training", 3, seed=2) in SEED_RANGES["training"]
    mistakes = (("holidays", 0, 0), ("training", 1_000_000, 0), ("training", 0, 100))
    for split, index, seed in mistakes:
        with pytest.raises(DataError):
            scene_seed(split, index, seed)


@pytest.mark.parametrize("glyph", GLYPHS, ids=lambda g: f"{g[0]}-{g[1]}")
def test_every_glyph_is_drawn_and_labelled(glyph: tuple[str, int]) -> None:
    scene = render_scene(1, objects=[glyph], scale=(0.5, 0.5))
    mask = scene.instance == 3
    assert 60 < mask.sum() < 128 * 128 / 2
    assert (scene.label[mask] == CLASS_INDEX[glyph[0]]).all()
    # The picture differs from the same scene's background where the object is.
    assert scene.image[mask].astype(int).std() > 5


def test_truth_is_consistent() -> None:
    for seed in range(30):
        scene = render_scene(seed, size=(96, 80), correspondence=True)
        assert scene.image.shape == (80, 96, 3)
        assert scene.glyph is not None and scene.uv is not None
        for item in scene.objects:
            mask = scene.instance == item.instance
            assert mask.sum() == item.visible_pixels
            assert (scene.label[mask] == CLASS_INDEX[item.name]).all()
            assert {GLYPHS[g][0] for g in np.unique(scene.glyph[mask])} <= {item.name}
        background = scene.instance < 3
        assert (scene.glyph[background] < 0).all()
        assert (scene.label[background] >= len(THING_CLASSES)).all()
        assert scene.uv.min() >= 0 and scene.uv.max() <= 1


def test_uv_is_the_place_on_the_glyph() -> None:
    colours = []
    for seed in (11, 12, 13):
        sign = [("stop sign", 0)]
        scene = render_scene(seed, objects=sign, scale=(0.9, 0.9), correspondence=True)
        assert scene.uv is not None
        mask = (scene.instance == 3) & (np.abs(scene.uv - (0.5, 0.15)).max(-1) < 0.04)
        assert mask.any()
        colours.append(scene.image[mask].astype(float).mean(0))
    for colour in colours:  # the upper rim of a stop sign is red
        assert colour[0] > colour[1] + 40 and colour[0] > colour[2] + 40


def test_held_out_glyphs_never_appear_in_pretraining() -> None:
    shown = [
        item
        for seed in range(300)
        for item in render_scene(seed, size=(32, 32), include_held_out=False).objects
    ]
    assert not any(item.held_out for item in shown)
    everything = [i for seed in range(300) for i in render_scene(seed, size=(32, 32)).objects]
    assert any(item.held_out for item in everything)


def test_pretraining_samples_show_no_held_out_glyph() -> None:
    from pretraining.samples import pretraining_glyphs

    held_out = {c.held_out_glyph for c in SCENE_CLASSES if c.held_out_glyph}
    shown = {SCENE_CLASSES[CLASS_INDEX[name]].glyphs[i] for name, i in pretraining_glyphs()}
    assert len(held_out) > 10
    assert not held_out & shown


def test_voc_layout(tmp_path: Path) -> None:
    write_scenes("voc2012", tmp_path, train=4, val=6, processes=1)
    for split, count in (("train", 4), ("val", 6)):
        data = load_dataset("voc21", str(tmp_path), split=split)
        assert len(data) == count
    names = (tmp_path / "ImageSets/Segmentation/val.txt").read_text().split()
    borders = 0
    for name in names:
        picture = Image.open(tmp_path / "SegmentationClass" / f"{name}.png")
        assert picture.mode == "P"
        values = set(np.unique(np.asarray(picture)).tolist())
        assert values <= {*range(21), 255}
        borders += 255 in values
    assert borders >= 5
    objects = pd.read_parquet(tmp_path / "scenes.parquet")
    assert list(objects.columns) == ["image_id", "name", "glyph", "held_out", "visible_pixels"]
    assert set(names) <= set(objects["image_id"])


def test_scenes_of_a_killed_run_are_as_those_of_a_quiet_one(tmp_path: Path) -> None:
    write_scenes("voc2012", tmp_path / "quiet", train=2, val=12, processes=1)
    killed = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from fmbseg.scenes.files import write_scenes; "
        "write_scenes('voc2012', Path(sys.argv[1]), train=2, val=12, processes=1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(killed)]) as process:
        while process.poll() is None and len(list(killed.rglob("*.png"))) < 3:
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (killed / ".drawing").mkdir(exist_ok=True)
    (killed / ".drawing" / "1-half.png").write_bytes(b"half")  # at the worst moment
    write_scenes("voc2012", killed, train=2, val=12, processes=1)
    assert _digests(killed) == _digests(tmp_path / "quiet")


def test_what_a_killed_run_still_draws_is_not_published(tmp_path: Path) -> None:
    config = parse_config({"scenes": {"layouts": {"voc2012": {"val": 2}}}})
    half = Paths(tmp_path).drawn_scenes / opened("scenes", config, Paths(tmp_path)).key
    (half / "ade20k" / ".drawing").mkdir(parents=True)
    (half / "ade20k" / ".drawing" / "1-half.png").write_bytes(b"half")
    run("scenes", config, Paths(tmp_path))
    assert opened("scenes", config, Paths(tmp_path)).published
    assert not [path for path in (tmp_path / "data").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("drawing_kept", [True, False], ids=["drawing-kept", "drawing-gone"])
def test_a_lost_or_cut_picture_is_noticed_and_drawn_again(
    drawing_kept: bool, tmp_path: Path
) -> None:
    """Also in the drawn copy, which a run that was killed goes on with."""
    config = parse_config({"scenes": {"layouts": {"voc2012": {"val": 3}}}})
    paths = Paths(tmp_path)
    first = run("scenes", config, paths)
    assert run("scenes", config, paths) == StageReport("scenes", first.key, 0, 3)
    before = _digests(paths.scenes)
    drawn = paths.drawn_scenes / first.key
    assert set(before) == {*_digests(drawn), "manifest.json"}
    for name, left in (
        ("JPEGImages/2012_000001.jpg", None),
        ("JPEGImages/2012_000002.jpg", 100),
        ("SegmentationClass/2012_000003.png", 0),
        ("scenes.parquet", 10),
        ("scenes.json", 3),
    ):
        for place in (paths.scenes, drawn) if drawing_kept else (paths.scenes,):
            path = place / "VOC2012" / name
            data = path.read_bytes()
            path.unlink()
            if left is not None:
                path.write_bytes(data[:left])
        if not drawing_kept:
            shutil.rmtree(drawn)
        assert not opened("scenes", config, paths).published, name
        assert run("scenes", config, paths).computed == 3
        assert opened("scenes", config, paths).published
        assert _digests(paths.scenes) == before, name


def test_voc_palette_is_that_of_the_benchmark(samples: Path) -> None:
    real = sorted((samples / "voc2012").rglob("*.png"))
    palettes = [Image.open(p).getpalette() for p in real if Image.open(p).mode == "P"]
    assert palettes, "no palette PNG in the VOC sample"
    assert palettes[0] == voc_palette().reshape(-1).tolist()[: len(palettes[0])]


def test_coco_layout_round_trips_through_the_adapter(tmp_path: Path) -> None:
    write_scenes("coco_stuff164k", tmp_path, train=3, val=2, seed=4, processes=1)
    data = load_dataset("coco_stuff", str(tmp_path), split="train2017")
    names = data.vocabulary.names
    assert len(data) == 3
    for index, sample in enumerate(data):
        number = scene_seed("training", index, seed=4)
        rng = np.random.default_rng(number)
        rng_size = SIZES[rng.integers(len(SIZES))]
        scene = render_scene(number, size=rng_size)
        drawn = [SCENE_CLASSES[k].name for k in np.unique(scene.label)]
        assert sample.label is not None
        found = [names[k] for k in np.unique(sample.label)]
        assert sorted(found) == sorted(drawn)


def test_cut_off_writing_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_scenes("voc2012", tmp_path / "a", train=5, val=3, processes=1)
    write_scenes("voc2012", tmp_path / "b", train=5, val=3, processes=1)
    for lost in ("JPEGImages/2011_000002.jpg", "SegmentationClass/2012_000001.png"):
        (tmp_path / "b" / lost).unlink()
    for cut in ("JPEGImages/2012_000002.jpg", "SegmentationClass/2011_000001.png"):
        path = tmp_path / "b" / cut
        path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "b" / "scenes.parquet").unlink()
    write_scenes("voc2012", tmp_path / "b", train=5, val=3, processes=1)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    write_scenes("coco_stuff164k", tmp_path / "a", train=50, val=20, processes=1)
    write_scenes("coco_stuff164k", tmp_path / "b", train=50, val=20, processes=2)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


@pytest.mark.parametrize(
    ("layout", "benchmark", "split"),
    [
        ("pascal_context", "context60", "val"),
        ("cityscapes", "cityscapes", "val"),
        ("ade20k", "ade20k", "validation"),
        ("camvid", "camvid", "val"),
        ("folder", "folder", "all"),
    ],
)
def test_labels_are_the_benchmarks_classes(
    layout: str, benchmark: str, split: str, tmp_path: Path
) -> None:
    write_scenes(layout, tmp_path, train=0, val=12)
    record = SCENE_LAYOUTS[layout]
    data = load_dataset(benchmark, tmp_path, split)
    objects = pd.read_parquet(tmp_path / "scenes.parquet")
    assert set(objects["image_id"]) == {sample.image_id for sample in data}
    # Written out again: what each scene class is called there.
    called = {
        **{"clouds": "sky", "brick wall": "wall", "stone wall": "wall", "house": "building"},
        **{"stop sign": {"cityscapes": "traffic sign"}.get(benchmark, "sign")},
        **{"tree": {"cityscapes": "vegetation"}.get(benchmark, "tree")},
    }
    if benchmark in ("ade20k", "folder"):
        called = {key: name for key, name in called.items() if name == "wall"}
        called |= {"tv": "television receiver", "motorcycle": "minibike"}
    if benchmark == "folder":
        called = {}
    if benchmark == "camvid":
        called = {key: name for key, name in called.items() if name != "wall"}
    names = data.vocabulary.names
    checked = 0
    for index, sample in enumerate(data):
        number = scene_seed("evaluation", index)
        rng = np.random.default_rng(number)
        things = record.things if record.things and rng.random() < 0.8 else None
        size = SIZES[rng.integers(len(SIZES))]
        scene = render_scene(number, size=size, classes=things, stuff=record.stuff or None)
        label = sample.label
        assert label is not None and label.shape == scene.label.shape
        inner = (slice(2, -2), slice(2, -2))
        for k in np.unique(scene.label[inner]):
            name = SCENE_CLASSES[k].name
            words = {called[name]} if name in called else {name, *SCENE_CLASSES[k].synonyms}
            found = np.unique(label[inner][scene.label[inner] == k])
            assert len(found) == 1
            if found[0] < 255 and names[found[0]] in words:
                checked += 1
            elif set(names) & words:
                raise AssertionError(f"{name} is labelled {found[0]}")
    assert checked >= 10


@pytest.mark.parametrize("layout", [name for name, r in SCENE_LAYOUTS.items() if r.things])
def test_most_objects_are_classes_of_the_benchmark(layout: str, tmp_path: Path) -> None:
    write_scenes(layout, tmp_path, train=0, val=40)
    objects = pd.read_parquet(tmp_path / "scenes.parquet")
    assert 0.7 < objects["name"].isin(SCENE_LAYOUTS[layout].things).mean() < 1


def test_backgrounds_can_be_chosen() -> None:
    for seed in range(10):
        scene = render_scene(seed, stuff=["sky", "road"])
        drawn = {SCENE_CLASSES[k].name for k in np.unique(scene.label[scene.instance < 3])}
        assert drawn <= {"sky", "road"}
    with pytest.raises(DataError, match="two stuff classes"):
        render_scene(0, stuff=["sky"])


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="voc2012"):
        write_scenes("voc2007", tmp_path, train=1, val=1)
    with pytest.raises(DataError, match="at least one"):
        write_scenes("voc2012", tmp_path, train=-3, val=4)
    write_scenes("voc2012", tmp_path, train=1, val=1, seed=1)
    with pytest.raises(DataError, match="other scenes"):
        write_scenes("voc2012", tmp_path, train=1, val=1, seed=2)
    (tmp_path / "scenes.json").write_text('{"layout": "voc')
    with pytest.raises(DataError, match=r"scenes\.json is damaged"):
        write_scenes("voc2012", tmp_path, train=1, val=1, seed=1)
    with pytest.raises(DataError, match="least"):
        render_scene(0, n_objects=(4, 1))
    with pytest.raises(DataError, match="unicorn"):
        render_scene(0, objects=[("unicorn", 0)])
    with pytest.raises(DataError, match="glyphs"):
        render_scene(0, objects=[("elephant", 9)])
    with pytest.raises(DataError, match="too small"):
        render_scene(0, size=(8, 8))
