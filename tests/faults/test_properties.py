"""Parsers and codecs on texts and masks that nobody has thought of: right, or one named error.

25 examples each, the same every time; `FMBSEG_EXAMPLES=2000` draws so many anew.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco

from fmbseg.config import Config, load_config, override_config
from fmbseg.corrections import READERS
from fmbseg.corrections.coco import _mask, decode_runs
from fmbseg.corrections.target import Target
from fmbseg.data.class_list import class_lines
from fmbseg.data.corrections import read_corrections
from fmbseg.data.images import read_values
from fmbseg.data.vocabulary import load_vocabulary, vocabulary_from_names
from fmbseg.data.vocabulary.grammar import parse_entries
from fmbseg.documents import parse_json, parse_yaml
from fmbseg.errors import ConfigError, DataError, FmbsegError
from fmbseg.evaluate.results import read_result, write_result
from fmbseg.export.brush import decode_brush, encode_brush
from fmbseg.export.polygons import polygon
from fmbseg.export.regions import regions
from fmbseg.export.source import NOTHING, Classes
from fmbseg.pseudo.tables import decode_mask, encode_masks
from fmbseg.store.atomic import read_listing, seal
from tests.export.labels import hard_source
from tests.faults.hostile_records import coco_record

EXAMPLES = os.environ.get("FMBSEG_EXAMPLES")
settings.register_profile(
    "fmbseg",
    max_examples=int(EXAMPLES or 25),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fmbseg")

WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
NUMBERS = st.one_of(st.integers(), st.floats(), st.just(2**64), st.just(10**30))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)
SECTIONS = st.sampled_from(sorted(Config.model_fields))
KEYS = st.one_of(
    WORDS,
    st.sampled_from(
        [f"{name}.{key}" for name, section in Config() for key in type(section).model_fields]
    ),
)
MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
LABELS = arrays.arrays(
    np.uint16,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=24),
    elements=st.integers(0, 65535),
)


def refused(work: Callable[[], Any]) -> bool:
    """Whether work ends in a named error of one line; any other error is the test's."""
    try:
        work()
    except FmbsegError as error:
        assert "\n" not in str(error) and str(error)
        return True
    return False


# Texts.


@given(st.one_of(PLAIN.map(yaml.safe_dump), WORDS, st.binary(max_size=80).map(repr)))
def test_yaml_is_read_or_refused(text: str) -> None:
    refused(lambda: parse_yaml(text, "text", ConfigError))


