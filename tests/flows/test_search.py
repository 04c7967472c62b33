"""A search for real: Optuna's study, trainings, scores, MLflow's runs; only the server is small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.search import search
from flows.space import SPACE, dimensions
from fmbseg.config import Config, load_config
from fmbseg.errors import ConfigError
from fmbseg.evaluate.results import read_result
from fmbseg.scenes.files import CLAIM
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, run

optuna = pytest.importorskip("optuna", reason="the extra `search` is not installed")
# All of it: `make install` leaves the extra out, a turn of slow tests has it.
pytestmark = pytest.mark.slow


def test_the_default_space_has_what_params_yaml_has(repository: Path) -> None:
    align = load_config(repository / "params.yaml").align.model_dump()
    for each in dimensions(SPACE):
        assert each.holds(align[each.name.partition(".")[2]]), each


def test_lines_of_a_space() -> None:
    lines = ["align.head=linear|mlp", "align.learning_rate=1e-4..1e-2 log", "align.epochs=2..9"]
    head, rate, epochs = dimensions(lines)
    assert head.choices == ("linear", "mlp") and head.holds("mlp") and not head.holds("round")
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 1e-2, True, False)
    assert epochs.whole and epochs.holds(9) and not epochs.holds(10)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [each.suggest(study.ask()) for each in (head, rate, epochs)]
    assert all(each.holds(value) for each, value in zip((head, rate, epochs), drawn, strict=True))
    assert isinstance(drawn[2], int)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("align.head", "write align.KEY"),
        ("clip.stride=8..16", "other sections are not searched"),
        ("evaluate.short_side=64..128", "other sections are not searched"),
        ("align.epochs=9..2", "low must be below high"),
        ("align.learning_rate=0..1 log", "above 0 where it is log"),
        ("align.epochs=two..9", "could not convert"),
        ("align.head=linear", "two choices"),
        ("align.head=linear|round", "align.head"),
        ("align.rate=1..2", "align.rate: unknown parameter"),
        ("align.purity=0.5..2.0", "align.purity"),
    ],
)
def test_a_line_that_cannot_be_searched_is_one_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        dimensions([line])
    assert "\n" not in str(raised.value)


def test_a_parameter_is_named_once() -> None:
    for space in ([], ["align.epochs=1..2", "align.epochs=2..3"]):
        with pytest.raises(ConfigError, match="none of them twice"):
            dimensions(space)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture
def project(labelled: Paths, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A project with its labels, a head of its own, and a benchmark of each kind."""
    own = make_config().evaluate.benchmarks["coco_stuff"].model_dump()
    scenes = {"root": "data/scenes/VOC2012", "split": "val"}
    config = make_config(
        align={"epochs": 2, "batch_images": 2, "purity": 0.3},
        evaluate={"short_side": 64, "benchmarks": {"voc21": scenes, "coco_stuff": own}},
        tracking={"champion_benchmark": "voc21"},
    )
    _write(config, labelled.root)
    monkeypatch.chdir(labelled.root)
    monkeypatch.setenv("FMBSEG_GPU_LIMIT", "")
    run("features", config, labelled)
    run("align", config, labelled)
    return labelled


def _write(config: Config, root: Path) -> None:
    raw = config.model_dump(mode="json")
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


SMALL = ("align.learning_rate=0.0001..0.1 log", "align.head=linear|mlp|transformer")


