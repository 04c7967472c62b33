"""What people correct reaches the labels, the training and the results, and says that it did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fmbseg.align.record import Supervision, recorded_supervision, supervision_of
from fmbseg.corrections import READERS
from fmbseg.corrections.store import import_corrections
from fmbseg.corrections.target import Target
from fmbseg.data.corrections import Correction, read_corrections
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.evaluate.results import read_result
from fmbseg.export.source import Source
from fmbseg.export.sources import open_source
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.dvc import corrections_yaml
from fmbseg.pseudo.merging import person_rows
from fmbseg.pseudo.tables import decode_mask
from fmbseg.store.paths import Paths
from tests.corrections.test_import import EXPORTED
from tests.export.test_formats import written
from tests.workspace import SIZES, MakeConfig, opened, run

FIRST = "000000000000"
Map = npt.NDArray[np.uint8]


def maps_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def label_of(folder: Path, image_id: str = FIRST) -> Map:
    return np.asarray(Image.open(folder / f"{image_id}.png"))


def labels_of(paths: Paths, config: MakeConfig) -> Source:
    data = {"root": str(paths.root / "coco")}
    return open_source(paths.label, config(data=data))


def correct(
    paths: Paths, config: MakeConfig, label: Map, image_id: str = FIRST, by: str | None = None
) -> None:
    """Import one corrected label map."""
    folder = paths.root / "by hand"
    folder.mkdir(exist_ok=True)
    Image.fromarray(label).save(folder / f"{image_id}.png")
    target = Target(labels_of(paths, config))
    origin = Correction("png", 0, by)
    place = paths.corrections
    import_corrections(READERS["png"], folder, target, place, silent_progress(), origin)


@pytest.fixture
def corrected(labelled: Paths, make_config: MakeConfig) -> Map:
    """A block of the first picture is a class of a person's, a corner has no label any more."""
    label = label_of(labelled.label / "labels").copy()
    label[10:30, 20:40] = 16
    label[:5, :5] = 255
    correct(labelled, make_config, label, by="Ada")
    return label


