"""What a stage of stage 1 is computed from: images, vocabulary, inputs, and its content key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fmbseg.config import Config
from fmbseg.data import labels
from fmbseg.data.datasets import load_dataset
from fmbseg.data.manifest import Manifest, build_manifest
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.errors import StoreError
from fmbseg.machine.device import DeviceChoice, choose_device
from fmbseg.machine.progress import Progress
from fmbseg.models.weights import model_digest
from fmbseg.pseudo.encodings import CLIP_SOURCES, SAM_SOURCES, TEXT_SOURCES
from fmbseg.pseudo.tables import DETECTIONS, MASKS
from fmbseg.store.digest import content_key, file_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import is_published, published_key

_SCHEMA = 1
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class StageRecord:
    """What decides a stage's result, besides the images.

    Attributes:
        sections: sections of params.yaml.
        models: sections whose `model` names the weights.
        inputs: the table read from the out of each earlier stage.
        sources: source files.
        vocabulary: whether class names matter.
    """

    sections: tuple[str, ...]
    models: tuple[str, ...]
    inputs: Mapping[str, str]
    sources: tuple[Path, ...]
    vocabulary: bool


def _sources(*names: str) -> tuple[Path, ...]:
    return tuple(_HERE / f"{name}.py" for name in ("stages", "encodings", "tables", *names))


STAGES: Mapping[str, StageRecord] = {
    "detect": StageRecord(
        sections=("clip", "detection", "query"),
        models=("clip",),
        inputs={},
        sources=(*_sources("detection", "querying"), *CLIP_SOURCES, *TEXT_SOURCES),
        vocabulary=True,
    ),
    "query": StageRecord(
        sections=("sam",),
        models=("sam",),
        inputs={"detect": DETECTIONS},
        sources=(*_sources("querying"), *SAM_SOURCES),
        vocabulary=False,
    ),
    "masks": StageRecord(
        sections=("sam", "masks"),
        models=("sam",),
        inputs={},
        sources=(*_sources(), *SAM_SOURCES),
        vocabulary=False,
    ),
    "label": StageRecord(
        sections=("clip", "label"),
        models=("clip",),
        inputs={"detect": DETECTIONS, "query": MASKS, "masks": MASKS},
        sources=(
            *_sources("detection", "classification", "labels", "pipeline"),
            Path(labels.__file__),
            *CLIP_SOURCES,
            *TEXT_SOURCES,
        ),
        vocabulary=True,
    ),
}


class Plan:
    """Images, vocabulary, device and content keys of one run of a stage."""

    def __init__(self, config: Config, paths: Paths, progress: Progress) -> None:
        self._config = config
        self._paths = paths
        self._progress = progress
        self._keys: dict[str, str] = {}
        self.device: DeviceChoice = choose_device(config.run)

    @cached_property
    def manifest(self) -> Manifest:
        """The images, digested; no annotation is read."""
        data = self._config.data
        return build_manifest(data.name, self._root, data.split, data.limit, self._progress)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The configured vocabulary, or the data set's own."""
        data = self._config.data
        if data.vocabulary is not None:
            return load_vocabulary(data.vocabulary)
        return load_dataset(data.name, self._root, data.split).vocabulary

    @property
    def templates(self) -> str:
        """The template set of the prompts: one that a vocabulary was made for comes first."""
        return self.vocabulary.templates or self._config.clip.templates

    def destination(self, stage: str) -> Path:
        """Folder of a stage's out."""
        return self._paths.pseudo / stage

    def key(self, stage: str) -> str:
        """Content key of a stage's result.

        Raises:
            StoreError: an earlier stage's out is missing, damaged or made from something else.
        """
        if stage not in self._keys:
            self._keys[stage] = self._key(stage, STAGES[stage])
        return self._keys[stage]

    def header(self) -> dict[str, Any]:
        """What an out's manifest says of the images it was made from."""
        return {"images": len(self.manifest.records), "images_digest": self.manifest.digest}

    @property
    def _root(self) -> Path:
        return self._paths.root / self._config.data.root

    def _key(self, stage: str, record: StageRecord) -> str:
        inputs = {"images": self.manifest.digest}
        for earlier, table in record.inputs.items():
            self._require(stage, earlier)
            inputs[earlier] = file_digest(self.destination(earlier) / table)
        # `auto` and the device are not resolved: an out made elsewhere is taken as it is.
        params: dict[str, Any] = {"dtype": self._config.run.dtype}
        for section in record.sections:
            params[section] = getattr(self._config, section).model_dump(exclude={"model"})
        if record.vocabulary:
            params["vocabulary"] = self.vocabulary.digest
        models = [getattr(self._config, section).model for section in record.models]
        return content_key(
            stage,
            schema=_SCHEMA,
            params=params,
            inputs=inputs,
            weights={name: model_digest(name) for name in models},
            sources=record.sources,
            threads=self._config.run.threads,
        )

    def _require(self, stage: str, earlier: str) -> None:
        place = self.destination(earlier)
        if published_key(place) is None:
            raise StoreError(f"{stage} needs {place}: run `fmbseg run {earlier}` first")
        if not is_published(place, self.key(earlier)):
            raise StoreError(
                f"{stage}: {place} is damaged or was made with other images, parameters, weights "
                f"or code: run `fmbseg run {earlier}` again first"
            )
