from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fmbseg import cli
from fmbseg.commands.options import DEFAULT_PARAMS, lenient_config
from fmbseg.config import Config, load_config
from fmbseg.models.records import weights_record
from fmbseg.presets import PRESETS, preset
from fmbseg.presets.writing import apply_preset


@pytest.fixture
def params(repository: Path, tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_bytes((repository / "params.yaml").read_bytes())
    return path


def _flat(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{s}.{key}": value for s, keys in sections.items() for key, value in keys.items()}


def _comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_presets_name_the_same_parameters_so_one_replaces_another_whole() -> None:
    assert {tuple(_flat(preset(name))) for name in PRESETS} == {tuple(_flat(preset("tiny")))}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_configuration_then_holds(params: Path, name: str) -> None:
    apply_preset(name, params)
    dumped = _flat(load_config(params).model_dump())
    assert {key: dumped[key] for key in _flat(preset(name))} == _flat(preset(name))
    assert dumped["run.preset"] == name


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_sizes_fit_its_models(name: str) -> None:
    import open_clip
    import timm

    sections = preset(name)
    clip = weights_record(sections["clip"]["model"], "CLIP")
    weights_record(sections["sam"]["model"], "mask model")
    encoder = weights_record(sections["features"]["encoder"], "frozen encoder")
    assert sections["clip"]["window"] == clip.size
    if name == "tiny":
        return
    patch = open_clip.get_model_config(clip.architecture)["vision_cfg"]["patch_size"]
    assert all(sections["clip"][key] % patch == 0 for key in ("short_side", "window", "stride"))
    # The name of the architecture says patch and width; the head's must divide the width.
    assert timm.is_model(encoder.architecture)
    size, patch = re.match(r"vit_(base|large)_patch(\d+)", encoder.architecture).groups()
    assert {"base": 768, "large": 1024}[size] % sections["align"]["attention_heads"] == 0
    assert sections["features"]["short_side"] % int(patch) == 0


def test_the_shipped_parameters_are_the_preset_tiny(params: Path) -> None:
    before = params.read_bytes()
    assert apply_preset("tiny", params) == []
    assert params.read_bytes() == before


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny"])
def test_comments_order_and_everything_else_stay(params: Path, name: str) -> None:
    before = params.read_text(encoding="utf-8")
    old = yaml.safe_load(before)
    changes = apply_preset(name, params)
    new = yaml.safe_load(params.read_text(encoding="utf-8"))
    changed = {change.name for change in changes}
    assert {"clip.model", "sam.model", "features.encoder", "run.preset"} <= changed
    assert [list(old), *map(list, old.values())] == [list(new), *map(list, new.values())]
    assert {k: v for k, v in _flat(old).items() if k not in changed} == {
        k: v for k, v in _flat(new).items() if k not in changed
    }
    for change in changes:
        assert (_flat(old)[change.name], _flat(new)[change.name]) == (change.old, change.new)
    assert _comments(params.read_text(encoding="utf-8")) == _comments(before)
    # And back: byte for byte.
    apply_preset("tiny", params)
    assert params.read_text(encoding="utf-8") == before


def test_a_preset_like_another_differs_in_what_it_says_alone() -> None:
    base = _flat(preset("base"))
    for name in ("dinov3", "c-radio", "tipsv2"):
        differs = {key for key, value in _flat(preset(name)).items() if value != base[key]}
        assert differs == {"run.preset", "features.encoder"}


def test_a_users_own_values_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# mine\ndata: {root: 'my photos'}   # quoted\n\nalign:\n  # why\n  loss: text\n",
        encoding="utf-8",
    )
    apply_preset("base", path)
    text = path.read_text(encoding="utf-8")
    assert "# mine\ndata: {root: 'my photos'}   # quoted\n\nalign:\n  # why\n  loss: text\n" in text
    assert load_config(path).clip.model == "clip-vit-b-16"


def _main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    code = cli._main(list(arguments))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_the_command_says_what_changed_and_what_to_fetch(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(params.parent)
    monkeypatch.delenv("FMBSEG_WEIGHTS", raising=False)
    code, out, err = _main(capsys, "preset", "base")
    assert (code, err) == (0, [])
    assert "clip.model: tiny-clip -> clip-vit-b-16" in out
    assert "masks.points_per_side: 8 -> 32" in out
    assert out[-2] == f"params.yaml: {len(out) - 2} parameters changed to preset base"
    assert out[-1] == (
        "its weights are not here yet: `fmbseg models pull clip-vit-b-16 sam-vit-b dinov2-vit-b-14 "
        "--weights-dir DIR`"
    )
    with monkeypatch.context() as named:
        named.setenv("FMBSEG_WEIGHTS", "/weights")
        _, out, _ = _main(capsys, "preset", "base")
        assert out[-1].endswith("dinov2-vit-b-14`")
        _, out, _ = _main(capsys, "preset", "base", "--weights-dir", "my weights")
        assert out[-1].endswith("dinov2-vit-b-14 --weights-dir 'my weights'`")
    code, out, _ = _main(capsys, "preset", "base")
    assert out[0] == "params.yaml has the parameters of preset base already"
    code, out, _ = _main(capsys, "preset", "tiny", "--params", str(params))
    assert (code, out[-1]) == (0, f"{params}: {len(out) - 1} parameters changed to preset tiny")


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        (
            None,
            "huge",
            "unknown preset 'huge': choose one of tiny, base, paper, dinov3, c-radio, tipsv2",
        ),
        (b"clip: [", "base", "is not valid YAML"),
        (b"- a\n", "base", "must hold sections"),
        (b"clip: 3\n", "base", "clip must be a section"),
        (b"clip: {strid: 8}\n", "base", "clip.strid: unknown parameter"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    params: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    name: str,
    part: str,
) -> None:
    if content is not None:
        params.write_bytes(content)
    before = params.read_bytes()
    code, out, err = _main(capsys, "preset", name, "--params", str(params))
    assert (code, out, len(err)) == (2, [], 1)
    assert part in err[0]
    assert params.read_bytes() == before
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_no_params_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _main(capsys, "preset", "base", "--params", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml does not exist: run inside the project" in err[0]


def test_a_tag_of_ones_own_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: {root: !env DATA}\n", encoding="utf-8")
    code, _, err = _main(capsys, "preset", "base", "--params", str(path))
    assert (code, len(err)) == (2, 1)
    assert err[0].startswith(f"fmbseg: {path} is not plain YAML: could not determine a constructor")
    assert path.read_text(encoding="utf-8") == "data: {root: !env DATA}\n"


def test_outside_a_project_a_preset_holds_where_models_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = lenient_config(DEFAULT_PARAMS, ["query.points=3"], outside="tiny")
    dumped = _flat(config.model_dump())
    expected = _flat(preset("tiny")) | {"query.points": 3}
    assert {key: dumped[key] for key in expected} == expected
    # A head brings its own models: of it the defaults hold.
    assert lenient_config(DEFAULT_PARAMS, None) == Config()