def test_corrections_are_merged_with_their_provenance(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    machine = label_of(labelled.label / "labels")
    before = {path.name: path.read_bytes() for path in (labelled.label / "labels").iterdir()}
    masks = pq.read_table(labelled.label / "masks.parquet")
    report = run("label", make_config(), labelled)
    assert report.computed == 0  # the machine's labels are as they were
    assert report.key == opened("label", make_config(), labelled).key
    assert (label_of(labelled.label / "labels") == corrected).all()
    assert (label_of(labelled.label / "machine") == machine).all()
    for name, content in before.items():
        if name != f"{FIRST}.png":
            assert (labelled.label / "labels" / name).read_bytes() == content
    # What is whose can be told pixel by pixel.
    rows = pq.read_table(labelled.label / "masks.parquet").to_pylist()
    assert rows[: masks.num_rows] == masks.to_pylist()
    regions = rows[masks.num_rows :]
    assert {row["source"] for row in regions} == {"person"}
    ids = [row["mask_id"] for row in rows if row["image_id"] == FIRST]
    assert ids == list(range(len(ids)))
    painted = machine.copy()
    for row in regions:
        painted[decode_mask(row)] = 255 if row["class_index"] is None else row["class_index"]
    assert (painted == corrected).all()
    changed = int((machine != corrected).sum())
    assert sum(row["area"] for row in regions) == changed
    record = read_corrections(labelled.label)
    assert record is not None
    assert record.images == {FIRST: Correction("png", changed, "Ada")}
    said = opened("label", make_config(), labelled).summary()
    assert f"1 pictures are people's corrections, which changed {changed} pixels" in said
    areas = pq.read_table(labelled.label / "areas.parquet").to_pylist()
    assert sum(row["pixels"] for row in areas) == sum(w * h for w, h in SIZES)
    of_first = {row["class_index"]: row["pixels"] for row in areas if row["image_id"] == FIRST}
    assert of_first == dict(zip(*np.unique(corrected, return_counts=True), strict=True))


def test_corrections_come_and_go_without_computing(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    before = maps_of(labelled.label / "labels")
    run("label", make_config(), labelled)
    assert opened("label", make_config(), labelled).published
    assert maps_of(labelled.label / "labels") != before
    labelled.corrections.rename(labelled.root / "elsewhere")
    assert not opened("label", make_config(), labelled).published
    assert run("label", make_config(), labelled).computed == 0
    assert maps_of(labelled.label / "labels") == before
    assert not (labelled.label / "machine").exists()


@pytest.mark.parametrize("format_", EXPORTED)
def test_what_is_exported_and_imported_again_gives_the_same_labels(
    labelled: Paths, make_config: MakeConfig, tmp_path: Path, format_: str
) -> None:
    """Once of the machine's labels, once of labels in which corrections are merged."""
    label = label_of(labelled.label / "labels").copy()
    label[10:30, 20:40] = 16
    for step in range(2):
        if step:
            correct(labelled, make_config, label)
            run("label", make_config(), labelled)
        source = labels_of(labelled, make_config)
        before = {image.image_id: image.label(source.classes) for image in source.images}
        file = EXPORTED[format_](written(source, format_, tmp_path / f"export{step}"))
        reader = READERS["png" if format_ == "mmseg" else format_]
        place, origin = labelled.corrections, Correction(format_, 0)
        import_corrections(reader, file, Target(source), place, silent_progress(), origin)
        run("label", make_config(), labelled)
        again = labels_of(labelled, make_config)
        for image in again.images:
            assert (image.label(again.classes) == before[image.image_id]).all()
        record = read_corrections(labelled.label)
        assert record is not None and set(record.images) == set(before)
        own = record.images.pop(FIRST) if step else Correction(format_, 0)  # type: ignore[attr-defined]
        assert (own.changed > 0) == bool(step)
        assert {each.changed for each in record.images.values()} == {0}


def test_an_edited_label_is_not_lost(labelled: Paths, make_config: MakeConfig) -> None:
    path = labelled.label / "labels" / f"{FIRST}.png"
    edited = label_of(path.parent).copy()
    edited[:9] = 2
    Image.fromarray(edited).save(path)
    content = path.read_bytes()
    with pytest.raises(DataError, match=rf"1 label maps were changed by hand .*{FIRST}\.png"):
        run("label", make_config(), labelled)
    assert path.read_bytes() == content
    # Other parameters would replace it as well.
    with pytest.raises(DataError, match="changed by hand"):
        run("label", make_config(label={"min_similarity": 0.0}), labelled)
    assert path.read_bytes() == content
    correct(labelled, make_config, edited)
    run("label", make_config(), labelled)
    assert (label_of(path.parent) == edited).all()
    # What is damaged is no edit.
    path.write_bytes(b"\x89PNG cut off")
    run("label", make_config(), labelled)
    assert (label_of(path.parent) == edited).all()


def test_corrections_in_one_of_several_vocabularies(
    labelled: Paths, make_config: MakeConfig
) -> None:
    config = make_config(data={"vocabulary": ["voc20", "coco_stuff"]})
    for stage in ("detect", "query", "masks", "label"):
        run(stage, config, labelled)
    labels = labelled.label / "labels"
    other = maps_of(labels / "voc20")
    source = open_source(labelled.label, config, vocabulary=load_vocabulary("coco_stuff"))
    label = source.images[0].label(source.classes)
    label[:20] = 100
    folder = labelled.root / "by hand"
    folder.mkdir()
    Image.fromarray(np.where(label < 0, 255, label).astype(np.uint8)).save(folder / f"{FIRST}.png")
    place, origin = labelled.corrections, Correction("png", 0)
    import_corrections(READERS["png"], folder, Target(source), place, silent_progress(), origin)
    run("label", config, labelled)
    assert (label_of(labels / "coco_stuff")[:20] == 100).all()
    assert (labelled.label / "machine" / "coco_stuff" / f"{FIRST}.png").is_file()
    assert maps_of(labels / "voc20") == other
    one = make_config(data={"vocabulary": "voc20"})
    run("detect", one, labelled)
    run("query", one, labelled)
    with pytest.raises(DataError, match="corrections in other classes than voc20"):
        run("label", one, labelled)


def test_a_correction_that_is_missing_or_of_another_size_is_named(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    path = labelled.corrections / "labels" / f"{FIRST}.png"
    Image.fromarray(corrected[:-1]).save(path)
    with pytest.raises(DataError, match="save label maps at the image's own size"):
        run("label", make_config(), labelled)
    path.unlink()
    with pytest.raises(DataError, match="dvc checkout"):
        run("label", make_config(), labelled)


def test_corrections_that_dvc_follows_are_missed(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    labelled.followed.write_text(corrections_yaml("data/corrections"))
    run("label", make_config(), labelled)
    labelled.corrections.rename(labelled.root / "elsewhere")
    with pytest.raises(DataError, match="corrections in data/corrections, and there are none"):
        run("label", make_config(), labelled)
    labelled.followed.write_text(corrections_yaml())
    run("label", make_config(), labelled)


def test_training_and_results_say_that_they_had_corrections(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    config = make_config()
    for stage in ("label", "features", "align"):
        run(stage, config, labelled)
    changed = read_corrections(labelled.label)
    assert changed is not None
    expected = Supervision("stage 1", 1, changed.changed)
    assert recorded_supervision(labelled.align) == expected
    assert not expected.annotation_free
    run("evaluate@coco_stuff", config, labelled)
    result = read_result(labelled.metrics / "fmbseg" / "coco_stuff.json")
    assert supervision_of(result) == expected
    head = (labelled.align / "head.safetensors").read_bytes()
    weighted = make_config(align={"correction_weight": 4.0})
    assert run("align", weighted, labelled).computed == 3
    assert (labelled.align / "head.safetensors").read_bytes() != head
    # Without them it is annotation-free again, and the result says so.
    labelled.corrections.rename(labelled.root / "elsewhere")
    for stage in ("label", "align", "evaluate@coco_stuff"):
        run(stage, config, labelled)
    result = read_result(labelled.metrics / "fmbseg" / "coco_stuff.json")
    assert supervision_of(result) == Supervision("stage 1")
    free = (labelled.align / "head.safetensors").read_bytes()
    assert free != head
    run("align", weighted, labelled)
    assert (labelled.align / "head.safetensors").read_bytes() == free  # nothing to weigh


def test_labels_of_elsewhere_bring_their_corrections(
    labelled: Paths, make_config: MakeConfig, corrected: Map
) -> None:
    run("label", make_config(), labelled)
    run("features", make_config(), labelled)
    theirs = labelled.root / "theirs"
    labelled.label.rename(theirs)
    config = make_config(data={"labels": "theirs/labels"})
    run("align", config, labelled)
    found = recorded_supervision(labelled.align)
    assert found is not None and found.labels == "data.labels" and found.corrected_images == 1
    (theirs / "corrections.json").unlink()
    run("align", config, labelled)
    assert json.loads((labelled.align / "checkpoint.json").read_text())["training"][
        "supervision"
    ] == {"labels": "data.labels", "corrected_images": 0, "corrected_pixels": 0}


def test_a_region_hangs_together_unless_it_falls_to_pieces() -> None:
    words = vocabulary_from_names(["dog", "grass"])
    before: Map = np.zeros((40, 60), dtype=np.uint8)
    after = before.copy()
    after[2:5, 2:5] = after[5:8, 5:8] = after[20:30, 20:30] = 1  # two touch at a corner
    after[35, 50] = 255
    rows = person_rows("a", words, before, after, first=7)
    assert [row["area"] for row in rows] == [18, 100, 1]
    assert [row.get("class_name") for row in rows] == ["grass", "grass", None]
    assert [row["mask_id"] for row in rows] == [7, 8, 9]
    after = before.copy()
    after[::2, ::2] = 1
    (row,) = person_rows("a", words, before, after, first=0)
    assert (decode_mask(row) == (after == 1)).all()
