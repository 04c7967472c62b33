"""The trained head as files: `head.safetensors`, and `checkpoint.json` that says what it fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbseg.align.record import HEAD, RECORD, HeadConfig
from fmbseg.config import Config, InferenceSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import CheckpointError, FmbsegError, StoreError
from fmbseg.models.weights import weights_digest
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import json_digest

if TYPE_CHECKING:  # what a head is, is read without torch
    from fmbseg.align.heads import AlignmentHead

FORMAT = 3


@dataclass(frozen=True)
class ModelReference:
    """A model of the registry, and the sha256 of the weights it had."""

    name: str
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """What a head was trained with, and what it must be used with.

    Attributes:
        encoder: whose features the head takes.
        clip: into whose text space it maps.
        vocabularies: classes it was trained on, one vocabulary or several; it can be asked for any
            others.
        templates: prompt templates, where a vocabulary has none of its own.
        short_side: of the images the encoder saw, pixels.
        inference: how it is to be asked, unless the asker says otherwise.
        training: parameters and seed.
        metrics: of the training, by name.
    """

    encoder: ModelReference
    clip: ModelReference
    vocabularies: tuple[Vocabulary, ...]
    templates: str
    short_side: int
    inference: InferenceSection
    training: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CheckpointRecord:
    """What a head is, without its weights.

    Attributes:
        form: what decides its architecture.
        info: see there.
        sha256: of the weights file, hex.
    """

    form: HeadConfig
    info: CheckpointInfo
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A head with its record.

    Attributes:
        head: on the CPU, in evaluation mode, without gradients.
        info: see there.
        sha256: of the weights file, hex.
    """

    head: AlignmentHead
    info: CheckpointInfo
    sha256: str


def save_checkpoint(directory: Path, head: AlignmentHead, info: CheckpointInfo) -> str:
    """Write a head and its record; each file appears whole or not at all, the record last.

    The record holds a digest of all it says: a head that is asked in another way than it was
    written for gives other labels, and nobody would see why.

    Returns:
        sha256 of the weights file, hex.
    """
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    data = save(state)
    sha256 = hashlib.sha256(data).hexdigest()
    record = {
        "format": FORMAT,
        "sha256": sha256,
        "head": asdict(head.config),
        "encoder": asdict(info.encoder),
        "clip": asdict(info.clip),
        "vocabularies": [words.record() for words in info.vocabularies],
        "templates": info.templates,
        "short_side": info.short_side,
        "inference": info.inference.model_dump(),
        "training": dict(info.training),
        "metrics": dict(info.metrics),
    }
    record["digest"] = json_digest(record)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(directory / HEAD, data)
    write_atomically(directory / RECORD, (text + "\n").encode())
    return sha256


def load_checkpoint(directory: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from fmbseg.align.heads import AlignmentHead

    found, data = _read(directory)
    try:
        head = AlignmentHead(found.form)
        head.load_state_dict(load(data))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, FmbsegError) as error:
        raise _damaged(directory, error) from error
    return Checkpoint(head.eval().requires_grad_(False), found.info, found.sha256)


def load_record(directory: Path) -> CheckpointRecord:
    """What the head in a folder is; its weights are held against their digest and not built.

    Raises:
        CheckpointError: a file is missing or damaged, or of another format.
    """
    return _read(directory)[0]


def _read(directory: Path) -> tuple[CheckpointRecord, bytes]:
    """The record, and the weights file that belongs to it."""
    record = _read_record(directory)
    try:
        data = (directory / HEAD).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{directory / HEAD} is missing: run `fmbseg run align`") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != record.get("sha256"):
        raise CheckpointError(
            f"{directory / HEAD} is damaged or belongs to another {RECORD}: copy both again, or "
            "run `fmbseg run align`"
        )
    try:
        return CheckpointRecord(HeadConfig(**record["head"]), _info(record), sha256), data
    except (KeyError, TypeError, ValueError, FmbsegError) as error:
        raise _damaged(directory, error) from error


def _damaged(directory: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(
        f"{directory / RECORD} is damaged ({reason}): copy the checkpoint again, or run "
        "`fmbseg run align`"
    )


def require_weights(reference: ModelReference, weights_dir: Path | str | None = None) -> None:
    """Check that a model's weights here are those of the checkpoint.

    Raises:
        CheckpointError: they are others; the head would map their features to nonsense.
        WeightsError: they are missing.
    """
    if weights_digest(reference.name, weights_dir) != reference.sha256:
        raise CheckpointError(
            f"the checkpoint was trained with other weights of {reference.name} than those here: "
            f"put the file with sha256 {reference.sha256[:12]}... there, or run `fmbseg run align`"
        )


def require_parameters(directory: Path, config: Config, stage: str) -> None:
    """Check that the head in a folder is the one that a stage publishes with this configuration.

    For the pipeline's own stages, whose results are recorded under the configuration; a checkpoint
    that a user names may be any. Images and labels are not looked at: they may be elsewhere.

    Raises:
        StoreError: it is missing, or has other parameters; the first one is named.
        CheckpointError: as `load_record`.
    """
    if not (directory / RECORD).is_file():
        raise StoreError(f"{directory} holds no head: run `fmbseg run {stage}` first")
    info = load_record(directory).info
    training, asked = info.training, config.evaluate.inference.model_dump()
    compared = [
        *((f"align.{name}", training.get(name), value) for name, value in config.align),
        ("run.seed", training.get("seed"), config.run.seed),
        ("features.encoder", info.encoder.name, config.features.encoder),
        ("features.short_side", info.short_side, config.features.short_side),
        ("clip.model", info.clip.name, config.clip.model),
        ("clip.templates", info.templates, config.clip.templates),
        *((f"evaluate.{name}", value, asked[name]) for name, value in info.inference),
    ]
    for name, found, value in compared:
        if found != value:
            raise StoreError(
                f"the head in {directory} has {name}={found}, the configuration "
                f"{name}={value}: run `fmbseg run {stage}` first"
            )


def _read_record(directory: Path) -> dict[str, Any]:
    path = directory / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint in {directory} ({RECORD} is missing): run `fmbseg run align`, or give "
            "the folder of a checkpoint"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: run `fmbseg run align`") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise CheckpointError(
            f"{path} has format {found!r}, this version reads {FORMAT}: run `fmbseg run align`"
        )
    if not _is_whole(record):
        raise CheckpointError(
            f"{path} is damaged or was changed by hand: copy it again, or run `fmbseg run align`; "
            "`--set evaluate.NAME=VALUE` asks a head in another way"
        )
    return record


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a record is as it was written; takes its digest out."""
    digest = record.pop("digest", None)
    try:
        return bool(digest == json_digest(record))
    except ValueError:  # JSON was read that cannot be written: NaN, half a character
        return False


def _info(record: Mapping[str, Any]) -> CheckpointInfo:
    return CheckpointInfo(
        encoder=ModelReference(**record["encoder"]),
        clip=ModelReference(**record["clip"]),
        vocabularies=tuple(map(Vocabulary.from_record, record["vocabularies"])),
        templates=record["templates"],
        short_side=int(record["short_side"]),
        inference=InferenceSection(**record["inference"]),
        training=record["training"],
        metrics=record["metrics"],
    )
