"""`make demo` says how many stages are done of all, and what it runs stays to be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fmbseg.config import load_config
from fmbseg.pipeline.repro import repro
from fmbseg.pipeline.run import stage_names

# What DVC prints of a stage that runs, of one that is up to date, and of one out of its run-cache.
SAYS = """\
Running stage 'scenes':
> fmbseg run scenes
scenes: 5 computed, 0 taken over (key 0123)
Updating lock file 'dvc.lock'

Stage 'detect' didn't change, skipping
Stage 'evaluate@voc21' is cached - skipping run, checking out outputs
Use `dvc push` to send your updates to remote storage.
"""


@pytest.fixture
def _project(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_project")
def test_stages_are_counted_as_their_turn_comes(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert repro(("--force-downstream",), [sys.executable, "-c", f"print({SAYS!r}, end='')"]) == 0
    out, err = capfd.readouterr()
    assert out == SAYS
    every = len(stage_names(load_config(repository / "params.yaml")))
    assert [line.split(",")[0] for line in err.splitlines()] == [
        f"stages: {done}/{every}" for done in (1, 2, 3, 3)
    ]
    assert "ETA" in err.splitlines()[0] and "took" in err.splitlines()[-1]


@pytest.mark.usefixtures("_project")
def test_a_failure_is_handed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        repro((), [sys.executable, "-c", "import sys; print(\"Running stage 'x':\"); sys.exit(3)"])
    assert ended.value.code == 3
    assert "took" not in capfd.readouterr().err
