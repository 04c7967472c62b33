"""Names out of params.yaml that reach a shell through DVC."""

from __future__ import annotations

from pathlib import Path

import pytest

from fmbseg.pipeline.dvc import dvc_yaml
from tests.project import copy_project


def test_no_command_holds_a_parameter() -> None:
    commands = [line for line in dvc_yaml().splitlines() if line.strip().startswith("cmd:")]
    assert commands
    assert not any("${" in command.replace(r"\${DVC_STAGE", "") for command in commands)


@pytest.mark.slow
def test_a_benchmarks_name_is_no_command(tmp_path: Path, repository: Path) -> None:
    project = copy_project(repository, tmp_path / "fmbseg")
    hostile = ("voc21; touch PWNED #", "$(touch PWNED)", "`touch PWNED`", "a' ; touch PWNED ; '")
    for name in hostile:
        # Its folder is there: DVC comes as far as the command.
        entry = f'    "{name}": {{root: fmbseg/view, split: val}}'
        project.set(r"(?m)^    (voc21|\".*\"): \{root.*$", entry)
        done = project.try_run("dvc", "repro", "--single-item", f"baselines@{name}")
        assert not list(project.root.rglob("PWNED")), name
        assert done.returncode != 0
        assert "should match pattern" in done.stdout + done.stderr, name


@pytest.mark.slow
def test_a_stage_knows_its_benchmark_in_a_sub_folder_too(tmp_path: Path, repository: Path) -> None:
    project = copy_project(repository, tmp_path / "fmbseg")
    project.run("dvc", "repro", "scenes")
    (project.root / "sub").mkdir()
    done = project.try_run("sh", "-c", "cd sub && dvc repro -s ../dvc.yaml:baselines@coco_stuff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.metrics("maskclip", "coco_stuff")["benchmark"] == "coco_stuff"
