"""`fmbseg models list|pull|verify` against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save

from fmbseg import cli
from fmbseg.models import records, tiny
from fmbseg.models.backbone import load_backbone
from fmbseg.models.records import registry
from fmbseg.models.weights import resolve
from fmbseg.presets import preset
from fmbseg.quality import quality_table
from tests.models.local_hub import Hub, running_hub

NAME = "timm/test_vit.r160_in1k"
FILE = "test_vit.r160_in1k.safetensors"


def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set before it is removed: so what --weights-dir puts there is undone too.
    monkeypatch.setenv("FMBSEG_WEIGHTS", "")
    monkeypatch.delenv("FMBSEG_WEIGHTS")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one encoder, stored and linked as Hugging Face does."""
    content = save(timm.create_model(NAME.removeprefix("timm/")).state_dict())
    with running_hub() as hub:
        hub.files["/blob"] = content
        digest = hashlib.sha256(content).hexdigest()
        page = f"/{NAME}/resolve/main/model.safetensors"
        hub.redirects[page] = ("/blob", {"X-Linked-Etag": f'"{digest}"'})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # 10 MB: more than the file
        no_weights(monkeypatch)
        for cached in (records._timm_record, records._open_clip_record):
            cached.cache_clear()
        yield hub
        for cached in (records._timm_record, records._open_clip_record):
            cached.cache_clear()