@given(PLAIN)
def test_json_comes_back_or_is_refused(value: Any) -> None:
    text = json.dumps(value)
    if not refused(lambda: parse_json(text, "text", DataError)):
        assert parse_json(text, "text", DataError) == value
    refused(lambda: parse_json(text[: len(text) // 2], "text", DataError))


@given(SECTIONS, PLAIN)
def test_params_are_read_or_refused(tmp_path_factory: Any, section: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump({section: value}), encoding="utf-8")
    if not refused(lambda: load_config(path)):
        config = load_config(path)
        # What was taken can be written down and says the same.
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
        assert load_config(path) == config


@given(KEYS, st.one_of(WORDS, NUMBERS.map(str), PLAIN.map(json.dumps)))
def test_set_is_taken_or_refused(key: str, value: str) -> None:
    def work() -> None:
        config = override_config(Config(), [f"{key}={value}"])
        assert override_config(config, []) == config

    refused(work)


@given(st.lists(WORDS, max_size=6))
def test_class_names_are_read_or_refused(names: list[str]) -> None:
    refused(lambda: parse_entries(names))
    if not refused(lambda: vocabulary_from_names(names)):
        words = vocabulary_from_names(names)
        assert len(set(words.names)) == len(words.names) > 0
        assert all(name == name.strip() and name for name in words.names)


PLAIN_WORDS = st.from_regex(r"[a-z]{1,8}( [a-z]{1,8})?", fullmatch=True)


@given(
    st.lists(
        st.tuples(
            st.lists(PLAIN_WORDS, min_size=1, max_size=3, unique=True),
            st.none() | st.floats(-1, 1).map(lambda x: round(x, 3)),
        ),
        min_size=2,
        max_size=5,
        unique_by=lambda entry: entry[0][0],
    ),
    st.lists(PLAIN_WORDS, max_size=2),
)
def test_the_grammar_says_what_was_written(
    classes: list[tuple[list[str], float | None]], negatives: list[str]
) -> None:
    texts = ["|".join(words) + ("" if least is None else f">{least}") for words, least in classes]
    found = parse_entries([*texts, *(f"-{word}" for word in negatives)])
    assert [[each.name, *each.synonyms] for each in found.classes] == [each[0] for each in classes]
    assert [each.threshold for each in found.classes] == [each[1] for each in classes]
    assert list(found.negatives) == negatives


@given(
    st.one_of(
        st.binary(max_size=200), WORDS.map(str.encode), WORDS.map(lambda t: t.encode("utf-16"))
    )
)
def test_class_lists_are_read_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("lists")
    for name in ("a.txt", "a.yaml"):
        (folder / name).write_bytes(data)
        refused(lambda name=name: load_vocabulary(folder / name))  # type: ignore[misc]
    refused(lambda: list(class_lines(folder / "a.txt", plain=True)))


@given(PLAIN)
def test_records_are_read_or_refused(tmp_path_factory: Any, value: Any) -> None:
    folder = tmp_path_factory.mktemp("records")
    text = json.dumps(value)
    (folder / "corrections.json").write_text(text)
    (folder / "result.json").write_text(text)
    (folder / "manifest.json").write_text(text)
    refused(lambda: read_corrections(folder))
    refused(lambda: read_result(folder / "result.json"))
    assert read_listing(folder, "manifest.json") is None or isinstance(value, dict)


# Files of other tools.


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(hard_source(tmp_path_factory.mktemp("target"))[0])


POINTS = st.lists(st.one_of(st.floats(-100, 200), NUMBERS), max_size=12)
RUNS = st.fixed_dictionaries(
    {
        "size": st.one_of(st.just([25, 31]), st.lists(NUMBERS, max_size=3)),
        "counts": st.one_of(WORDS, st.lists(NUMBERS, max_size=6), st.lists(st.integers(0, 775))),
    }
)
SEGMENTATIONS = st.one_of(st.lists(POINTS, max_size=3), RUNS, PLAIN)


@given(SEGMENTATIONS)
def test_coco_is_read_or_refused(tmp_path_factory: Any, target: Target, found: Any) -> None:
    path = tmp_path_factory.mktemp("coco") / "a.json"
    record = coco_record(found)
    record["images"][0] |= {"file_name": "whole.PNG", "width": 31, "height": 25}
    record["categories"][0]["name"] = "dog"
    path.write_text(json.dumps(record))
    refused(lambda: list(READERS["coco"](path, target)))
    for part in record:
        path.write_text(json.dumps(record | {part: found}))
        refused(lambda: list(READERS["coco"](path, target)))


@given(st.one_of(st.lists(st.integers(-5, 300), max_size=80), PLAIN), PLAIN)
def test_label_studio_is_read_or_refused(
    tmp_path_factory: Any, target: Target, rle: Any, other: Any
) -> None:
    path = tmp_path_factory.mktemp("studio") / "a.json"
    sizes = {"original_width": 31, "original_height": 25}
    region = {"type": "brushlabels", **sizes, "value": {"rle": rle, "brushlabels": ["dog"]}}
    for result in (
        [region],
        [region | {"value": other}],
        [region | {"original_width": other}],
        other,
    ):
        task = {"data": {"image_id": "whole"}, "annotations": [{"id": 1, "result": result}]}
        for tasks in ([task], [task | {"data": other}], [task | {"annotations": other}], other):
            path.write_text(json.dumps(tasks))
            refused(lambda: list(READERS["label-studio"](path, target)))


@given(st.one_of(WORDS, st.binary(max_size=60)), st.binary(max_size=100))
def test_cvat_is_read_or_refused(
    tmp_path_factory: Any, target: Target, label: str | bytes, picture: bytes
) -> None:
    path = tmp_path_factory.mktemp("cvat") / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelmap.txt", label)
        archive.writestr("SegmentationClass/whole.png", picture)
    refused(lambda: list(READERS["cvat"](path, target)))
    path.write_bytes(path.read_bytes()[: 20 + len(picture)])
    refused(lambda: list(READERS["cvat"](path, target)))


# Codecs.


@given(MASKS)
def test_run_lengths_come_back(mask: npt.NDArray[np.bool_]) -> None:
    (code,) = encode_masks(mask[None])
    height, width = mask.shape
    row = {"rle": code, "height": height, "width": width}
    assert (decode_mask(row) == mask).all()


@given(MASKS)
def test_run_lengths_of_coco_are_read_as_pycocotools_does(mask: npt.NDArray[np.bool_]) -> None:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    packed = {"size": list(mask.shape), "counts": code["counts"].decode()}
    assert (_mask(packed, mask.shape) == mask).all()
    flat = mask.T.reshape(-1)
    starts = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    counts = np.diff(np.concatenate([[0], starts])).tolist()
    assert (decode_runs(counts, mask.shape) == mask).all()


@given(MASKS)
def test_brush_masks_come_back(mask: npt.NDArray[np.bool_]) -> None:
    code = encode_brush(mask)
    assert (decode_brush(code, mask.shape) == mask).all()  # type: ignore[arg-type]
    for cut in (0, len(code) // 2, len(code) - 1):
        assert cut == len(code) or refused(lambda cut=cut: decode_brush(code[:cut], mask.shape))  # type: ignore[misc,arg-type]


@given(arrays.arrays(np.uint8, (20, 28), elements=st.integers(0, 2)))
def test_regions_partition_what_is_labelled(label: npt.NDArray[np.uint8]) -> None:
    values = np.where(label == 2, NOTHING, label.astype(np.int32))
    again = np.full(values.shape, NOTHING, dtype=np.int32)
    total = 0
    for region in regions(values, Classes(("dog", "sky"))):
        mask = region.mask(values.shape)  # type: ignore[arg-type]
        again[mask] = region.class_index
        total += int(mask.sum())
        assert len(polygon(region)) >= 3
    assert (again == values).all() and total == (values != NOTHING).sum()


@given(LABELS, st.booleans())
def test_label_maps_come_back(
    tmp_path_factory: Any, values: npt.NDArray[np.uint16], deep: bool
) -> None:
    path: Path = tmp_path_factory.mktemp("maps") / "a.png"
    if not deep:
        values = values % 256
    Image.fromarray(values if deep else values.astype(np.uint8)).save(path)
    assert (read_values(path, 65535) == values).all()
    assert refused(lambda: read_values(path, 255)) == (int(values.max()) > 255)


@given(st.dictionaries(WORDS.filter(lambda key: key not in ("files", "digest")), PLAIN, max_size=4))
def test_a_manifest_says_what_was_sealed(tmp_path_factory: Any, header: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "a").write_text("a")
    try:
        seal(folder, "manifest.json", header)
    except ValueError:  # NaN and the like, which JSON has no form for
        return
    found = read_listing(folder, "manifest.json")
    assert found is not None and found.items() >= header.items()


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(WORDS, st.none() | st.floats(0, 100)),
)
def test_results_come_back(tmp_path_factory: Any, miou: float, by_class: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("results") / "a.json"
    result = {"benchmark": "b", "method": "m", "miou": miou, "per_class_iou": by_class, "key": "k"}
    write_result(result, path)
    assert read_result(path) == result
