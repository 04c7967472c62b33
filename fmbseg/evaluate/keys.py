"""The content key of a benchmark's result: everything that decides its figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmbseg.align.checkpoint import CheckpointInfo, load_checkpoint
from fmbseg.config import Config
from fmbseg.data.datasets import Sample, SegmentationDataset
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.evaluate.benchmark import held_out_images
from fmbseg.inference import segmenter as predict
from fmbseg.machine.progress import Progress
from fmbseg.models.weights import model_digest
from fmbseg.pseudo.encodings import CLIP_SOURCES, SAM_SOURCES, TEXT_SOURCES
from fmbseg.store.digest import content_key, file_digest, json_digest

__all__ = ["SOURCES", "result_key"]

_SCHEMA = 2
_READERS = 4
_PACKAGE = Path(__file__).parents[1]
_SHARED_SOURCES = (
    *(
        _PACKAGE / "evaluate" / f"{name}.py"
        for name in (
            "benchmark",
            "boundary",
            "decision",
            "keys",
            "metrics",
            "predictors",
            "protocol",
            "sliding",
            "stages",
            "sweep",
        )
    ),
    *(
        _PACKAGE / "data" / f"{name}.py"
        for name in ("datasets", "detail", "images", "layouts", "listing", "windows")
    ),
    Path(predict.__file__),
    *CLIP_SOURCES,
    *TEXT_SOURCES,
)


@dataclass(frozen=True)
class _Method:
    """What decides a method's labels, besides the protocol that all share.

    Attributes:
        sections: sections of params.yaml.
        models: sections whose `model` names weights.
        sources: source files, besides those of all methods.
        trained: whether it has a checkpoint.
    """

    sections: tuple[str, ...]
    models: tuple[str, ...]
    sources: tuple[Path, ...]
    trained: bool = False


_TRAINED = _Method(
    sections=(),
    models=(),
    sources=(
        *(_PACKAGE / "align" / f"{name}.py" for name in ("checkpoint", "features", "heads")),
        *(_PACKAGE / "models" / f"{name}.py" for name in ("backbone", "timm_features")),
        _PACKAGE / "models" / "tiny" / "encoder.json",
    ),
    trained=True,
)
_METHODS: Mapping[str, _Method] = {
    "fmbseg": _TRAINED,
    "oracle": _TRAINED,
    "maskclip": _Method(
        sections=("clip",), models=("clip",), sources=(_PACKAGE / "pseudo" / "encodings.py",)
    ),
    "pseudo": _Method(
        sections=("clip", "detection", "query", "sam", "masks", "label"),
        models=("clip", "sam"),
        sources=(
            *SAM_SOURCES,
            *(
                _PACKAGE / "pseudo" / f"{name}.py"
                for name in (
                    "classification",
                    "detection",
                    "encodings",
                    "labels",
                    "pipeline",
                    "querying",
                )
            ),
        ),
    ),
}
# Source files that the results of each method depend on.
SOURCES: Mapping[str, tuple[Path, ...]] = {
    name: (*_SHARED_SOURCES, *method.sources) for name, method in _METHODS.items()
}


def result_key(
    config: Config,
    method: str,
    checkpoint_path: Path,
    dataset: SegmentationDataset,
    limit: int | None,
    vocabulary: Vocabulary,
    progress: Progress,
) -> tuple[str, str]:
    """The content key of a result, and the digest of the images and truth it is made on.

    Args:
        config: all sections.
        method: one of `METHODS`.
        checkpoint_path: of the head; methods without one do not look at it.
        dataset: the benchmark.
        limit: how many of its first samples are scored; None: all.
        vocabulary: the words scored with.
        progress: of the reading of images and truth.

    Raises:
        DataError: a sample has no truth, or cannot be read.
        CheckpointError, WeightsError: the head, or a model's weights, are missing or damaged.
    """
    own = _METHODS[method]
    inputs = {}
    if held_out_images(dataset.root) is not None:
        inputs["scenes"] = file_digest(dataset.root / "scenes.parquet")
    weights = {}
    for section in own.models:
        name = getattr(config, section).model
        weights[name] = model_digest(name)
    if own.trained:
        checkpoint = load_checkpoint(checkpoint_path)
        inputs["checkpoint"] = checkpoint.sha256
        inputs["checkpoint_info"] = _info_digest(checkpoint.info)
        for model in (checkpoint.info.encoder, checkpoint.info.clip):
            weights[model.name] = model_digest(model.name)
    # Last: a missing checkpoint should not cost the reading of all images.
    inputs["samples"] = _samples_digest(dataset[:limit], progress)
    params: dict[str, Any] = {
        "evaluate": config.evaluate.model_dump(exclude={"benchmarks"}),
        "dtype": config.run.dtype,
        "split": dataset.split,
        "limit": limit,
        "vocabulary": [vocabulary.name, vocabulary.digest],
        "benchmark": dataset.name,
    }
    for section in own.sections:
        params[section] = getattr(config, section).model_dump()
    key = content_key(
        f"evaluate-{method}",
        schema=_SCHEMA,
        params=params,
        inputs=inputs,
        weights=weights,
        sources=SOURCES[method],
        threads=config.run.threads,
    )
    return key, inputs["samples"]


def _samples_digest(samples: Sequence[Sample], progress: Progress) -> str:
    """Digest of images and truth as they are read, whatever files the truth lies in."""
    digests = []
    # Reading, decoding and hashing release the interpreter lock.
    with progress.task("digest", len(samples)) as task, ThreadPoolExecutor(_READERS) as pool:
        for digest in pool.map(_sample_digest, samples):
            digests.append(digest)
            task.advance(1)
    return json_digest(digests)


def _sample_digest(sample: Sample) -> list[str]:
    label = sample.label
    if label is None:
        raise DataError(f"{sample.image_path} has no annotation: score a split that has truth")
    # Labels are 0 to 255; eight times less to hash.
    values = hashlib.sha256(repr(label.shape).encode() + label.astype("uint8").tobytes())
    return [sample.image_id, file_digest(sample.image_path), values.hexdigest()]


def _info_digest(info: CheckpointInfo) -> str:
    # What inference reads; where and how the head was trained does not matter here.
    return json_digest([info.templates, info.encoder.name, info.clip.name])