def _main(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, list[str], str]:
    code = cli._main(["models", *command.split()])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_pull_list_verify(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"--weights-dir {tmp_path}"
    code, out, _ = _main(capsys, f"list {NAME} {where}")
    assert code == 0
    page = f"{hub.url}/{NAME}/resolve/main/model.safetensors"
    assert out[1].split() == [NAME, "timm", "?", "apache-2.0", FILE, "no", page]

    hub.breaks = [200_000]
    code, out, _ = _main(capsys, f"pull {NAME} {where}")
    assert (code, out) == (0, [f"{NAME} {tmp_path / FILE}"])
    assert hub.asked[-1] == ("/blob", "bytes=200000-")
    assert (tmp_path / FILE).read_bytes() == hub.files["/blob"]
    assert load_backbone(NAME, weights_dir=tmp_path).patch_size == 16

    _, out, _ = _main(capsys, f"list {NAME} {where}")
    size = f"{len(hub.files['/blob']) / 1e6:.1f}"
    assert out[1].split() == [NAME, "timm", size, "MB", "apache-2.0", FILE, str(tmp_path), page]
    code, out, _ = _main(capsys, f"verify {NAME} {where}")
    assert code == 0
    assert out[0].startswith(f"{NAME} ok (sha256 ")
    hub.looked.clear()
    assert _main(capsys, f"pull {NAME} {where}")[0] == 0
    assert hub.looked == []  # it is here, and it is right

    # Damage is found, and pulling again repairs it.
    damaged = bytearray(hub.files["/blob"])
    damaged[-1] ^= 1
    (tmp_path / FILE).write_bytes(damaged)
    code, _, err = _main(capsys, f"verify {NAME} {where}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{tmp_path / FILE} is damaged or another file" in err
    assert _main(capsys, f"pull {NAME} {where}")[0] == 0
    assert _main(capsys, f"verify {NAME} {where}")[0] == 0


@pytest.mark.parametrize("command", ["list", "verify tiny-sam", "pull tiny-sam"])
def test_files_are_looked_after_without_torch(command: str) -> None:
    arguments = ["models", *command.split()]
    code = (
        f"import sys; from fmbseg import cli; assert cli._main({arguments}) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_own_weights_are_not_fetched_over(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / FILE
    own.write_bytes(b"trained for weeks")
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    # A hub has stated the published file's digest before.
    own.with_name(f"{FILE}.sha256").write_text(f"{'0' * 64}  {FILE}\n")
    code, _, err = _main(capsys, f"pull {NAME} --weights-dir {tmp_path}")
    assert (code, hub.looked) == (2, [])
    assert f"{own} is not the published file and may be your own" in err
    assert own.read_bytes() == b"trained for weeks"


def test_own_weights_in_an_older_format_are_not_fetched_over(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "open_clip/ViT-B-32/laion2b_s34b_b79k"
    page = "/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip"
    hub.files[f"{page}_pytorch_model.bin"] = b"published"
    own = tmp_path / "ViT-B-32.laion2b_s34b_b79k.bin"
    own.write_bytes(b"trained for weeks")
    own.with_name(f"{own.name}.sha256").write_text(f"{'0' * 64}  {own.name}\n")
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    code, _, err = _main(capsys, f"pull {name} --weights-dir {tmp_path}")
    assert (code, hub.looked) == (2, [])
    assert f"{own} is not the published file and may be your own" in err
    assert own.read_bytes() == b"trained for weeks"


def test_both_files_of_a_model_are_named_with_their_places(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "open_clip/ViT-B-32/laion2b_s34b_b79k"
    page = f"{hub.url}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip"
    both = (
        f"{page}_model.safetensors or, as ViT-B-32.laion2b_s34b_b79k.bin, {page}_pytorch_model.bin"
    )
    _, out, _ = _main(capsys, f"list {name} --weights-dir {tmp_path}")
    assert out[1].endswith(f"no    {both}")
    _, _, err = _main(capsys, f"verify {name} --weights-dir {tmp_path}")
    assert f"is not in {tmp_path}: put it there (from {both})" in err


def test_a_mirror_without_its_scheme_is_refused(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    code, _, err = _main(capsys, f"pull {NAME} --weights-dir {tmp_path}")
    assert (code, err) == (
        2,
        "fmbseg: HF_ENDPOINT is 'hf-mirror.com': write it with https://\n",
    )


def test_own_tiny_weights_in_the_weights_folder_go_before_the_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights(monkeypatch)
    own = tmp_path / "encoder.safetensors"
    own.write_bytes(tiny.FOLDER.joinpath("encoder.safetensors").read_bytes() + b"\0")
    _, out, _ = _main(capsys, f"list tiny-encoder tiny-clip --weights-dir {tmp_path}")
    assert str(tmp_path) in out[1] and str(tiny.FOLDER) in out[2]
    code, _, err = _main(capsys, f"verify tiny-encoder --weights-dir {tmp_path}")
    assert (code, f"{own} is damaged or another file" in err) == (2, True)
    assert err.endswith("if it is not your own, move it away: the package has one\n")
    code, _, err = _main(capsys, f"pull tiny-encoder --weights-dir {tmp_path}")
    assert (code, err) == (
        2,
        f"fmbseg: {own} is in the place of the package's file: move it away\n",
    )
    # A folder that is yet to be made holds nothing of one's own.
    new = tmp_path / "new"
    code, out, _ = _main(capsys, f"pull tiny-encoder --weights-dir {new}")
    assert (code, out) == (0, [f"tiny-encoder       {tiny.FOLDER / 'encoder.safetensors'}"])


def test_an_older_repository_of_open_clip_gives_its_pickle(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "open_clip/ViT-B-32/laion2b_s34b_b79k"
    page = "/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip"
    path = tmp_path / "ViT-B-32.laion2b_s34b_b79k.bin"
    code, _, err = _main(capsys, f"pull {name} --weights-dir {tmp_path}")
    assert (code, f"{hub.url}{page}_pytorch_model.bin (" in err, "404" in err) == (2, True, True)
    hub.files[f"{page}_pytorch_model.bin"] = b"pickled"
    hub.looked.clear()
    code, out, _ = _main(capsys, f"pull {name} --weights-dir {tmp_path}")
    assert (code, out) == (0, [f"{name} {path} (not checked, no sha256 is known)"])
    assert hub.looked == [
        f"{page}_model.safetensors",
        f"{page}_pytorch_model.bin",
    ]
    assert path.read_bytes() == b"pickled"
    hub.looked.clear()
    assert _main(capsys, f"pull {name} --weights-dir {tmp_path}")[0] == 0
    assert hub.looked == []
    # Where both are, the one that cannot hold code is taken.
    safe = path.with_suffix(".safetensors")
    safe.write_bytes(b"safe")
    assert resolve(name, tmp_path) == safe


def test_verify_says_what_it_could_not_check(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_bytes(hub.files["/blob"])  # brought by hand: no hub has stated a digest
    digest = hashlib.sha256(hub.files["/blob"]).hexdigest()
    code, out, _ = _main(capsys, f"verify {NAME} tiny-encoder --weights-dir {tmp_path}")
    assert code == 0
    assert out[0] == f"{NAME} not checked, no sha256 is known (sha256 {digest[:12]})"
    pinned = registry()["tiny-encoder"].sha256
    assert out[1].split(maxsplit=1) == ["tiny-encoder", f"ok (sha256 {str(pinned)[:12]})"]


def test_what_cannot_be_fetched_is_named_at_the_end_in_one_line(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "timm/test_resnet.r160_in1k"
    code, out, err = _main(capsys, f"pull {missing} tiny-clip {NAME} --weights-dir {tmp_path}")
    assert code == 2
    assert [line.split()[0] for line in out] == ["tiny-clip", NAME]
    line = err.splitlines()[-1]
    assert line.startswith(f"fmbseg: cannot fetch {hub.url}/{missing}/resolve/main/model.saf")
    assert line.endswith(f"put it at {tmp_path / 'test_resnet.r160_in1k.safetensors'}")
    # An unknown name stops before anything is fetched.
    hub.looked.clear()
    code, out, err = _main(capsys, f"pull {NAME} sam-vit-x --weights-dir {tmp_path / 'new'}")
    assert (code, out, hub.looked) == (2, [], [])
    assert "unknown model 'sam-vit-x'" in err


def test_pull_needs_a_name_and_a_folder(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Missing argument 'NAME...'" in _main(capsys, "pull")[2]
    code, _, err = _main(capsys, f"pull {NAME}")
    assert (code, err) == (
        2,
        f"fmbseg: nowhere to put {FILE}: give --weights-dir DIR or set FMBSEG_WEIGHTS\n",
    )


def test_the_list_has_every_model_with_size_licence_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    code, out, err = _main(capsys, "list")
    assert (code, err) == (0, "")
    assert out[0].split() == ["name", "library", "size", "licence", "file", "here", "from"]
    assert [line.split()[0] for line in out[1:]] == list(registry())
    for line in out[1:]:
        name, library, size, unit, licence, file, here, source = line.split()
        record = registry()[name]
        assert (library, unit, licence) == (record.library, "MB", record.licence)
        assert (file, source) == (record.file, record.source)
        if name.startswith("tiny"):
            assert here == str(tiny.FOLDER)
        else:
            assert here == "no"
            assert float(size.replace(",", "")) > 100


def test_evaluate_prints_what_it_writes_with_the_weights_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_weights(monkeypatch)
    monkeypatch.chdir(tmp_path)  # no project: the preset tiny
    code, out, _ = _main(capsys, "evaluate --scenes 2 --json new/figures.json")
    assert code == 0
    written = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert "\n".join(out).startswith(quality_table(written))
    rows = out[2 : 2 + len(written["figures"])]
    for row, figure in zip(rows, written["figures"], strict=True):
        assert row.split()[0] == figure["model"] and figure["name"] in row
    names = ("tiny-clip", "tiny-sam", "tiny-encoder")
    assert written["weights"] == {name: registry()[name].sha256 for name in names}
    for name in names:
        assert f"{name}  sha256 {registry()[name].sha256}" in out
    assert out[-1] == "SAM's covering of photos is measured with --bsds500 PATH"
    used = written["params"]
    assert used["masks"]["points_per_side"] == preset("tiny")["masks"]["points_per_side"]
    assert used["detection"]["rule"] == preset("tiny")["detection"]["rule"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (".", ". is no regular file"),
        ("/dev/null", "/dev/null is no regular file"),
        ("file/figures.json", "file/figures.json cannot be written: "),
    ],
)
def test_a_place_that_takes_no_figures_is_refused_before_they_are_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = _main(capsys, f"evaluate --json {target}")
    assert (code, out) == (2, [])
    assert err.startswith(f"fmbseg: {reason}") and len(err.splitlines()) == 1
