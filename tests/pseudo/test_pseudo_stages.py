from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import StoreError
from fmbseg.machine.device import choose_device
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.labels import load_label
from fmbseg.pseudo.pipeline import label_image
from fmbseg.pseudo.tables import DETECTIONS_SCHEMA, MASKS_SCHEMA, StoredMasks
from fmbseg.store.paths import Paths
from fmbseg.store.shards import verify_published
from tests.encodings import count_encodings
from tests.pseudo.stages import STAGES, files_of, run_all
from tests.workspace import SIZES, SPLIT, MakeConfig, opened, run


def test_a_published_stage_computes_nothing(tmp_path: Path, make_config: MakeConfig) -> None:
    config, paths = make_config(), Paths(tmp_path)
    first = run_all(config, paths)
    assert all((report.computed, report.taken_over) == (3, 0) for report in first.values())
    before = files_of(paths.pseudo)

    shutil.rmtree(tmp_path / ".fmbseg")  # as after `dvc pull` on a clone
    with count_encodings() as counts:
        again = run_all(config, paths)

    assert not counts
    assert all((report.computed, report.taken_over) == (0, 3) for report in again.values())
    assert {name: report.key for name, report in again.items()} == {
        name: report.key for name, report in first.items()
    }
    assert not paths.shards.exists()
    assert files_of(paths.pseudo) == before


