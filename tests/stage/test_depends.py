"""The content key: what changes it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fmbseg.config import Config, parse_config
from fmbseg.stage import depends as depends_module
from fmbseg.stage.depends import Depends, content_key, flat_params, source_digests

DEPENDS = Depends(("clip", "data", "run.threads"), ("detection.py", "code"), ("torch",))


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three files, and no memory of what was read of it."""
    monkeypatch.setattr(depends_module, "PACKAGE", tmp_path)
    (tmp_path / "code" / "deep").mkdir(parents=True)
    for name in ("detection.py", "code/a.py", "code/deep/b.py"):
        (tmp_path / name).write_text("x = 1\n")
    source_digests.cache_clear()
    yield tmp_path
    source_digests.cache_clear()


def key(
    depends: Depends = DEPENDS, name: str = "detect", images: str = "aa", **sections: Any
) -> str:
    source_digests.cache_clear()
    return content_key(name, depends, parse_config(sections), {"images": images})


def test_the_same_gives_the_same() -> None:
    assert key() == key()


@pytest.mark.parametrize(
    "sections",
    [
        {"clip": {"stride": 16}},
        {"clip": {"templates": "imagenet80"}},
        {"run": {"threads": 1}},
    ],
)
def test_parameters_it_depends_on_change_it(sections: dict[str, Any]) -> None:
    assert key(**sections) != key()


@pytest.mark.parametrize(
    "sections",
    [
        {"run": {"device": "cpu", "cache_gb": 7.0, "seed": 3, "shard_size": 2}},
        {"sam": {"batch_size": 2}},
        {"tracking": {"enabled": False}},
        # Where data lie; what lies there is an input.
        {"data": {"root": "elsewhere", "split": "val2017"}},
    ],
)
def test_other_parameters_do_not(sections: dict[str, Any]) -> None:
    assert key(**sections) == key()


def test_name_and_inputs_change_it() -> None:
    assert len({key(), key(name="query"), key(images="bb")}) == 3


@pytest.mark.parametrize("file", ["detection.py", "code/a.py", "code/deep/b.py"])
def test_source_code_changes_it(package: Path, file: str) -> None:
    before = key()
    (package / file).write_text("x = 2\n")
    assert key() != before


def test_a_folder_stands_for_code_and_records_and_not_for_data(package: Path) -> None:
    before = key()
    for name in ("notes.md", "words.yaml", "weights.safetensors"):
        (package / "code" / name).write_text("not code")
    assert key() == before
    (package / "code" / "architecture.json").write_text("{}")
    assert key() != before


def test_patterns_name_data_that_count(package: Path) -> None:
    with_words = Depends(sources=("code/*.yaml",))
    (package / "code" / "words.yaml").write_text("a")
    before = key(with_words)
    (package / "code" / "words.yaml").write_text("b")
    assert key(with_words) != before


@pytest.mark.parametrize(
    "library",
    [
        "numpy",
        "open_clip_torch",
        "opencv-python-headless",
        "pillow",
        "segment-anything",
        "timm",
        "torch",
        "torchvision",
    ],
)
def test_versions_of_libraries_change_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Depends(libraries=(library,))
    before = key(needs)
    assert key(Depends()) != before
    monkeypatch.setattr(depends_module, "_version", lambda name: "0.0.1")
    assert key(needs) != before


def test_a_build_for_another_device_is_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    depends_module._version.cache_clear()
    monkeypatch.setattr(depends_module, "version", lambda name: "2.14.1+cpu")
    assert depends_module.library_versions(["torch"]) == {"torch": "2.14.1"}
    depends_module._version.cache_clear()


def test_weights_of_a_named_model_stand_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter(["one", "two"])
    monkeypatch.setattr(depends_module, "model_digest", lambda name: next(digests))
    assert key() != key()


def test_both_together_name_each_entry_once() -> None:
    both = Depends(("a", "b"), ("x",), ("torch",)) + Depends(("b", "c"), ("x", "y"))
    assert both == Depends(("a", "b", "c"), ("x", "y"), ("torch",))


def test_parameters_by_name_and_by_section() -> None:
    config = Config()
    flat = flat_params(config, ["query", "run.seed"])
    assert flat == {"query.points": 5, "run.seed": 0}
