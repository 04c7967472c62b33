"""Studies in a workspace of their own: what is kept, taken over, and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from fmbseg.config import Config
from fmbseg.errors import ConfigError, StoreError
from fmbseg.evaluate.published import TABLE_1 as PUBLISHED
from fmbseg.evaluate.report import markdown
from fmbseg.evaluate.results import read_result
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import workplace
from fmbseg.report.ablations import ablations
from fmbseg.store.paths import Paths
from fmbseg.studies import page, running
from fmbseg.studies.declared import STUDIES
from fmbseg.studies.page import PAGE, write_page
from fmbseg.studies.running import Plan, plan, run_trials
from fmbseg.studies.table_1 import table_1
from fmbseg.studies.trials import TABLE_1, Recipes, Trial, require_stage_1, trials
from tests.workspace import MakeConfig, run

BENCHMARK = "coco_stuff"


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config(align={"epochs": 1, "batch_images": 2, "purity": 0.1})


def recipes(paths: Paths) -> Recipes:
    return Recipes(paths, silent_progress())


def planned(config: Config, paths: Paths, *studies: str, seeds: tuple[int, ...] = (0,)) -> Plan:
    return plan(trials(config, paths, studies, seeds, [BENCHMARK]), recipes(paths))


def work(config: Config, paths: Paths, *studies: str, seeds: tuple[int, ...] = (0,)) -> list[Trial]:
    """Run what is missing; the trials that ran."""
    done: list[Trial] = []
    todo = planned(config, paths, *studies, seeds=seeds)
    run_trials(todo, recipes(paths), silent_progress(), done.append)
    return done


def content(root: Path) -> dict[str, bytes]:
    files = [*root.glob("data/**/*"), *root.glob("metrics/fmbseg/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


def test_every_change_of_a_study_is_a_parameter_and_no_two_variants_are_alike(
    config: Config, tmp_path: Path
) -> None:
    for name, study in STUDIES.items():
        found = trials(config, Paths(tmp_path), [name], [0], [BENCHMARK])
        assert [trial.variant for trial in found] == [*study.variants]
        assert len({trial.config.model_dump_json() for trial in found}) == len(found)
        assert all(re.fullmatch(r"[\w.+ -]+", each) for each in study.variants)
    with pytest.raises(ConfigError, match="voc12"):
        trials(config, Paths(tmp_path), ["heads"], [0], ["voc12"])
    elsewhere = config.model_copy(
        update={"data": config.data.model_copy(update={"labels": "maps"})}
    )
    with pytest.raises(ConfigError, match=r"dense changes stage 1.*data\.labels=null"):
        require_stage_1(elsewhere, ["heads", "dense"])
    require_stage_1(elsewhere, ["heads", "noise"])


def test_a_study_goes_on_after_a_kill_and_leaves_the_project_as_it_was(
    config: Config, labelled: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("features", "align", "evaluate"):
        run(stage, config, labelled)
    before = content(labelled.root)
    assert len(planned(config, labelled, "heads").missing) == 3

    ran: list[str] = []
    real = running._run

    def dies(name: str, trial: Trial, *rest: Any) -> None:
        ran.append(f"{trial.variant} {name}")
        if (trial.variant, name) == ("mlp", f"evaluate@{BENCHMARK}"):
            raise KeyboardInterrupt
        real(name, trial, *rest)

    monkeypatch.setattr(running, "_run", dies)
    with pytest.raises(KeyboardInterrupt):
        work(config, labelled, "heads")
    assert "mlp align" in ran
    monkeypatch.setattr(running, "_run", real)
    # What was done is kept, the trained head of the killed one too.
    assert [trial.variant for trial, _ in planned(config, labelled, "heads").missing] == [
        "mlp",
        "linear",
    ]
    trainings = len([*labelled.training.glob("*/000000")])
    assert [trial.variant for trial in work(config, labelled, "heads")] == ["mlp", "linear"]
    assert len([*labelled.training.glob("*/000000")]) == trainings + 1
    assert work(config, labelled, "heads") == []
    assert content(labelled.root) == before
    assert not labelled.study_workspace.exists()

    # The same numbers as the stages have, for the variant that params.yaml is.
    own = read_result(labelled.metrics / "fmbseg" / f"{BENCHMARK}.json")
    kept = read_result(labelled.ablations / "heads" / "transformer" / "0" / f"{BENCHMARK}.json")
    assert {name: kept[name] for name in own} == own
    # A variant of another study that is the same training is taken over without one.
    monkeypatch.setattr(running, "_train", lambda *_: pytest.fail("it was trained again"))
    found = trials(config, labelled, ["heads", "noise"], [0], [BENCHMARK])
    todo = plan([t for t in found if t.study == "heads" or t.variant == "0"], recipes(labelled))
    assert len(todo.missing) == 1 and todo.seconds == 0
    run_trials(todo, recipes(labelled), silent_progress(), lambda _: None)
    twin = read_result(labelled.ablations / "noise" / "0" / "0" / f"{BENCHMARK}.json")
    assert twin == kept


def test_a_result_of_another_configuration_or_a_damaged_one_is_made_again(
    config: Config, labelled: Paths
) -> None:
    work(config, labelled, "noise")
    assert planned(config, labelled, "noise").missing == []
    changed = config.model_copy(
        update={"align": config.align.model_copy(update={"temperature": 0.3})}
    )
    assert len(planned(changed, labelled, "noise").missing) == 4
    damaged = labelled.ablations / "noise" / "20" / "0" / f"{BENCHMARK}.json"
    damaged.write_text(damaged.read_text().replace('"images": 5', '"images": 6'))
    assert [t.variant for t, _ in planned(config, labelled, "noise").missing] == ["20"]

    files = write_page(
        config, labelled, recipes(labelled), labelled.ablations, ["fmbseg", "ablate"]
    )
    assert {file.name for file in files} == {PAGE, "noise.png"}
    text = (labelled.ablations / PAGE).read_text()
    assert "    fmbseg ablate\n" in text
    result = read_result(labelled.ablations / "noise" / "40" / "0" / f"{BENCHMARK}.json")
    assert f"| 40 | {result['miou']:.1f} | 1 |" in text
    assert not any(line.startswith("| 20 |") for line in text.splitlines())  # the damaged one
    ((title, table),) = ablations(workplace(config, labelled, silent_progress()))
    assert title.startswith("noise: ") and [row[0] for row in table.rows] == ["0", "40", "60"]
    assert ablations(workplace(changed, labelled, silent_progress())) == ()


def test_names_that_were_not_trained_with_have_columns_of_their_own() -> None:
    results: list[dict[str, Any]] = [
        {"miou": 40.0, "names": {"seen": 50.0, "unseen": 10.0, "harmonic": 16.67}},
        {"miou": 42.0, "names": {"seen": 52.0, "unseen": None, "harmonic": None}},
    ]
    row = page._row("25", {"voc21": results}, ["voc21"], names=True)
    assert row == ("25", "41.0 ± 1.4", "51.0 ± 1.4", "10.0", "16.7", "2")


def test_table_1_is_the_mean_of_the_seeds_beside_what_is_published(
    config: Config, labelled: Paths
) -> None:
    run("baselines", config, labelled)
    ran = work(config, labelled, TABLE_1, seeds=(0, 1, 3))
    assert [trial.seed for trial in ran] == [0, 1, 3]
    report = table_1(config, labelled, recipes(labelled), (0, 1, 3))
    values = [
        json.loads((labelled.table_1 / str(seed) / f"{BENCHMARK}.json").read_text())["miou"]
        for seed in (0, 1, 3)
    ]
    own, *others = report.rows
    assert own.method == "fmbseg" and "3 seeds" in own.source
    assert own.miou == {BENCHMARK: f"{fmean(values):.2f} ± {stdev(values):.2f}"}
    assert [row.method for row in others[:2]] == ["maskclip", "pseudo"]
    assert tuple(others[2:]) == PUBLISHED
    assert own.miou[BENCHMARK] in markdown(report)
    # Two of them alone, and one.
    (one, *_) = table_1(config, labelled, recipes(labelled), (3,)).rows
    assert one.miou == {BENCHMARK: f"{values[2]:.2f}"}


def test_without_shards_the_projects_own_outs_are_taken(config: Config, labelled: Paths) -> None:
    import shutil

    shutil.rmtree(labelled.work)
    work(config, labelled, TABLE_1)
    made = {path.parent.name for path in labelled.shards.glob("*/*")}
    assert "detect" not in made and "masks" not in made and "label" not in made


def test_one_at_a_time(config: Config, labelled: Paths) -> None:
    with running._alone(labelled), pytest.raises(StoreError, match="wait until it has ended"):
        work(config, labelled, TABLE_1)
