"""Which models there are: the records of `registry.yaml`, and those of timm's and open_clip's hubs.

Besides the registry's own names two forms are taken:

* `timm/NAME`: any encoder that timm publishes, such as `timm/vit_small_patch14_dinov2`. NAME is
  timm's, with or without its tag.
* `open_clip/NAME/TAG`: any plain CLIP of open_clip, such as `open_clip/ViT-B-16/laion2b_s34b_b88k`.

A frozen encoder's name may end with the layers that its features are taken from, such as
`timm/convnext_tiny.fb_in22k@2` or `dinov2-vit-b-14@8+9+10+11`: they count timm's `feature_info`
(blocks of a ViT, stages of a ConvNeXt) from 0, and features of several are joined channel by
channel. Without them it is the last one.

What such a model is (normalisation, size, activation, where its file lies) is read from the
library's own tables.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from huggingface_hub import hf_hub_url
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from fmbseg.errors import WeightsError

Kind = Literal["CLIP", "mask model", "frozen encoder"]
# Mask models are of any library: their records name the class that builds them.
_KINDS: Mapping[str, Kind] = {"open_clip": "CLIP", "timm": "frozen encoder"}
# How models outside the registry are written.
_FORMS: Mapping[Kind, str] = {"CLIP": "open_clip/NAME/TAG", "frozen encoder": "timm/NAME"}
# A plain CLIP: two transformers and OpenAI's tokenizer. `ClipModel` reads dense features from its
# parts, and its tokenizer has these many tokens.
_CLIP_FIELDS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
_VISION_FIELDS = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"}
_TEXT_FIELDS = {"context_length", "vocab_size", "width", "heads", "layers"}
_CLIP_TOKENS = 49408


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightsRecord:
    """One model; `registry.yaml` explains the fields.

    Attributes:
        name: as in params.yaml.
        library: whose classes build it.
        architecture: the library's own name; `tiny` is the JSON record in `fmbseg/models/tiny`.
        activation: `gelu` or `quick_gelu`; counts for CLIP alone.
        mean: of the pixels, per RGB channel.
        std: of the pixels, per RGB channel.
        size: side of the square image the model was trained on, pixels.
        file: name of the weights file.
        sha256: of the file, hex, or its first digits where the source states no more; None where it
            is not pinned.
        licence: SPDX name of the weights' licence.
        source: URL the file comes from, or the folder of its pretraining script.
        megabytes: size of the published file (10^6 bytes); None where it is not known beforehand.
        layers: indices into timm's `feature_info` of the features taken, ascending; none: the last.
        spare: URL of the same weights in another format, for where `source` has no file.
        implementation: class of a mask model, `package.module:Class`; None: no mask model.
    """

    name: str
    library: str
    architecture: str
    activation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    file: str
    sha256: str | None
    licence: str
    source: str
    megabytes: float | None = None
    layers: tuple[int, ...] = ()
    spare: str | None = None
    implementation: str | None = None

    @property
    def kind(self) -> Kind:
        """What the model is for."""
        return "mask model" if self.implementation else _KINDS[self.library]

    @property
    def origin(self) -> str:
        """Where the file is from, in words: `source`, and `spare` with the name it has here."""
        if self.spare is None:
            return self.source
        return f"{self.source} or, as {self.files[1]}, {self.spare}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names the file may have: `file`, and the one that comes from `spare`."""
        if self.spare is None:
            return (self.file,)
        suffix = PurePosixPath(self.spare).suffix
        return self.file, f"{PurePosixPath(self.file).stem}{suffix}"


@cache
def registry() -> Mapping[str, WeightsRecord]:
    """All records by name, in the order of `registry.yaml`."""
    raw = yaml.safe_load((Path(__file__).parent / "registry.yaml").read_text(encoding="utf-8"))
    return {name: WeightsRecord(name=name, **fields) for name, fields in raw.items()}


def weights_record(name: str, kind: Kind | None = None) -> WeightsRecord:
    """The record of a model.

    Args:
        name: of the registry, or of a hub (see the module).
        kind: the one the caller builds; another one is an error.

    Raises:
        WeightsError: the name is unknown, or names a model of another kind.
    """
    base, at, layers = name.partition("@")
    if base.startswith("timm/"):
        found: WeightsRecord | None = _timm_record(base)
    elif base.startswith("open_clip/"):
        found = _open_clip_record(base)
    else:
        found = registry().get(base)
    if found is None or (kind is not None and found.kind != kind):
        fitting = [entry.name for entry in registry().values() if kind in (None, entry.kind)]
        forms = [form for other, form in _FORMS.items() if kind in (None, other)]
        problem = f"unknown model {name!r}"
        if found is not None:
            problem = f"{name} is a {found.kind}, where a {kind} is needed"
        raise WeightsError(f"{problem}: choose one of {', '.join([*fitting, *forms])}")
    return replace(found, name=name, layers=_layers(found, layers)) if at else found


