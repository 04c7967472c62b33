from __future__ import annotations

import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.parameters import effective_config, is_params_yaml
from fmbseg import params
from fmbseg.cli import app
from fmbseg.config import Config, load_config
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import ConfigError
from fmbseg.evaluate.methods import METHODS
from fmbseg.params import LOCAL, experiment, experiments, project_config
from fmbseg.pipeline.table import ROWS
from fmbseg.stage.depends import within


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    params._say.cache_clear()
    path = tmp_path / "params.yaml"
    path.write_bytes((repository / "params.yaml").read_bytes())
    (tmp_path / "experiments").mkdir()
    return path


def write(project: Path, name: str, text: str) -> Path:
    path = project.parent / "experiments" / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_experiments_of_the_project_change_what_they_say(repository: Path) -> None:
    own = repository / "params.yaml"
    recorded, found = load_config(own), experiments(own)
    assert {"supcon", "no-masks", "own-words", "long-training"} <= {each.name for each in found}
    for each in found:
        assert load_config(own, each.overrides) != recorded
        assert experiment(each.name, own) == each
        assert len(each.about) < 110
    assert load_config(own, experiment("supcon", own).overrides).align.loss == "supcon"
    words = load_config(own, experiment("own-words", own).overrides).data.vocabulary
    assert load_vocabulary(str(repository / str(words))).names[-1] == "other"


def test_what_goes_over_what(project: Path) -> None:
    write(project, "mine", "about: to see\nalign: {head: mlp, epochs: 3}\n")
    assert effective_config(None, (), project.parent, experiment="mine").align.head == "mlp"
    config = effective_config("base", ["align.head=linear"], project.parent, experiment="mine")
    assert (config.align.head, config.align.epochs) == ("linear", 3)
    assert config.run.preset == "base"
    assert not is_params_yaml(["align"], config, project.parent)
    assert is_params_yaml(
        ["detect"], effective_config(None, (), project.parent, experiment="mine"), project.parent
    )


def test_every_kind_of_value_arrives_as_it_was_written(project: Path) -> None:
    text = """\
about: to see
data: {vocabulary: [voc21, context59], limit: null, root: "2024-11-27"}
label: {use_masks: false}
align: {learning_rate: 0.0005}
evaluate: {benchmarks: {camvid: {root: my data/camvid, split: val}}}
"""
    write(project, "mine", text)
    config = load_config(project, experiment("mine", project).overrides)
    assert config.data.vocabulary == ("voc21", "context59") and config.data.limit is None
    assert config.data.root == "2024-11-27" and not config.label.use_masks
    assert config.align.learning_rate == 0.0005
    assert config.evaluate.benchmarks["camvid"].root == "my data/camvid"
    assert "voc21" in config.evaluate.benchmarks  # what it does not name stays


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("align: {head: mlp}\n", "it needs `about:` and one line"),
        ("about: |\n  two\n  lines\nalign: {head: mlp}\n", "it needs `about:` and one line"),
        ("about: x\n", "changes nothing"),
        ("about: x\nalign: mlp\n", "must hold sections"),
        ("about: x\nalign: {hed: mlp}\n", r"mine\.yaml: align\.hed: unknown parameter"),
        ("about: x\nclip: {stride: 900}\n", r"mine\.yaml: .*clip\.stride is larger"),
        ("about: [\n", "not valid YAML"),
    ],
)
def test_a_mistake_names_the_file_in_one_line(project: Path, text: str, said: str) -> None:
    write(project, "mine", text)
    with pytest.raises(ConfigError, match=said) as raised:
        experiment("mine", project)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_none_is_refused_with_those_that_are(project: Path) -> None:
    with pytest.raises(ConfigError, match="there are none"):
        experiment("mine", project)
    write(project, "mine", "about: x\nalign: {head: mlp}\n")
    for name in ("other", "../params", ""):
        with pytest.raises(ConfigError, match="choose one of mine"):
            experiment(name, project)


def test_the_command_lists_shows_and_gives_dvc_its_options(project: Path) -> None:
    write(project, "mine", "about: to see\nalign: {head: mlp}\ndata: {vocabulary: [a, b]}\n")

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["experiments", *words, "--params", str(project)])
        assert done.exit_code == 0, done.output
        return done.output

    assert said() == "mine  to see\n"
    assert said("mine") == "to see\n  align.head=mlp\n  data.vocabulary=[a,b]\n"
    assert said("mine", "--dvc").split() == [
        "-S",
        "align.head=mlp",
        "-S",
        "'data.vocabulary=[a,b]'",
    ]


def test_no_result_depends_on_what_a_machine_may_have_of_its_own() -> None:
    own = {name for row in ROWS.values() for name in row.depends.params}
    own |= {name for method in METHODS.values() for name in method.depends_with(Config()).params}
    assert own
    for name in own:
        assert not within(name, LOCAL) and not any(within(each, [name]) for each in LOCAL), name


def test_the_machines_own_file_holds_and_is_said_once(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project.parent / "params.local.yaml").write_text(
        "run: {device: cpu}\ntracking: {uri: http://127.0.0.1:5000}\n"
    )
    with caplog.at_level(logging.WARNING):
        config = project_config(project)
        project_config(project)
    assert (config.run.device, config.tracking.uri) == ("cpu", "http://127.0.0.1:5000")
    assert project_config(project, ["run.device=cuda"]).run.device == "cuda"
    assert caplog.messages == [
        "params.local.yaml holds on this machine: run.device=cpu, tracking.uri=http://127.0.0.1:5000"
    ]
    # What is recorded is what it was, and so is what DVC follows.
    assert is_params_yaml(ROWS, config, project.parent)
    # A queued experiment of DVC works in a copy of what is in git.
    copy = project.parent / ".dvc" / "tmp" / "exps" / "tmp1" / "params.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(project.read_bytes())
    assert project_config(copy).tracking.uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize("text", ["run: {threads: 8}", "data: {root: x}", "align: {epochs: 2}"])
def test_the_machines_own_file_may_not_hold_what_results_depend_on(
    project: Path, text: str
) -> None:
    (project.parent / "params.local.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"results depend on .*: write it into params\.yaml"):
        project_config(project)
    with pytest.raises(ConfigError, match="results depend on"):
        effective_config(None, (), project.parent)


def test_it_is_in_no_git(repository: Path) -> None:
    ignored = (repository / ".gitignore").read_text().splitlines()
    assert "/params.local.yaml" in ignored
