from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from fmbseg.config import Config, InferenceSection, load_config, parse_config
from fmbseg.errors import ConfigError


def params(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(params(tmp_path, "")) == Config()


def test_shipped_params_are_valid(repository: Path) -> None:
    assert load_config(repository / "params.yaml").run.preset == "tiny"


def test_values_are_read_and_frozen(tmp_path: Path) -> None:
    config = load_config(params(tmp_path, "clip: {stride: 16}\nrun: {seed: 7}\n"))
    assert (config.clip.stride, config.run.seed) == (16, 7)
    with pytest.raises(ValidationError):
        config.clip.stride = 8  # type: ignore[misc]


def test_unknown_key_is_refused_by_its_full_name() -> None:
    with pytest.raises(ConfigError, match=r"clip\.strid: unknown parameter"):
        parse_config({"clip": {"strid": 8}})


def test_unknown_section_is_refused() -> None:
    with pytest.raises(ConfigError, match="clips: unknown parameter"):
        parse_config({"clips": {}})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("run", "threads", 0),
        ("run", "device", "tpu"),
        ("clip", "templates", "eighty"),
        ("query", "points", 0),
        ("masks", "min_predicted_iou", 1.5),
        ("align", "temperature", 0.0),
        ("align", "warmup", 1.0),
        ("detection", "min_votes", "many"),
    ],
)
def test_out_of_range_names_parameter_and_value(section: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({section: {key: value}})
    assert f"{section}.{key}" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_all_errors_come_at_once_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"run": {"threads": 0, "sped": 1}, "clip": {"stride": -1}, "nope": {}})
    message = str(caught.value)
    for name in ("run.threads", "run.sped", "clip.stride", "nope"):
        assert name in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"masks": {"min_area": 0.5, "max_area": 0.5}}, "min_area must be below max_area"),
        ({"label": {"use_queries": False, "use_masks": False}}, "nothing would be labelled"),
        ({"clip": {"stride": 65, "window": 64}}, "pixels would be skipped"),
    ],
)
def test_sections_must_fit_together(raw: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_config(raw)


def test_overrides_win_over_the_file_and_later_over_earlier(tmp_path: Path) -> None:
    path = params(tmp_path, "clip: {stride: 16, window: 64}\n")
    config = load_config(
        path, ["clip.stride=8", "clip.stride=24", "data.limit=3", "evaluate.benchmarks={}"]
    )
    assert (config.clip.stride, config.clip.window, config.data.limit) == (24, 64, 3)


def test_override_reaches_nested_tables(tmp_path: Path) -> None:
    config = load_config(params(tmp_path, ""), ["scenes.layouts.voc2012.train=5"])
    assert config.scenes.layouts["voc2012"].train == 5


def test_override_may_clear_a_value(tmp_path: Path) -> None:
    path = params(tmp_path, "data: {limit: 5}\n")
    assert load_config(path, ["data.limit=null"]).data.limit is None


@pytest.mark.parametrize("override", ["clip.stride", "stride=8", "=8", "clip.=8", ".stride=8"])
def test_malformed_override_says_how_to_write_it(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(params(tmp_path, ""), [override])


def test_override_below_a_value_is_refused(tmp_path: Path) -> None:
    path = params(tmp_path, "clip: {stride: 8}\n")
    with pytest.raises(ConfigError, match="stride is a value, not a section"):
        load_config(path, ["clip.stride.x=1"])


def test_override_with_broken_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(params(tmp_path, ""), ["clip.stride=[1"])


def test_unknown_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clip\.strid: unknown parameter"):
        load_config(params(tmp_path, ""), ["clip.strid=8"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["clip: [1", "- a\n- b\n", "clip\n", "\t{"])
def test_file_that_holds_no_sections(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(params(tmp_path, text))
    assert "params.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_section_in_the_file(tmp_path: Path) -> None:
    # `clip:` with all keys commented out is null in YAML.
    with pytest.raises(ConfigError, match="clip"):
        load_config(params(tmp_path, "clip:\n"))


@pytest.mark.parametrize("written", ["[]", "[voc21, voc21]"])
def test_vocabularies_are_named_once(written: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.vocabulary.*: name at least one vocabulary"):
        load_config(None, [f"data.vocabulary={written}"])


@pytest.mark.parametrize(
    "text",
    ["2024-11-27", "2024", "1e3", "007", "on", "12:30", "[draft]", "a: b", "@home", "*x", "~"],
)
def test_a_text_is_taken_as_it_is_written(text: str) -> None:
    entry = f"evaluate.benchmarks.voc21.root={text}"
    split = "evaluate.benchmarks.voc21.split=val"
    config = load_config(None, [f"data.root={text}", entry, split])
    assert (config.data.root, config.evaluate.benchmarks["voc21"].root) == (text, text)


def test_quotes_and_null_mean_what_they_do_in_yaml() -> None:
    config = load_config(None, ["data.root='2024'", "data.vocabulary=null", "data.limit=3"])
    assert (config.data.root, config.data.vocabulary, config.data.limit) == ("2024", None, 3)
    assert load_config(None, ["data.vocabulary=7"]).data.vocabulary == "7"


def numbers(section: type[BaseModel], place: str = "") -> Iterator[str]:
    """The place of every number of the configuration."""
    for name, field in section.model_fields.items():
        types = get_args(field.annotation) or (field.annotation,)
        inner = [each for each in types if isinstance(each, type) and issubclass(each, BaseModel)]
        if inner:
            # Of mappings one entry: its key is a name that may stand there.
            key = {"layouts": ".voc2012", "benchmarks": ".voc21"}.get(name, "")
            yield from numbers(inner[0], f"{place}{name}{key}.")
        elif {int, float} & {*types}:
            yield f"{place}{name}"


def test_every_number_is_found() -> None:
    found = {*numbers(Config)}
    assert {"run.seed", "data.limit", "scenes.layouts.voc2012.val", "clip.window"} <= found
    assert {"evaluate.benchmarks.voc21.limit", "evaluate.logit_scale"} <= found and len(found) > 35


@pytest.mark.parametrize("place", [*numbers(Config)])
def test_every_number_has_finite_bounds(place: str) -> None:
    values = (".inf", "-.inf", ".nan", "1e300", "-1e300", str(2**64), str(-(10**30)), "9" * 4000)
    for value in values:
        with pytest.raises(ConfigError) as caught:
            load_config(None, [f"{place}={value}"])
        assert place in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["a\0b", "a\x07b", "caf\udce9", "x" * 5000])
def test_texts_are_plain(text: str) -> None:
    for place in ("data.root", "run.preset", "features.encoder"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [f"{place}={text}"])
        assert place in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["voc21; touch PWNED #", "$(touch PWNED)", "a\nb", "../voc21", "-v", "", "v" * 65]
)
def test_a_benchmarks_name_is_a_plain_word(name: str) -> None:
    entry = {"root": "a", "split": "val"}
    with pytest.raises(ConfigError, match="should match pattern"):
        parse_config({"evaluate": {"benchmarks": {name: entry}}})


def test_what_is_said_of_a_way_of_asking_can_be_set() -> None:
    section = parse_config({"evaluate": {"same_words": 0.5, "shifts": 3}}).evaluate
    asked = section.differences(InferenceSection())
    assert asked == ["shifts", "same_words"]
    for each in (section.inference, InferenceSection()):
        overrides = each.said(asked).split(", ")
        assert load_config(None, overrides).evaluate.inference == each
