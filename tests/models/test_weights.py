"""Weights: their records, where they are looked for, whose they are, how they are fetched."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from segment_anything import sam_model_registry

from fmbseg.models import records, tiny
from fmbseg.models.backbone import load_backbone
from fmbseg.models.clip import load_clip
from fmbseg.models.records import registry, weights_record
from fmbseg.models.sam import load_sam
from fmbseg.models.weights import model_digest, pull, resolve, verify, weights_digest
from tests.models.local_hub import Hub, running_hub
from tests.models.refusals import LOADERS, refused

SMALL = "timm/test_vit.r160_in1k"


# Records


def test_records_agree_with_their_libraries() -> None:
    for record in registry().values():
        assert record.file and record.licence and record.source
        assert record.sha256 is not None and len(record.sha256) == 64
        if record.architecture == "tiny":
            continue
        assert record.source.endswith(record.file)
        if record.library == "open_clip":
            config = open_clip.get_model_config(record.architecture)
            published = open_clip.get_pretrained_cfg(record.architecture, "openai")
            assert config["vision_cfg"]["image_size"] == record.size
            assert record.source == published["url"]
            assert (record.activation == "quick_gelu") == published["quick_gelu"]
        elif record.library == "timm":
            published = timm.get_pretrained_cfg(record.architecture).to_dict()
            assert published["input_size"] == (3, record.size, record.size)
            assert record.source == published["url"]
        else:
            with torch.device("meta"):
                sam = sam_model_registry[record.architecture]()
            assert sam.image_encoder.img_size == record.size
            continue
        assert record.mean == tuple(published["mean"])
        assert record.std == tuple(published["std"])


def test_a_digest_that_stands_in_a_url_is_the_records() -> None:
    # timm has these on no hub.
    for name, digest in (("gcvit_xxtiny.in1k", "d1d86009"), ("legacy_xception", "43020ad28")):
        assert weights_record(f"timm/{name}").sha256 == digest
    assert weights_record("timm/vit_huge_patch14_gap_224.in1k_ijepa").sha256 is None
    openai = registry()["clip-vit-b-16"]
    assert records._stated_digest(openai.source) == openai.sha256
    assert records._stated_digest("https://host/a/model-20220304.pth") is None


def test_tiny_records_agree_with_their_architectures() -> None:
    clip, sam, encoder = (weights_record(f"tiny-{name}") for name in ("clip", "sam", "encoder"))
    assert tiny.architecture("clip")["vision_cfg"]["image_size"] == clip.size
    assert tiny.architecture("encoder")["model_args"]["img_size"] == encoder.size
    config = tiny.architecture("sam")
    assert config["image_encoder"]["img_size"] == sam.size
    assert tuple(config["pixel_mean"]) == sam.mean
    assert tuple(config["pixel_std"]) == sam.std


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    assert refused(lambda: resolve("clip-vit-x")).startswith(
        "unknown model 'clip-vit-x': choose one of tiny-clip, tiny-sam, tiny-encoder, clip-vit-b-16"
    )


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    assert refused(lambda: load_clip("tiny-sam", weights_dir=folder)) == (
        "tiny-sam is a mask model, where a CLIP is needed: "
        "choose one of tiny-clip, clip-vit-b-16, clip-vit-l-14, open_clip/NAME/TAG"
    )
    assert "is a CLIP, where a frozen encoder is needed" in refused(
        lambda: load_backbone("tiny-clip", weights_dir=folder)
    )
    assert "where a mask model is needed" in refused(
        lambda: load_sam("tiny-encoder", weights_dir=folder)
    )


# Places


def test_weights_are_looked_for_in_the_argument_then_the_environment_then_the_package(
    no_package_data: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Path(shutil.copytree(folder, tmp_path / "named"))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    package = Path(shutil.copytree(folder, tmp_path / "package", dirs_exist_ok=True))
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(named))
    for place in (other, named, package):
        assert resolve("tiny-clip", other) == place / "clip.safetensors"
        (place / "clip.safetensors").unlink()


def test_missing_weights_are_an_error_that_names_file_and_place(
    no_package_data: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(lambda: load_sam("sam-vit-b")) == (
        "weights of sam-vit-b: sam_vit_b_01ec64.pth is not here: get it from "
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth "
        "and name its folder with --weights-dir or in FMBSEG_WEIGHTS"
    )
    monkeypatch.setenv("FMBSEG_WEIGHTS", str(tmp_path))
    assert refused(lambda: weights_digest("sam-vit-b")) == (
        f"weights of sam-vit-b: sam_vit_b_01ec64.pth is not in {tmp_path}: put it there "
        "(from https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth), "
        "or give another folder with --weights-dir"
    )
    for name, load in LOADERS.items():
        assert f"is not in {tmp_path} or {tmp_path / 'package'}" in refused(
            lambda name=name, load=load: load(name)  # type: ignore[misc]
        )


# Digests


def test_the_digest_is_of_the_file_as_it_is_now(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    first = weights_digest("tiny-encoder", folder)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    assert weights_digest("tiny-encoder", folder) != first


def test_the_models_digest_is_of_its_weights_and_of_what_its_record_makes_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = weights_record("tiny-encoder")

    def digest(**change: object) -> str:
        changed = replace(record, **change)  # type: ignore[arg-type]
        monkeypatch.setattr(records, "registry", lambda: {record.name: changed})
        return model_digest("tiny-encoder", folder)

    first = digest()
    assert digest(licence="MIT", source="elsewhere", sha256=None, megabytes=3.0) == first
    changes: list[dict[str, object]] = [
        {"library": "open_clip"},
        {"architecture": "ViT-B-16"},
        {"activation": "quick_gelu"},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
        {"size": 128},
        {"layers": (1,)},
    ]
    assert len({first, *(digest(**change) for change in changes)}) == 8
    path = folder / record.file
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    assert digest() != first


@pytest.mark.parametrize("name", LOADERS)
def test_the_shipped_weights_are_the_pinned_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FMBSEG_WEIGHTS", raising=False)
    # After a new pretraining: this digest goes into registry.yaml.
    assert weights_digest(name) == weights_record(name).sha256
    assert verify(name) == weights_record(name).sha256


def test_another_file_than_the_pinned_one_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    assert f"{path} is damaged or another file" in refused(lambda: verify("sam-vit-b", tmp_path))


def test_the_first_digits_of_a_digest_are_verified(served: Hub, tmp_path: Path) -> None:
    record = weights_record("sam-vit-b")
    for digits, right in ((str(record.sha256)[:8], True), ("0" * 8, False)):
        records.registry()["sam-vit-b"] = replace(record, sha256=digits)  # type: ignore[index]
        if right:
            pull("sam-vit-b", tmp_path / "mine")
            assert verify("sam-vit-b", tmp_path / "mine") == record.sha256
        else:
            assert "has 00000000...)" in refused(lambda: verify("sam-vit-b", tmp_path / "mine"))


def test_own_weights_in_a_published_place_are_used_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "encoder.safetensors"
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    for pinned, said in ((own, False), ("0" * 64, True)):
        record = replace(weights_record("tiny-encoder"), sha256=pinned)
        monkeypatch.setattr(records, "registry", lambda record=record: {"tiny-encoder": record})
        caplog.clear()
        load_backbone("tiny-encoder", weights_dir=folder)
        assert (f"{path} is not the published encoder.safetensors" in caplog.text) == said
        assert weights_digest("tiny-encoder", folder) == own


@pytest.fixture
def hub_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published encoder's file with random weights, as timm's hub would give it."""
    monkeypatch.delenv("FMBSEG_OWN_WEIGHTS", raising=False)
    path = tmp_path / weights_record(SMALL).file
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


