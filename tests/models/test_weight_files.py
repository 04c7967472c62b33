"""Files of weights: read whole and strictly, or refused; in every format of the hubs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fmbseg.models import records, tiny
from fmbseg.models.backbone import load_backbone
from fmbseg.models.build import build_clip, build_encoder, build_sam
from fmbseg.models.clip import load_clip
from fmbseg.models.loading import read_state
from fmbseg.models.records import weights_record
from fmbseg.models.sam import load_sam
from tests.models.refusals import LOADERS, refused

# Strict loading


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_loaded_is_what_was_saved(folder: Path, name: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = LOADERS[name](name, weights_dir=folder)
    assert torch.equal(torch.get_rng_state(), state)
    loaded = model.module.state_dict()  # type: ignore[attr-defined]
    saved = load_file(folder / weights_record(name).file)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
    assert not model.module.training  # type: ignore[attr-defined]
    assert not any(p.requires_grad for p in model.module.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.999])
def test_a_cut_off_file_is_refused(folder: Path, name: str, keep: float) -> None:
    path = folder / weights_record(name).file
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    assert f"{path} is cut off, damaged" in refused(lambda: LOADERS[name](name, weights_dir=folder))


@pytest.mark.parametrize("name", LOADERS)
def test_renamed_missing_surplus_and_reshaped_tensors_are_refused(folder: Path, name: str) -> None:
    path = folder / weights_record(name).file
    good = load_file(path)
    key = sorted(good)[0]
    renamed = {f"module.{k}": v for k, v in good.items()}
    for state, problem in (
        ({k: v for k, v in good.items() if k != key}, f"(no {key})"),
        ({**good, "surplus": torch.zeros(1)}, "(unknown surplus)"),
        (
            {**good, key: torch.zeros(7, 7)},
            f"({key} is (7, 7) instead of {tuple(good[key].shape)})",
        ),
        (renamed, f"and {2 * len(good) - 1} more)"),
    ):
        save_file(state, path)
        message = refused(lambda: LOADERS[name](name, weights_dir=folder))
        assert message.startswith(f"{path} does not fit {name} (")
        assert problem in message


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    clip = tiny.architecture("clip")
    deeper = {**clip, "vision_cfg": {**clip["vision_cfg"], "layers": 9}}
    save_file(build_clip(deeper).state_dict(), folder / "clip.safetensors")
    assert "unknown visual.transformer.resblocks" in refused(
        lambda: load_clip("tiny-clip", weights_dir=folder)
    )
    encoder = tiny.architecture("encoder")
    for change, problem in (({"embed_dim": 64}, " is "), ({"depth": 5}, "unknown blocks.4")):
        other = {**encoder, "model_args": {**encoder["model_args"], **change}}
        save_file(build_encoder(other).state_dict(), folder / "encoder.safetensors")
        assert problem in refused(lambda: load_backbone("tiny-encoder", weights_dir=folder))
    sam = tiny.architecture("sam")
    narrower = {**sam, "image_encoder": {**sam["image_encoder"], "num_heads": 2}}
    save_file(build_sam(narrower).state_dict(), folder / "sam.safetensors")
    assert "rel_pos" in refused(lambda: load_sam("tiny-sam", weights_dir=folder))


def test_a_clips_weights_do_not_pass_for_a_sam(folder: Path) -> None:
    shutil.copy(folder / "clip.safetensors", folder / "sam.safetensors")
    assert "does not fit tiny-sam" in refused(lambda: load_sam("tiny-sam", weights_dir=folder))


# File formats


def test_pickled_state_dicts_are_read_but_never_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(3.0)}, path)
    assert read_state(path)["weight"].tolist() == [0, 1, 2]
    torch.save({"weight": torch.nn.Linear(2, 2)}, path)
    assert "holds more than tensors" in refused(lambda: read_state(path))
    torch.save([torch.zeros(1)], path)
    assert "is not a state dict of tensors" in refused(lambda: read_state(path))
    torch.save({"weight": torch.arange(3000.0)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    assert "is cut off, damaged" in refused(lambda: read_state(path))
    # torch's older format, cut off anywhere, and pages in a file's place.
    torch.save({"weight": torch.arange(9.0)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        assert "is cut off, damaged" in refused(lambda: read_state(path))
    for page in (b"<html>not found</html>", b"Moved Permanently. Redirecting to /x"):
        path.write_bytes(page)
        assert "is cut off, damaged" in refused(lambda: read_state(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_larger_than_memory_is_not_called_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"large{suffix}"
    state = {"weight": torch.zeros(20_000_000)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    code = (
        "import resource, sys; from pathlib import Path;"
        "from fmbseg.models.loading import read_state;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**7, resource.RLIM_INFINITY));"
        "read_state(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stderr.endswith(f"WeightsError: {path} does not fit into this machine's memory\n")


def test_the_encoder_is_read_out_of_a_published_training(tmp_path: Path) -> None:
    path = tmp_path / "vit_huge_patch14_gap_224.in1k_ijepa.tar"
    encoder = {"module.norm.weight": torch.ones(2), "module.norm.bias": torch.zeros(2)}
    torch.save({"encoder": encoder, "opt": {"state": {}}, "epoch": 3, "lr": 0.1}, path)
    assert read_state(path, nested="encoder").keys() == {"norm.weight", "norm.bias"}
    assert "is not a state dict of tensors" in refused(lambda: read_state(path))
    torch.save({"norm.weight": torch.ones(2)}, path)
    assert read_state(path, nested="encoder").keys() == {"norm.weight"}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torchscript_archives_are_read_as_openai_publishes_them(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    path = tmp_path / "ViT.pt"
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    state = read_state(path, torchscript=True)
    assert state.keys() == module.state_dict().keys()
    assert torch.equal(state["0.weight"], module[0].weight)
    assert f"{path} is a TorchScript archive" in refused(lambda: read_state(path))
    path.write_bytes(path.read_bytes()[:-200])
    assert "is cut off, damaged" in refused(lambda: read_state(path, torchscript=True))


class _Archive(torch.nn.Module):
    """A model's parts below a forward that TorchScript can compile."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _save_torchscript(state: dict[str, torch.Tensor], path: Path) -> None:
    archive = _Archive()
    for name, value in state.items():
        place = archive
        *folders, leaf = name.split(".")
        for folder in folders:
            if folder not in place._modules:
                place.add_module(folder, _Archive())
            place = place._modules[folder]  # type: ignore[assignment]
        place.register_buffer(leaf, value)
    torch.jit.script(archive).save(str(path))  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_clip_is_read_from_an_archive_as_openai_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = build_clip(tiny.architecture("clip")).state_dict()
    # In half precision, and with numbers beside the tensors.
    published = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    published |= {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    path = tmp_path / "ViT.pt"
    _save_torchscript(published, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record = replace(weights_record("tiny-clip"), file=path.name, sha256=digest)
    monkeypatch.setattr(records, "registry", lambda: {"tiny-clip": record})
    loaded = load_clip("tiny-clip", weights_dir=tmp_path).module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], published[key].to(loaded[key].dtype)) for key in loaded)
    assert loaded["visual.proj"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_torchscript_archive_is_read_only_if_it_is_the_pinned_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = weights_record("tiny-sam")
    module = build_sam(tiny.architecture("sam"))
    path = tmp_path / "sam.pt"
    _save_torchscript(module.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for sha256 in (digest, "0" * 64, None, digest[:8]):
        changed = replace(record, file=path.name, sha256=sha256)
        monkeypatch.setattr(records, "registry", lambda changed=changed: {"tiny-sam": changed})
        if sha256 == digest:
            sam = load_sam("tiny-sam", weights_dir=tmp_path)
            key = "mask_decoder.iou_token.weight"
            assert torch.equal(sam.module.state_dict()[key], module.state_dict()[key])
        else:
            assert "is a TorchScript archive and not the published file" in refused(
                lambda: load_sam("tiny-sam", weights_dir=tmp_path)
            )
