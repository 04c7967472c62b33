from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from fmbseg.align import features as feature_stage
from fmbseg.align import stages as training_stages
from fmbseg.config import Config, load_config, parse_config
from fmbseg.errors import ConfigError
from fmbseg.evaluate.keys import SOURCES as SCORING_SOURCES
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import find_stage, run_stage, stage_names
from fmbseg.pipeline.table import STAGES, Stage
from fmbseg.pseudo.plan import STAGES as STAGE_1
from fmbseg.store.paths import Paths

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fmbseg"
# What decides where and how fast a result is made, not what it is; `tracking` is where it is told.
WITHOUT_EFFECT = {"run.preset", "run.device", "run.cache_gb", "tracking"}


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return raw


def _paths(entries: list[str | dict[str, Any]]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_dvc_has_the_same_stage(stage: Stage, pipeline: Mapping[str, Any]) -> None:
    entry = pipeline["stages"][stage.name]
    assert ("foreach" in entry) == stage.each_benchmark
    if stage.each_benchmark:
        assert entry["foreach"] == "${evaluate.benchmarks}"
        entry = entry["do"]
    benchmark = "@${key}" if stage.each_benchmark else ""
    assert entry["cmd"] == f"fmbseg run {stage.name}{benchmark}"
    assert entry["desc"] == stage.summary
    assert entry["deps"] == [*stage.inputs, *(f"fmbseg/{source}" for source in stage.sources)]
    assert entry["params"] == [*stage.params]
    outs = _paths(entry.get("outs", [])) + _paths(entry.get("metrics", []))
    assert outs == [*stage.outputs]


def test_dvc_has_no_other_stage_and_no_persistent_out(pipeline: Mapping[str, Any]) -> None:
    assert list(pipeline["stages"]) == list(STAGES)
    # It would switch DVC's run-cache off.
    assert "persist" not in (ROOT / "dvc.yaml").read_text().replace("`persist: true`", "")


def test_params_file_is_valid_and_names_every_parameter() -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    config = load_config(ROOT / "params.yaml")

    def missing(model: Mapping[str, Any], given: Mapping[str, Any], name: str) -> list[str]:
        gone = []
        for key, value in model.items():
            if key not in given:
                gone.append(f"{name}{key}")
            elif isinstance(value, Mapping) and key not in ("layouts", "benchmarks"):
                gone += missing(value, given[key], f"{name}{key}.")
        return gone

    assert missing(config.model_dump(), raw, "") == []


def test_params_file_lists_every_parameter() -> None:
    # Values differ: those of params.yaml were chosen for the tiny models on development scenes.
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in Config().model_dump().items():
        assert set(raw[section]) == set(values), section


def test_every_parameter_with_an_effect_belongs_to_a_stage() -> None:
    named = {param for stage in STAGES.values() for param in stage.params}
    named |= {"evaluate.benchmarks"}
    for section, values in Config().model_dump().items():
        for key in values:
            name = f"{section}.{key}"
            if not {name, section} & WITHOUT_EFFECT:
                assert {name, section} & named, f"no stage depends on {name}"


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_params_and_sources_of_a_stage_exist(stage: Stage) -> None:
    config = Config().model_dump()
    for name in stage.params:
        section, _, key = name.partition(".")
        assert not key or key.startswith("benchmarks.") or key in config[section], name
    assert len(set(stage.params)) == len(stage.params)
    for source in stage.sources:
        assert (PACKAGE / source).exists(), source


@pytest.mark.parametrize("name", STAGE_1)
def test_dvc_reruns_stage_1_whenever_its_content_key_changes(name: str) -> None:
    record, stage = STAGE_1[name], STAGES[name]
    covered = [PACKAGE / source for source in stage.sources]
    for source in record.sources:
        assert any(source == place or place in source.parents for place in covered), source
    assert set(record.sections) <= set(stage.params)


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("features", {*feature_stage._SOURCES}),
        ("align", {*training_stages._SOURCES}),
        ("oracle", {*training_stages._SOURCES, *SCORING_SOURCES["oracle"]}),
        ("evaluate", {*SCORING_SOURCES["fmbseg"]}),
        ("baselines", {*SCORING_SOURCES["maskclip"], *SCORING_SOURCES["pseudo"]}),
    ],
)
def test_dvc_reruns_stage_2_and_scoring_whenever_a_source_of_their_keys_changes(
    name: str, sources: set[Path]
) -> None:
    covered = [PACKAGE / source for source in STAGES[name].sources]
    for source in sources:
        assert any(source == place or place in source.parents for place in covered), source


def _reruns(param: str) -> set[str]:
    """Stages that run again when a parameter changes and every out changes with it."""
    section = param.partition(".")[0]
    stale = {s.name for s in STAGES.values() if {param, section} & set(s.params)}
    while True:
        outs = {out for name in stale for out in STAGES[name].outputs}
        more = {s.name for s in STAGES.values() if _reads(s, outs)} | stale
        if more == stale:
            return stale
        stale = more


def _reads(stage: Stage, outs: set[str]) -> bool:
    return any(out == it or out.startswith(f"{it}/") for it in stage.inputs for out in outs)


def test_a_change_reruns_what_depends_on_it_and_nothing_else() -> None:
    assert _reruns("align.head") == {"align", "evaluate", "oracle", "plots"}
    assert _reruns("evaluate.logit_scale") == {"evaluate", "baselines", "oracle", "plots"}
    scored = {"align", "evaluate", "plots"}
    assert _reruns("label.min_similarity") == {"label", "baselines"} | scored
    assert _reruns("masks.points_per_side") == {"masks", "label", "baselines"} | scored
    assert _reruns("features.short_side") == {"features", "oracle"} | scored
    assert _reruns("run.shard_size") == {"features", "align", "oracle", "evaluate", "plots"}
    assert _reruns("tracking.uri") == _reruns("run.cache_gb") == set()


BENCHMARKS = {name: {"root": f"data/{name}", "split": "val"} for name in ("voc21", "coco_stuff")}


@pytest.fixture
def config() -> Config:
    return parse_config({"evaluate": {"benchmarks": BENCHMARKS}})


def test_find_stage(config: Config) -> None:
    assert find_stage("detect", config)[0] is STAGES["detect"]
    assert find_stage("evaluate", config) == (STAGES["evaluate"], ("voc21", "coco_stuff"))
    assert find_stage("baselines@voc21", config) == (STAGES["baselines"], ("voc21",))
    assert find_stage("oracle", config) == (STAGES["oracle"], ("voc21", "coco_stuff"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segment", "unknown stage 'segment': use one of scenes, detect"),
        ("evaluate@pascal", "unknown benchmark 'pascal': evaluate.benchmarks .* voc21, coco_stuff"),
        ("detect@voc21", "not run by benchmark"),
    ],
)
def test_stages_that_do_not_exist(config: Config, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage(name, config, Paths(), silent_progress())


def test_stage_names_are_those_of_dvc_in_the_order_of_the_pipeline() -> None:
    config = parse_config(
        {"evaluate": {"benchmarks": {n: {"root": "x", "split": "val"} for n in ("voc21", "voc20")}}}
    )
    assert stage_names(config, ["evaluate", "detect", "baselines@voc20"]) == [
        "detect",
        "evaluate@voc21",
        "evaluate@voc20",
        "baselines@voc20",
    ]
    assert len(stage_names(config)) == len(STAGES) + 2
    with pytest.raises(ConfigError, match="unknown stage"):
        stage_names(config, ["detekt"])
