from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid

from flows.deployments import prefect_files
from fmbseg.pipeline.table import ROWS
from fmbseg.studies.declared import STUDIES

FILES = prefect_files()


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_those_that_the_table_makes(repository: Path, name: str) -> None:
    made = (repository / name).read_text(encoding="utf-8")
    assert made == FILES[name], "run `make generated`"


def test_each_stage_is_in_one_part_and_each_study_is_deployed() -> None:
    deployments = yaml.safe_load(FILES["prefect.yaml"])["deployments"]
    parts = [one["parameters"].get("stages", []) for one in deployments]
    asked = [row.name for row in ROWS.values() if not row.on_request]
    assert sorted(name for part in parts for name in part) == sorted(asked)
    labels, train = ({"scenes", "detect", "query", "masks", "label"}, {"features", "align"})
    assert labels in map(set, parts) and train in map(set, parts)
    studies = [one["parameters"].get("study") for one in deployments]
    assert [study for study in studies if study] == [*STUDIES]


@pytest.mark.parametrize("name", FILES)
def test_their_flows_exist_and_take_their_parameters(name: str) -> None:
    for one in yaml.safe_load(FILES[name])["deployments"]:
        path, _, function = one["entrypoint"].partition(":")
        found = getattr(import_module(path.removesuffix(".py").replace("/", ".")), function)
        assert isinstance(found, Flow)
        schema = parameter_schema(found).model_dump_for_openapi()
        assert is_valid(one["parameters"], schema)
        for name, wrong in (("preset", "huge"), ("trials", 0)):
            if name in schema["properties"]:
                assert not is_valid(one["parameters"] | {name: wrong}, schema)
