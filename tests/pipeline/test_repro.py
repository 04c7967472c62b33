"""`make demo` runs stages beside each other, each after what it reads, and says how far it is."""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from fmbseg.config import Config, load_config
from fmbseg.errors import ConfigError
from fmbseg.pipeline.repro import Repro, in_lanes, main, needs, same_pictures
from fmbseg.pipeline.run import stage_names

# What DVC prints of a stage that runs, and of one that is up to date.
RUNS = """\
Running stage 'scenes':
> fmbseg run scenes
scenes: 5 computed, 0 taken over (key 0123)
Updating lock file 'dvc.lock'

To track the changes with git, run:

\tgit add dvc.lock

To enable auto staging, run:

\tdvc config core.autostage true
Use `dvc push` to send your updates to remote storage.
"""
FRESH = "Stage 'detect' didn't change, skipping\nData and pipelines are up to date.\n"


@pytest.fixture
def config(repository: Path) -> Config:
    return load_config(repository / "params.yaml")


def test_a_stage_waits_for_all_whose_outs_it_reads(config: Config) -> None:
    found = needs(config)
    assert [*found] == stage_names(config)
    order = [*found]
    for name, before in found.items():
        assert all(order.index(other) < order.index(name) for other in before)
    assert found["scenes"] == set()
    assert found["masks"] == {"scenes"} and found["query"] == {"scenes", "detect"}
    assert found["evaluate@voc21"] == {"scenes", "align"}
    benchmarks = config.evaluate.benchmarks
    assert {f"evaluate@{name}" for name in benchmarks} < found["plots"]


def test_what_is_asked_for_is_made_with_all_that_it_reads(config: Config) -> None:
    assert [*needs(config, ["label"])] == ["scenes", "detect", "query", "masks", "label"]
    scored = [*needs(config, ["evaluate@voc21"])]
    assert scored[-1] == "evaluate@voc21" and scored[-2] == "align" and "plots" not in scored
    with pytest.raises(ConfigError, match="fmbseg run bank"):
        needs(config, ["bank"])


def test_the_users_own_pictures_wait_for_no_scenes(config: Config) -> None:
    own = config.model_copy(update={"data": config.data.model_copy(update={"root": "photos"})})
    assert [*needs(own, ["label"])] == ["detect", "query", "masks", "label"]


def test_what_others_wait_for_comes_first(config: Config) -> None:
    begun: list[str] = []

    def work(name: str, before: set[str]) -> int:
        begun.append(name)
        return 0

    assert in_lanes(1, needs(config), work) == 0
    place = begun.index
    assert begun[0] == "scenes" and begun[-1] == "report"
    # The oracle's training waits for no label, and its scores and the figures wait for it.
    assert place("align") < place("oracle") < place("evaluate@voc21") < place("baselines@voc21")
    # One process for all benchmarks takes longer than one for one of them.
    for name in config.evaluate.benchmarks:
        assert place("figures") < place(f"evaluate_oracle@{name}")


def test_stages_that_share_pictures_are_not_beside_each_other() -> None:
    stages = {name: set[str]() for name in ("a@x", "a@y", "a@z", "b")}
    pictures = {"a@x": 1, "a@y": 1, "a@z": 2}
    together = threading.Barrier(2, timeout=20)

    def work(name: str, before: set[str]) -> int:
        begun.append(name)
        together.wait()
        return 0

    begun: list[str] = []
    assert in_lanes(2, stages, work, pictures) == 0
    assert {*begun[:2]} == {"b", "a@x"} and {*begun[2:]} == {"a@y", "a@z"}
    # Where there is nothing else to do, they are.
    begun = []
    assert in_lanes(2, {name: set() for name in ("a@x", "a@y")}, work, pictures) == 0
    assert {*begun} == {"a@x", "a@y"}


def test_benchmarks_of_the_same_pictures_share_encodings(config: Config) -> None:
    found = same_pictures(config, stage_names(config))
    assert found["baselines@voc21"] == found["baselines@voc20"]
    assert found["evaluate@coco_object"] == found["evaluate@coco_stuff"]
    assert found["baselines@voc21"] != found["baselines@ade20k"] != found["evaluate@ade20k"]
    assert "align" not in found


def test_lanes_work_beside_each_other_and_in_order() -> None:
    stages = {"a": set[str](), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}}
    together = threading.Barrier(2, timeout=20)  # breaks if b and c are not at work at once
    ended: list[str] = []

    def work(name: str, before: set[str]) -> int:
        assert before <= set(ended)
        if name in "bc":
            together.wait()
        ended.append(name)
        return 0

    assert in_lanes(2, stages, work) == 0
    assert ended[0] == "a" and ended[-1] == "d" and {*ended} == {*stages}


def test_after_a_failure_nothing_is_begun(capfd: pytest.CaptureFixture[str]) -> None:
    begun: list[str] = []

    def work(name: str, before: set[str]) -> int:
        begun.append(name)
        return 3 if name == "b" else 0

    stages = {"a": set[str](), "b": {"a"}, "c": {"b"}}
    with pytest.raises(SystemExit) as ended:
        in_lanes(1, stages, work)
    assert ended.value.code == 3 and begun == ["a", "b"]
    assert "took" not in capfd.readouterr().err


def said(text: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; print({text!r}, end=''); print(sys.argv[1:])"]


def test_what_dvc_says_is_passed_on_without_its_advice(capfd: pytest.CaptureFixture[str]) -> None:
    stages = {"scenes": set[str](), "detect": {"scenes"}}
    assert in_lanes(2, stages, partial(Repro(said(RUNS)), alone=False)) == 0
    out, err = capfd.readouterr()
    assert out == "".join(
        "".join(RUNS.splitlines(keepends=True)[:4]) + f"['{name}']\n" for name in stages
    )
    lines = err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["stages: 1/2", "stages: 2/2", "stages: 2/2"]
    assert "ETA" in lines[0] and "took" in lines[-1]


def test_what_reads_a_stage_that_ran_is_forced_and_no_other(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for text, force in ((RUNS, "['--force', 'detect']"), (FRESH, "['detect']")):
        repro = Repro(said(text), force_downstream=True)
        repro("scenes", set(), alone=True)
        repro("detect", {"scenes"}, alone=True)
        assert capfd.readouterr().out.splitlines()[-1] == force


def test_a_mistake_is_one_line(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["labels"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("fmbseg: unknown stage 'labels'")
