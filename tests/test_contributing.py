"""Every patch of CONTRIBUTING.md applies to the project as it is, and its commands work."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import Project, copy_project

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {
    text.partition("\n")[0]: text for text in re.split(r"(?m)^## ", PAGE)[1:] if "```diff" in text
}


def blocks(section: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTIONS[section], flags=re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Project]:
    """A project in which everything before the training has run."""
    root = tmp_path_factory.mktemp("contributing") / "fmbseg"
    # A patch stands beside the lines of all benchmarks, and its commands name some.
    made = copy_project(repository, root, every_benchmark=True)
    for stage in ("scenes", "detect", "query", "masks", "label", "features"):
        made.run("fmbseg", "run", stage)
    yield made
    shutil.rmtree(root)


def test_every_addition_is_a_patch_with_commands() -> None:
    assert len(SECTIONS) >= 6
    for name in SECTIONS:
        assert len(blocks(name, "diff")) == 1, name
        assert len(blocks(name, "console")) == 1, name


@pytest.mark.parametrize("section", SECTIONS)
def test_an_addition_is_small(section: str) -> None:
    (patch,) = blocks(section, "diff")
    assert len(re.findall(r"(?m)^\+\+\+ ", patch)) <= 3
    lines = [line for line in patch.splitlines() if re.match(r"\+(?!\+\+)\s*\S", line)]
    imports = [line for line in lines if re.match(r"\+(from|import) ", line)]
    assert len(lines) - len(imports) <= 25


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_the_patch_applies_and_its_commands_work(section: str, project: Project) -> None:
    (patch,) = blocks(section, "diff")
    file = project.root / "example.patch"
    file.write_text(patch, encoding="utf-8")
    project.run("git", "apply", "--index", file.name)
    try:
        (console,) = blocks(section, "console")
        for line in console.splitlines():
            project.run(*line.removeprefix("$ ").split())
        project.run("ruff", "check", "--isolated", "--select", "E9,F", "fmbseg")
    finally:
        file.unlink()
        project.run("git", "reset", "--quiet", "--hard")