def test_a_search_on_development_scenes_goes_on_and_leaves_the_project_as_it_is(
    server: None, project: Paths
) -> None:
    before = {path: path.read_bytes() for path in project.data.rglob("*") if path.is_file()}
    rows = search("head", trials=2, space=SMALL, scenes=2)
    assert isinstance(rows, list) and sorted(row["trial"] for row in rows) == [0, 1]
    # Drawn from seeds that no evaluation has, for the benchmark that is scenes alone.
    (claim,) = project.development.rglob(CLAIM)
    assert json.loads(claim.read_text())["development"] is True
    folder = project.search / "head"
    scored = [read_result(path) for path in sorted(folder.glob("*/*.json"))]
    assert [each["benchmark"] for each in scored] == ["voc21", "voc21"]
    assert {each["images"] for each in scored} == {2}
    best = max(each["miou"] for each in scored)
    assert rows[0]["value"] == round(best, 1)
    # The first trial is params.yaml: the project's own head, not trained again.
    first = (folder / "trial-0" / "head" / "head.safetensors").read_bytes()
    assert first == (project.align / "head.safetensors").read_bytes()
    after = {path: path.read_bytes() for path in project.data.rglob("*") if path.is_file()}
    assert after == before and not project.metrics.exists()

    # Killed while it was at a trial: that one is tried again, and none of the others.
    study = optuna.load_study(
        study_name="head", storage=f"sqlite:///{project.search / 'studies.db'}"
    )
    begun = study.ask()
    asked = {
        "align.learning_rate": begun.suggest_float("align.learning_rate", 1e-4, 0.1, log=True),
        "align.head": begun.suggest_categorical("align.head", ("linear", "mlp", "transformer")),
    }
    rows = search("head", trials=3, space=SMALL, scenes=2)
    assert isinstance(rows, list) and sorted(row["trial"] for row in rows) == [0, 1, 3]
    study = optuna.load_study(
        study_name="head", storage=f"sqlite:///{project.search / 'studies.db'}"
    )
    assert study.trials[3].params == asked
    assert [each.state.name for each in study.trials] == [
        "COMPLETE",
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]

    with get_client(sync_client=True) as client:
        shown = [a for a in client.read_artifacts(limit=50) if a.key == "fmbseg-search-head"]
    newest = json.loads(str(max(shown, key=lambda each: str(each.created)).data))
    assert [row["trial"] for row in newest] == [row["trial"] for row in rows]
    assert set(newest[0]) == {"trial", "value", "learning_rate", "head"}

    # MLflow: a run for the search, a child run a trial with its curve.
    mlflow = MlflowClient(tracking_uri=f"sqlite:///{project.root}/mlflow.db")
    (experiment,) = (e for e in mlflow.search_experiments() if e.name == "fmbseg")
    runs = {r.info.run_name: r for r in mlflow.search_runs([experiment.experiment_id])}
    parent = runs["search-head"]
    for number in (0, 1, 3):
        child = runs[f"trial-{number}"]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert set(child.data.params) == {"align.learning_rate", "align.head"}
        assert child.data.metrics["miou/voc21"] == child.data.metrics["value"]
        assert len(mlflow.get_metric_history(child.info.run_id, "loss")) == 2
    values = [runs[f"trial-{number}"].data.metrics["value"] for number in (0, 1, 3)]
    assert parent.data.metrics["value"] == max(values)

    # Trials of other scenes or of another space are no trials of this study.
    state = search("head", trials=4, space=SMALL, scenes=3, return_state=True)
    assert state.is_failed() and "choose another name" in str(state.message)


def test_where_there_are_no_scenes_heads_are_held_by_their_agreement(
    server: None, project: Paths
) -> None:
    config = load_config(project.root / "params.yaml")
    own = {"coco_stuff": config.evaluate.benchmarks["coco_stuff"]}
    evaluate = config.evaluate.model_copy(update={"benchmarks": own})
    _write(config.model_copy(update={"evaluate": evaluate}), project.root)
    rows = search("real", trials=2, space=SMALL)
    assert isinstance(rows, list)
    assert all(-1 <= float(str(row["value"])) <= 1 for row in rows)
    assert not list(project.search.rglob("coco_stuff.json")), "no truth was asked"


def test_values_that_do_not_train_end_their_trial_and_not_the_search(
    server: None, project: Paths
) -> None:
    # Seven heads of attention do not divide the encoder's width; four do, and are the default.
    rows = search("odd", trials=5, space=["align.attention_heads=4|7"], scenes=2)
    study = optuna.load_study(
        study_name="odd", storage=f"sqlite:///{project.search / 'studies.db'}"
    )
    states = [(each.params["align.attention_heads"], each.state.name) for each in study.trials]
    assert states[0] == ("4", "COMPLETE") and len(states) == 5
    assert {*states} == {("4", "COMPLETE"), ("7", "PRUNED")}
    assert isinstance(rows, list) and {row["attention_heads"] for row in rows} == {"4"}
    state = search(
        "lost", trials=2, space=["align.attention_heads=7|9"], scenes=2, return_state=True
    )
    assert state.is_failed() and "narrow the space" in str(state.message)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"benchmarks": ["coco_stuff"]}, "chosen on development scenes alone"),
        ({"benchmarks": ["voc99"]}, "unknown benchmark 'voc99': choose of coco_stuff, voc21"),
        ({"space": ["clip.stride=8..16"]}, "other sections are not searched"),
    ],
)
def test_a_mistake_fails_the_run_in_one_line(
    server: None, project: Paths, wrong: dict[str, list[str]], said: str
) -> None:
    state = search(**wrong, return_state=True)
    assert state.is_failed()
    assert said in str(state.message) and "\n" not in str(state.message)
    assert not project.search.exists()