def _layers(record: WeightsRecord, written: str) -> tuple[int, ...]:
    """The layers after an @; WeightsError where they are none, or the model has no such choice."""
    if record.kind != "frozen encoder":
        raise WeightsError(
            f"{record.name} is a {record.kind}: only of a frozen encoder layers are taken"
        )
    if not re.fullmatch(r"[0-9]+(\+[0-9]+)*", written, re.ASCII):
        raise WeightsError(
            f"{record.name}@{written}: after @ come layers, such as {record.name}@2 or "
            f"{record.name}@1+2"
        )
    layers = tuple(int(layer) for layer in written.split("+"))
    if list(layers) != sorted(set(layers)):
        raise WeightsError(f"{record.name}@{written}: name each layer once, in ascending order")
    return layers


def published_as(sha256: str) -> str | None:
    """Name of the model that a file with this digest belongs to, as far as digests are known."""
    for record in registry().values():
        if record.sha256 == sha256:
            return record.name
    import open_clip

    for architecture, tag in open_clip.list_pretrained():
        if sha256 in open_clip.get_pretrained_cfg(architecture, tag).get("url", ""):
            return f"open_clip/{architecture}/{tag}"
    return None


@cache
def _timm_record(name: str) -> WeightsRecord:
    import timm

    tagged = name.removeprefix("timm/")
    published = timm.list_models(pretrained=True)
    if not timm.is_model(tagged.split(".")[0]) or ("." in tagged and tagged not in published):
        similar = difflib.get_close_matches(tagged, published, n=3, cutoff=0.5)
        advice = f"did you mean {', '.join(similar)}" if similar else "see timm.list_models()"
        raise WeightsError(f"timm publishes no {tagged!r}: {advice}")
    config: Any = timm.get_pretrained_cfg(tagged)
    if config is None or not (config.hf_hub_id or config.url):
        raise WeightsError(f"timm publishes no weights for {tagged!r}: choose another encoder")
    architecture = f"{tagged.split('.')[0]}.{config.tag}" if config.tag else tagged
    if config.hf_hub_id:
        source = _hub_url(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
        sha256 = None
    else:
        source = str(config.url)
        sha256 = _stated_digest(source)
    return WeightsRecord(
        name=name,
        library="timm",
        architecture=architecture,
        activation="gelu",
        mean=config.mean,
        std=config.std,
        size=config.input_size[-1],
        file=f"{architecture}{PurePosixPath(source).suffix}",
        sha256=sha256,
        licence=config.license or "not stated",
        source=source,
    )


@cache
def _open_clip_record(name: str) -> WeightsRecord:
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    architecture, _, tag = name.removeprefix("open_clip/").partition("/")
    # Of names such as hf-hub:... open_clip would ask the hub.
    known = architecture in open_clip.list_models()
    config = open_clip.get_model_config(architecture) if known else None
    if config is None:
        similar = difflib.get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.5)
        advice = f"did you mean {', '.join(similar)}" if similar else "see open_clip.list_models()"
        raise WeightsError(f"open_clip has no {architecture!r}: {advice}")
    published = open_clip.get_pretrained_cfg(architecture, tag)
    if not published:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise WeightsError(f"open_clip has no weights {tag!r} of {architecture}: it has {tags}")
    if not _is_plain_clip(config):
        raise WeightsError(
            f"{name} is not built as CLIP is (two transformers, OpenAI's tokenizer): "
            "choose another, such as open_clip/ViT-B-16/laion2b_s34b_b88k"
        )
    spare = sha256 = None
    if published.get("hf_hub"):
        repository, _, file = published["hf_hub"].rpartition("/")
        source = _hub_url(repository, file or HF_SAFE_WEIGHTS_NAME)
        # Older repositories hold a pickle alone; which they are is not in open_clip's tables.
        spare = None if file else _hub_url(repository, HF_WEIGHTS_NAME)
    else:
        source = published["url"]
        sha256 = _stated_digest(source)
    size = config["vision_cfg"]["image_size"]
    quick = published.get("quick_gelu") or config.get("quick_gelu")
    return WeightsRecord(
        name=name,
        library="open_clip",
        architecture=architecture,
        activation="quick_gelu" if quick else "gelu",
        mean=published["mean"],
        std=published["std"],
        size=size,
        file=f"{architecture}.{tag}{PurePosixPath(source).suffix}",
        sha256=sha256,
        licence="not stated",
        source=source,
        spare=spare,
    )


def _hub_url(repository: str, file: str) -> str:
    mirror = os.environ.get("HF_ENDPOINT") or None
    if mirror is not None and not mirror.startswith(("https://", "http://")):
        raise WeightsError(f"HF_ENDPOINT is {mirror!r}: write it with https://")
    return hf_hub_url(repository, file, endpoint=mirror)


def _stated_digest(url: str) -> str | None:
    """The sha256 in a URL, or its beginning in a file name such as `vit_b_32-d867053b.pt`."""
    whole = re.search(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", url)
    if whole:
        return whole[0]
    beginning = re.search(r"-([0-9a-f]{8,63})\.[^/]*$", url)
    # Digits alone are more likely a date.
    return beginning[1] if beginning and not beginning[1].isdigit() else None


def _is_plain_clip(config: Mapping[str, Any]) -> bool:
    vision, text = config["vision_cfg"], config["text_cfg"]
    return (
        config.keys() <= _CLIP_FIELDS
        and vision.keys() <= _VISION_FIELDS
        and text.keys() <= _TEXT_FIELDS
        and isinstance(vision["layers"], int)
        and isinstance(vision["image_size"], int)
        and text["vocab_size"] == _CLIP_TOKENS
    )
