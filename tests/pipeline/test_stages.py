"""The stage table, what follows from it, and the files that are made from it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from fmbseg.config import Config, load_config, override_config, parse_config
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods import METHODS
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.dvc import LIBRARIES, dvc_yaml, libraries_yaml
from fmbseg.pipeline.run import (
    find_row,
    leading_to,
    makes_the_same,
    open_stage,
    run_stage,
    stage_class,
    stage_names,
)
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.row import Row
from fmbseg.stage.stage import Stage
from fmbseg.store.paths import Paths

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fmbseg"
# What decides where and how fast a result is made, not what it is; `tracking` is where it is told.
WITHOUT_EFFECT = {"run.preset", "run.device", "run.cache_gb", "run.strict", "tracking"}


@pytest.mark.parametrize(
    ("name", "text"), [("dvc.yaml", dvc_yaml()), (LIBRARIES, libraries_yaml())]
)
def test_the_file_on_disk_is_the_generated_one(name: str, text: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == text, "run `make generated`"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_names_a_stage(row: Row) -> None:
    assert issubclass(stage_class(row), Stage)
    assert not getattr(stage_class(row), "__abstractmethods__", None)


def test_dvc_keeps_its_run_cache() -> None:
    assert "persist" not in dvc_yaml().replace("`persist: true`", "")
    stages = yaml.safe_load(dvc_yaml())["stages"]
    assert list(stages) == [name for name, row in ROWS.items() if not row.on_request]


def test_every_input_is_made_before_it_is_read() -> None:
    made: set[str] = set()
    for row in ROWS.values():
        assert {name for name in row.inputs if name in ROWS} <= made
        made.add(row.name)


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
    named = {param for row in ROWS.values() for param in row.depends.params}
    named |= {param for method in METHODS.values() for param in method.depends.params}
    named |= {"evaluate.benchmarks"}
    for section, values in Config().model_dump().items():
        for key in values:
            name = f"{section}.{key}"
            if not {name, section} & WITHOUT_EFFECT:
                assert {name, section} & named, f"no stage depends on {name}"


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_params_and_sources_of_a_row_exist(row: Row) -> None:
    config = Config().model_dump()
    params = row.depends.params
    for name in params:
        section, _, key = name.partition(".")
        assert not key or key.startswith("benchmarks.") or key in config[section], name
    assert len(set(params)) == len(params)
    for source in row.depends.sources:
        assert list(PACKAGE.glob(source)), source


def _reruns(param: str) -> set[str]:
    """Stages that run again when a parameter changes and every out changes with it."""
    section = param.partition(".")[0]
    stale = {r.name for r in ROWS.values() if {param, section} & set(r.depends.params)}
    for row in ROWS.values():
        if stale & set(row.inputs):
            stale.add(row.name)
    return stale


def test_a_change_reruns_what_depends_on_it_and_nothing_else() -> None:
    oracle = {"oracle", "evaluate_oracle"}
    peers = {"bank", "talk2dino"}
    drawn = {"plots", "figures", "report"}
    scored = {"align", "evaluate"} | drawn
    scores = {"evaluate", "baselines", "evaluate_oracle"} | drawn
    assert _reruns("align.head") == scored | oracle
    # A head carries how it is asked; it is not trained anew, see `Training`.
    assert _reruns("evaluate.logit_scale") == scored | oracle | {"baselines"}
    assert _reruns("evaluate.batch_size") == scores
    assert _reruns("label.min_similarity") == {"label", "baselines"} | scored
    # Scores may be refined by masks, those of a head that was trained without any, too.
    voted = {"evaluate_oracle"}
    assert (
        _reruns("masks.points_per_side") == {"masks", "label", "baselines"} | scored | voted | peers
    )
    assert _reruns("evaluate.refine") == scores
    assert _reruns("features.short_side") == {"features"} | oracle | scored | peers
    assert _reruns("run.shard_size") == {"features"} | oracle | scored | peers
    assert _reruns("tracking.uri") == _reruns("run.cache_gb") == set()


BENCHMARKS = {name: {"root": f"data/{name}", "split": "val"} for name in ("voc21", "coco_stuff")}


@pytest.fixture
def config() -> Config:
    return parse_config({"evaluate": {"benchmarks": BENCHMARKS}})


def test_find_row(config: Config) -> None:
    both = ("voc21", "coco_stuff")
    assert find_row("detect", config) == (ROWS["detect"], both)
    assert find_row("evaluate", config) == (ROWS["evaluate"], both)
    assert find_row("baselines@voc21", config) == (ROWS["baselines"], ("voc21",))


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
        run_stage(open_stage(name, config, Paths(), silent_progress()))


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
    each = [row for row in ROWS.values() if row.each_benchmark]
    asked_for = [name for name, row in ROWS.items() if row.on_request]
    assert asked_for == ["bank", "talk2dino"] == stage_names(config, asked_for)
    assert len(stage_names(config)) == len(ROWS) + len(each) - len(asked_for)
    with pytest.raises(ConfigError, match="unknown stage"):
        stage_names(config, ["detekt"])


@pytest.mark.parametrize(
    ("change", "stages", "same"),
    [
        ("run.device=cpu", ["align", "evaluate"], True),
        ("run.cache_gb=9", ["detect"], True),
        ("tracking.enabled=false", ["align"], True),
        ("sam.batch_size=3", ["detect"], True),  # a parameter that the stage does not read
        ("align.head=linear", ["detect", "query", "masks", "label"], True),
        ("align.head=linear", ["evaluate@voc21"], False),
        ("detection.min_similarity=0.3", ["align"], False),  # of a stage before it
        ("evaluate.benchmarks.voc21.limit=3", ["evaluate@voc21"], False),
        ("evaluate.benchmarks.voc21.limit=3", ["align", "evaluate@coco_stuff"], True),
        ("evaluate.benchmarks.voc21.limit=3", ["evaluate"], False),
        ("data.limit=3", ["detect"], False),
    ],
)
def test_a_result_is_another_where_a_parameter_it_depends_on_is(
    config: Config, change: str, stages: list[str], same: bool
) -> None:
    other = override_config(config, [change])
    assert makes_the_same(stages, config, config)
    assert makes_the_same(stages, config, other) is same


def test_a_benchmark_that_the_other_does_not_have_is_another_result(config: Config) -> None:
    root = "evaluate.benchmarks.camvid={root: data/camvid, split: val}"
    more = override_config(config, [root])
    assert not makes_the_same(["evaluate@camvid"], more, config)
    assert makes_the_same(["evaluate@voc21"], more, config)


def test_what_leads_to_a_stage_is_what_it_reads_and_what_that_was_made_from() -> None:
    assert leading_to(["label"]) == ["detect", "query", "masks", "label"]
    head = ["detect", "query", "masks", "label", "features", "align"]
    assert leading_to(["evaluate@voc21", "detect"]) == [*head, "evaluate"]


def test_device_and_cache_are_in_no_key(tmp_path: Path) -> None:
    config = parse_config({"scenes": {"layouts": {"voc2012": {"val": 1}}}})
    other = override_config(config, ["run.device=cpu", "run.cache_gb=9", "tracking.enabled=false"])
    keys = {
        open_stage("scenes", each, Paths(tmp_path), silent_progress()).key
        for each in (config, other)
    }
    assert len(keys) == 1


def test_the_table_and_its_keys_need_no_torch(tmp_path: Path) -> None:
    asks = (
        "import sys; from pathlib import Path; from fmbseg.config import load_config; "
        "from fmbseg.machine.progress import silent_progress; "
        "from fmbseg.pipeline.run import makes_the_same; from fmbseg.pipeline.table import ROWS; "
        "from fmbseg.stage.workplace import Workplace; from fmbseg.store.paths import Paths; "
        f"config = load_config({str(ROOT / 'params.yaml')!r}); "
        "work = Workplace(ROWS, config, Paths(Path(sys.argv[1])), silent_progress()); "
        "assert makes_the_same(['align'], config, config); "
        "assert len(work.out('scenes').key) == 64; "
        "assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", asks, str(tmp_path)], check=True, cwd=ROOT)