def test_the_state_is_what_a_run_would_find(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(), Paths(tmp_path)
    before = opened("detect", config, paths)
    assert not before.published
    with pytest.raises(StoreError, match="fmbseg run detect"):
        _ = opened("query", config, paths).key
    assert run("detect", config, paths).key == before.key
    assert before.published
    # Another parameter of the stage is another key; one of another stage is not.
    assert opened("detect", make_config(query={"points": 3}), paths).key != before.key
    assert opened("detect", make_config(masks={"points_per_side": 2}), paths).key == before.key
    table = paths.detect / "detections.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    assert not opened("detect", config, paths).published


@pytest.mark.parametrize("name", ["detect", "query", "masks", "label"])
def test_a_killed_stage_goes_on_where_it_was(
    name: str, tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(), Paths(tmp_path)
    key = run_all(config, paths)[name].key
    before = files_of(paths.pseudo)
    # As DVC does before a run, and as after a kill in the second shard.
    shutil.rmtree(paths.pseudo / name)
    shards = paths.shards / name / key
    shutil.rmtree(shards / "000001")
    next((shards / "000002").glob("*.parquet")).write_bytes(b"damaged")

    report = run(name, config, paths)

    assert (report.computed, report.taken_over) == (2, 1)
    assert files_of(paths.pseudo) == before


def test_labels_do_not_depend_on_annotations(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    results = []
    for step in ("there", "scrambled", "deleted"):
        if step == "scrambled":
            for path in (coco / "annotations").rglob("*.png"):
                path.write_bytes(b"no picture")
        if step == "deleted":
            shutil.rmtree(coco / "annotations")
        paths = Paths(tmp_path / step)
        run_all(make_config(), paths)
        results.append(files_of(paths.pseudo))
    assert results[0] == results[1] == results[2]


def test_shards_do_not_change_the_labels(tmp_path: Path, make_config: MakeConfig) -> None:
    one, many = Paths(tmp_path / "one"), Paths(tmp_path / "many")
    run_all(make_config(run={"shard_size": 64}), one)
    run_all(make_config(run={"shard_size": 1}), many)
    assert files_of(one.label / "labels") == files_of(many.label / "labels")
    for table in ("detect/detections", "query/masks", "masks/masks", "label/masks"):
        name = f"{table}.parquet"
        assert pq.read_table(one.pseudo / name).equals(pq.read_table(many.pseudo / name))


def test_tables_have_their_schema_and_fit_together(tmp_path: Path, make_config: MakeConfig) -> None:
    config, paths = make_config(), Paths(tmp_path)
    run_all(config, paths)
    names = load_vocabulary("coco_stuff").names
    detections = pq.read_table(paths.detect / "detections.parquet")
    tables = {
        name: pq.read_table(paths.pseudo / name / "masks.parquet")
        for name in ("query", "masks", "label")
    }
    assert detections.schema.equals(DETECTIONS_SCHEMA)
    assert all(table.schema.equals(MASKS_SCHEMA) for table in tables.values())

    found = detections.to_pylist()
    assert found
    assert all(row["class_name"] == names[row["class_index"]] for row in found)
    assert all(len(row["points"]) == 2 * config.query.points for row in found)

    queried, automatic, labelled = (tables[name].to_pylist() for name in tables)
    assert [(row["image_id"], row["class_index"]) for row in queried] == [
        (row["image_id"], row["class_index"]) for row in found
    ]
    assert all(row["source"] == "query" and row["stability"] is None for row in queried)
    assert automatic
    assert all(row["source"] == "automatic" and row["class_name"] is None for row in automatic)
    assert len(labelled) == len(queried) + len(automatic)
    assert len({(row["image_id"], row["mask_id"]) for row in labelled}) == len(labelled)
    detected = {(row["image_id"], row["class_index"]) for row in found}
    assert all((row["image_id"], row["class_index"]) in detected for row in labelled)
    assert all(-1 <= row["similarity"] <= 1.001 for row in labelled)
    for rows in (queried, automatic, labelled):
        stored = StoredMasks(rows)
        assert [int(stored[index].sum()) for index in range(len(rows))] == stored.areas.tolist()


def test_stages_give_the_label_of_the_pipeline_in_memory(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(), Paths(tmp_path)
    run_all(config, paths)
    encoder = ImageEncoder(config, None, choose_device(config.run))
    vocabulary = load_vocabulary("coco_stuff")
    text = encoder.clip.model.text_embeddings(vocabulary, config.clip.templates)
    found = pq.read_table(paths.detect / "detections.parquet").to_pylist()
    rows = pq.read_table(paths.label / "masks.parquet").to_pylist()
    labels = []
    for path in sorted((coco / "images" / SPLIT).iterdir()):
        with count_encodings() as counts:
            encodings = encoder.encode(read_image(path))
            result = label_image(encodings, encoder.sam.model, text, config)
        assert counts["sam"] == 1
        stored = load_label(paths.label / "labels" / f"{path.stem}.png")
        assert np.array_equal(result.label, stored)
        mine = [row for row in rows if row["image_id"] == path.stem]
        detected = [row["class_index"] for row in found if row["image_id"] == path.stem]
        assert [row["class_index"] for row in mine] == [*detected, *result.classes]
        assert len(result.query_similarity) == len(detected)
        labels.append(stored)
    assert any((stored != 255).any() for stored in labels)


def test_each_vocabulary_gets_the_labels_that_it_gets_alone(
    coco: Path, tmp_path: Path, make_config: MakeConfig
) -> None:
    names = ["coco_stuff", "voc21", "cityscapes"]
    together = Paths(tmp_path / "together")
    with count_encodings() as counts:
        run_all(make_config(data={"vocabulary": names}), together)
    assert counts["sam"] == len(SIZES)
    columns = ["image_id", "class_name", "source", "rle", "similarity"]
    for name in names:
        alone = Paths(tmp_path / name)
        run_all(make_config(data={"vocabulary": name}), alone)
        assert files_of(alone.label / "labels") == files_of(together.label / "labels" / name)
        for table in ("detect/detections", "label/masks"):
            found = pq.read_table(together.pseudo / f"{table}.parquet").to_pylist()
            own = [row for row in found if row["vocabulary"] == name]
            expected = pq.read_table(alone.pseudo / f"{table}.parquet").to_pylist()
            wanted = [column for column in columns if column in expected[0]]
            assert [[row[c] for c in wanted] for row in own] == [
                [row[c] for c in wanted] for row in expected
            ]
    # `person` stands in all three, `car` too: their points are one prompt.
    rows = pq.read_table(together.label / "masks.parquet").to_pylist()
    ids = {(row["image_id"], row["vocabulary"], row["mask_id"]) for row in rows}
    assert len(ids) == len(rows)


@pytest.mark.parametrize("switch", ["use_queries", "use_masks"])
def test_each_source_of_masks_can_be_left_out(
    switch: str, tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(label={switch: False}), Paths(tmp_path)
    run_all(config, paths)
    used = "automatic" if switch == "use_queries" else "query"
    rows = pq.read_table(paths.label / "masks.parquet").to_pylist()
    for path in (paths.label / "labels").iterdir():
        covered = np.zeros(load_label(path).shape, dtype=bool)
        mine = [r for r in rows if r["image_id"] == path.stem and r["source"] == used]
        for mask in StoredMasks(mine):
            covered |= mask
        assert np.array_equal(load_label(path) != 255, covered)


def test_images_without_detections_are_unlabelled(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(detection={"min_votes": 1000})
    paths = Paths(tmp_path)
    run_all(config, paths)
    assert pq.read_table(paths.detect / "detections.parquet").num_rows == 0
    assert pq.read_table(paths.query / "masks.parquet").num_rows == 0
    rows = pq.read_table(paths.label / "masks.parquet").to_pylist()
    assert rows
    assert all(row["class_index"] is None and row["similarity"] is None for row in rows)
    labels = [load_label(path) for path in (paths.label / "labels").iterdir()]
    assert len(labels) == len(SIZES)
    assert all((stored == 255).all() for stored in labels)


def test_stages_refuse_inputs_made_with_other_parameters(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    config, paths = make_config(), Paths(tmp_path)
    with pytest.raises(StoreError, match=r"query needs .*detect: run `fmbseg run detect` first"):
        run("query", config, paths)
    run("detect", config, paths)
    other = make_config(query={"points": 2})
    with pytest.raises(StoreError, match="run `fmbseg run detect` again first"):
        run("query", other, paths)
    fewer = make_config(data={"limit": 4})
    with pytest.raises(StoreError, match="other images"):
        run("query", fewer, paths)


def test_keys_follow_what_matters_only(tmp_path: Path, make_config: MakeConfig) -> None:
    paths = Paths(tmp_path)
    first = run_all(make_config(), paths)

    # Neither alignment nor where the store lies nor how images are cut into shards matters.
    same = run_all(
        make_config(align={"epochs": 1}, run={"shard_size": 5, "seed": 7, "cache_gb": 1.0}),
        paths,
    )
    assert {name: report.key for name, report in same.items()} == {
        name: report.key for name, report in first.items()
    }
    assert all(report.computed == 0 for report in same.values())

    changed = run_all(make_config(masks={"points_per_side": 2}), paths)
    assert [name for name in STAGES if changed[name].key != first[name].key] == ["masks", "label"]
    vocabulary = run_all(make_config(data={"vocabulary": "voc21"}), paths)
    assert [name for name in STAGES if vocabulary[name].key != first[name].key] == [
        "detect",
        "query",
        "label",
    ]
    threads = run_all(make_config(run={"threads": 2}), paths)
    assert all(threads[name].key != first[name].key for name in STAGES)


def test_out_names_no_place_or_time(coco: Path, tmp_path: Path, make_config: MakeConfig) -> None:
    paths = Paths(tmp_path)
    run_all(make_config(), paths)
    for name in STAGES:
        assert verify_published(paths.pseudo / name)
        text = (paths.pseudo / name / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        assert manifest["stage"] == name
        assert manifest["images"] == len(SIZES)
        assert str(tmp_path) not in text
        assert str(coco) not in text
