from __future__ import annotations

from pathlib import Path

import pytest
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.ablation import ablation
from flows.full import fmbseg
from flows.parameters import effective_config, is_params_yaml
from fmbseg.config import load_config
from fmbseg.errors import ConfigError
from fmbseg.pipeline.table import ROWS
from fmbseg.presets import PRESETS, preset


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    return tmp_path


def test_no_preset_and_the_present_one_are_params_yaml(project: Path) -> None:
    recorded = load_config(project / "params.yaml")
    assert effective_config(None, (), project) == recorded
    assert effective_config(recorded.run.preset, (), project) == recorded
    assert is_params_yaml(ROWS, recorded, project)


def test_overrides_and_presets_are_not_recorded(project: Path) -> None:
    config = effective_config(None, ["align.head=linear"], project)
    assert config.align.head == "linear"
    assert not is_params_yaml(ROWS, config, project)
    config = effective_config("base", ["clip.stride=32"], project)
    assert (config.run.preset, config.sam.model) == ("base", preset("base")["sam"]["model"])
    assert config.clip.stride == 32
    assert not is_params_yaml(ROWS, config, project)


@pytest.mark.parametrize(
    "override",
    [
        "tracking.enabled=false",
        "run.device=cpu",
        "run.cache_gb=7",
        "align.epochs=3",  # not read before the training
    ],
)
def test_what_a_result_does_not_depend_on_is_recorded(project: Path, override: str) -> None:
    config = effective_config(None, [override], project)
    assert config != load_config(project / "params.yaml")
    assert is_params_yaml(["detect", "label"], config, project)


def test_another_file_of_parameters_is_not_recorded(project: Path) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8")
    (project / "other.yaml").write_text(text.replace("head: transformer", "head: mlp"))
    config = effective_config(None, (), project, Path("other.yaml"))
    assert config.align.head == "mlp"
    assert not is_params_yaml(["align"], config, project)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("huge", (), "unknown preset 'huge': choose one of tiny, base, paper"),
        (None, ["align.head=round"], "align.head"),
        (None, ["align.hed=linear"], "align.hed: unknown parameter"),
    ],
)
def test_mistakes_are_one_line(
    project: Path, name: str | None, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        effective_config(name, overrides, project)
    assert "\n" not in str(raised.value)


def test_the_form_offers_the_stages_and_describes_every_parameter() -> None:
    schema = parameter_schema(fmbseg)
    own = {"stages", "preset", "overrides", "experiment", "record"}
    assert set(schema.properties) == own | {"runner", "workers", "storage"}
    assert schema.properties["stages"]["items"]["enum"] == [*ROWS]
    assert [*PRESETS] in [entry.get("enum") for entry in schema.properties["preset"]["anyOf"]]
    assert all(entry.get("description") for entry in schema.properties.values())


def test_a_name_that_is_none_of_them_is_refused() -> None:
    for flow, wrong in ((fmbseg, {"stages": ["detekt"]}), (ablation, {"study": "lost"})):
        with pytest.raises(ParameterTypeError, match=r"heads\|losses|detect\|query"):
            flow.validate_parameters(wrong)
    assert fmbseg.validate_parameters({"stages": ["detect"], "preset": "tiny"})