def test_another_file_in_a_published_place_needs_the_users_word(
    hub_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, own = hub_file.parent, hashlib.sha256(hub_file.read_bytes()).hexdigest()
    stated = hub_file.with_name(f"{hub_file.name}.sha256")
    stated.write_text(f"{'0' * 64}  {hub_file.name}\n")
    problem = f"{hub_file} is not the published {hub_file.name} (sha256 {own[:12]}...)"
    assert refused(lambda: load_backbone(SMALL, weights_dir=folder)) == (
        f"{problem}: get it from {weights_record(SMALL).source}, "
        "or set FMBSEG_OWN_WEIGHTS=1 to use own weights"
    )
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")
    load_backbone(SMALL, weights_dir=folder)
    assert f"{problem}: own weights are used as they are" in caplog.text
    monkeypatch.delenv("FMBSEG_OWN_WEIGHTS")
    caplog.clear()
    stated.write_text(f"{own}  {hub_file.name}\n")
    load_backbone(SMALL, weights_dir=folder)
    assert caplog.text == ""


def test_a_file_nobody_stated_a_digest_of_is_named_once(
    hub_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        load_backbone(SMALL, weights_dir=hub_file.parent)
    assert caplog.text.count(f"{hub_file}: no sha256 is known for {SMALL}; only names and") == 1


def test_another_models_file_is_refused_though_its_tensors_fit(
    hub_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMBSEG_OWN_WEIGHTS", "1")  # not even then
    own = hashlib.sha256(hub_file.read_bytes()).hexdigest()
    other = replace(weights_record("dinov2-vit-b-14"), sha256=own)
    monkeypatch.setattr(records, "registry", lambda: {other.name: other})
    assert refused(lambda: load_backbone(SMALL, weights_dir=tmp_path)) == (
        f"{hub_file} is dinov2-vit-b-14's file: name that model, "
        f"or put {weights_record(SMALL).source} in its place"
    )


def test_published_digests_name_their_models() -> None:
    for record in registry().values():
        assert records.published_as(str(record.sha256)) == record.name
    # OpenAI's ViT-B/32, which the registry has not.
    digest = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    assert str(records.published_as(digest)).startswith("open_clip/ViT-B-32")
    assert records.published_as("0" * 64) is None


# Fetching


FILE = "sam_vit_b_01ec64.pth"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server with a file to fetch, under the name of a published model."""
    content = random.Random(0).randbytes(1_200_000)
    with running_hub() as hub:
        hub.files[f"/{FILE}"] = content
        record = replace(
            weights_record("sam-vit-b"),
            source=f"{hub.url}/{FILE}",
            sha256=hashlib.sha256(content).hexdigest(),
        )
        known = {"sam-vit-b": record}
        monkeypatch.setattr(records, "registry", lambda: known)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("FMBSEG_WEIGHTS", raising=False)
        yield hub


def test_weights_are_fetched_once_and_verified(served: Hub, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    path = pull("sam-vit-b", target)
    assert path == target / FILE
    assert path.read_bytes() == served.files.pop(f"/{FILE}")
    assert pull("sam-vit-b", target) == path
    path.write_bytes(b"damaged")
    assert "cannot fetch" in refused(lambda: pull("sam-vit-b", target))


def test_a_wrong_file_from_the_source_is_not_kept(served: Hub, tmp_path: Path) -> None:
    served.files[f"/{FILE}"] = b"another file"
    assert "is not the file wanted" in refused(lambda: pull("sam-vit-b", tmp_path / "mine"))
    served.length = 400_000_000  # the registry says 375 MB
    assert "400 MB instead of 375" in refused(lambda: pull("sam-vit-b", tmp_path / "mine"))
    assert list((tmp_path / "mine").iterdir()) == []


def test_fetching_needs_a_folder(served: Hub) -> None:
    assert refused(lambda: pull("sam-vit-b")) == (
        "nowhere to put sam_vit_b_01ec64.pth: give --weights-dir DIR or set FMBSEG_WEIGHTS"
    )


def test_what_comes_with_the_package_is_not_fetched(no_package_data: None, tmp_path: Path) -> None:
    assert "comes with the package" in refused(lambda: pull("tiny-clip", tmp_path))
