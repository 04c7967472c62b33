"""Everything a stage is handed: parameters, folders, images, words, and the outs before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fmbseg.config import Config
from fmbseg.data.corrections import Corrections, correction_file, read_corrections
from fmbseg.data.datasets import SegmentationDataset, load_dataset
from fmbseg.data.label_maps import find_label_maps
from fmbseg.data.manifest import Manifest, build_manifest
from fmbseg.data.truth import truth_digest
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.documents import read_yaml
from fmbseg.errors import DataError, StoreError, VocabularyError
from fmbseg.machine.progress import Progress
from fmbseg.stage.depends import content_key
from fmbseg.stage.row import CORRECTIONS, IMAGES, LABEL, TRUTH, WORDS, Row
from fmbseg.stage.tracker import Tracker
from fmbseg.store.digest import file_digest, json_digest
from fmbseg.store.file_memory import remembered
from fmbseg.store.paths import Paths
from fmbseg.store.shards import Attempt, is_published, once, published_digest, published_key

_log = logging.getLogger(__name__)
_NAMED = 5  # pictures that a line of the log names


@dataclass(frozen=True)
class Workplace:
    """One workspace with one configuration.

    Attributes:
        rows: all stages, by name.
        config: all sections.
        paths: the workspace.
        progress: where progress is shown.
        tracker: what runs are logged with.
        benchmarks: names out of `evaluate.benchmarks` that a scoring stage is to score.
        attempt: called with the work of each shard.
    """

    rows: Mapping[str, Row]
    config: Config
    paths: Paths
    progress: Progress
    tracker: Tracker = field(default_factory=Tracker)
    benchmarks: tuple[str, ...] = ()
    attempt: Attempt = once
    _outs: dict[str, Out] = field(default_factory=dict)

    @cached_property
    def images(self) -> Manifest:
        """The images, digested; no annotation is read.

        Those that cannot be read are left out, and the log says which.

        Raises:
            DataError: the layout is not as it should be, or no image can be read; with
                `run.strict`: one cannot.
        """
        chosen = self.dataset[: self.config.data.limit]
        strict = self.config.run.strict
        found = build_manifest(chosen, self.progress, self.paths.manifests, strict=strict)
        if found.left_out:
            first = "; ".join(map(str, found.left_out[:_NAMED]))
            _log.warning(
                "%d of %d images are left out: %s%s (all of them: `fmbseg data doctor`)",
                len(found.left_out),
                len(found.left_out) + len(found.records),
                first,
                "; ..." if len(found.left_out) > _NAMED else "",
            )
        return found

    @cached_property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """The configured vocabularies, or the data set's own.

        Raises:
            VocabularyError, DataError: one is missing, damaged or too long, or two have one name.
        """
        wanted = self.config.data.vocabulary
        if wanted is None:
            return (self.dataset.vocabulary,)
        names = (wanted,) if isinstance(wanted, str) else wanted
        found = {each.name: each.require_small() for each in map(load_vocabulary, names)}
        if len(found) < len(names):
            raise VocabularyError(
                f"data.vocabulary: two of {', '.join(names)} have the same `name`: rename one"
            )
        return tuple(found.values())

    @cached_property
    def label_maps(self) -> dict[str, Path] | None:
        """Files of `data.labels` by image id; None: the labels are those of stage 1.

        Raises:
            DataError: the folder or the label map of an image is missing, or the classes are those
                of several vocabularies.
        """
        folder = self.config.data.labels
        if folder is None:
            return None
        if len(self.vocabularies) > 1:
            raise DataError(
                "data.labels are label maps in one vocabulary: name that one in data.vocabulary"
            )
        images = [(record.image_id, record.path) for record in self.images.records]
        return find_label_maps(self.paths.root / folder, images)

    @cached_property
    def corrections(self) -> Corrections | None:
        """What people have corrected of stage 1's labels, in one vocabulary; None: nothing.

        Raises:
            DataError: the record is damaged, of other classes, or missing although DVC follows it.
        """
        place = self.paths.corrections
        found = read_corrections(place)
        if found is None:
            _require_none_followed(self.paths)
        if found is None or not found.images:
            return None
        if all(words.names != found.classes for words in self.vocabularies):
            names = ", ".join(words.name for words in self.vocabularies)
            raise DataError(
                f"{place} has corrections in other classes than {names}: set data.vocabulary to "
                "theirs, or move that folder away"
            )
        known = {record.image_id for record in self.images.records}
        if others := len([image_id for image_id in found.images if image_id not in known]):
            _log.warning(
                "%s: %d of %d corrected pictures are not among the images",
                place,
                others,
                len(found.images),
            )
        here = {image_id: each for image_id, each in found.images.items() if image_id in known}
        return replace(found, images=here) if here else None

    @cached_property
    def merged(self) -> Corrections | None:
        """What of the labels that are there to be trained on people have corrected.

        Of `data.labels`, which may be of any origin, what lies beside them says so.
        """
        folder = self.config.data.labels
        if folder is None:
            return read_corrections(self.out(LABEL).place)
        place = self.paths.root / folder
        return read_corrections(place) or read_corrections(place.parent)

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The data set of the section data."""
        data = self.config.data
        return load_dataset(data.name, self.paths.root / data.root, data.split)

    def out(self, name: str) -> Out:
        """The out of a stage; asked for once."""
        if name not in self._outs:
            self._outs[name] = Out(self.rows[name], self)
        return self._outs[name]

    def header(self) -> dict[str, Any]:
        """What an out's manifest says of the images it was made from."""
        return {"images": len(self.images.records), "images_digest": self.images.digest}


class Out:
    """The out of a stage: its content key as things are now, and whether it is there.

    Light: what the stage computes with is not imported.
    """

    def __init__(self, row: Row, work: Workplace) -> None:
        self.row = row
        self.work = work

    @property
    def place(self) -> Path:
        """Its folder."""
        return self.work.paths.root / self.row.outputs[0]

    @cached_property
    def key(self) -> str:
        """Its content key. The only place where one is made of a row.

        Raises:
            StoreError: an earlier stage's out is missing, damaged or made from something else.
            FmbsegError: images, words or weights are missing or damaged.
        """
        return content_key(self.row.name, self.row.depends, self.work.config, self.inputs)

    @property
    def published(self) -> bool:
        """Whether the out is there under this key, undamaged: nothing is to be computed."""
        return is_published(self.place, self.key)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The content of each input, by name; raises as `key`."""
        found = {name: self._input(name) for name in self.row.inputs}
        return {name: digest for name, digest in found.items() if digest is not None}

    def require(self, name: str) -> Path:
        """Folder of an earlier stage's out, which is there and made from what is here now.

        Raises:
            StoreError: it is not.
        """
        earlier = self.work.out(name)
        if published_key(earlier.place) is None:
            raise StoreError(
                f"{self.row.name} needs {earlier.place}: run `fmbseg run {name}` first"
            )
        if not earlier.published:
            raise StoreError(
                f"{self.row.name}: {earlier.place} is damaged or was made with other images, "
                f"parameters, weights or code: run `fmbseg run {name}` again first"
            )
        return earlier.place

    def _input(self, name: str) -> str | None:
        """None: there is none of it, and the result is as if it could not be."""
        work = self.work
        if name == IMAGES:
            return work.images.digest
        if name == WORDS:
            return json_digest([[words.name, words.digest] for words in work.vocabularies])
        if name == TRUTH:
            samples = work.dataset.of({record.image_id for record in work.images.records})
            samples.require_labels()
            truth = truth_digest(samples, work.progress, work.paths.manifests)
            return json_digest([truth, work.dataset.vocabulary.digest])
        if name == CORRECTIONS:
            return _corrections_digest(work)
        if name == LABEL and work.label_maps is not None:
            merged = work.merged
            digest = _files_digest(work, work.label_maps)
            return digest if merged is None else json_digest([digest, merged.to_json()])
        return published_digest(self.require(name))


def _require_none_followed(paths: Paths) -> None:
    if not paths.followed.is_file():
        return
    record = read_yaml(paths.followed, DataError)
    place = record.get(CORRECTIONS) if isinstance(record, dict) else None
    if place != paths.followed.name:
        raise DataError(
            f"{paths.followed} says that there are corrections in {place}, and there are none: "
            "bring them back (`dvc checkout`), or that file as it was before (`git checkout`)"
        )


def _corrections_digest(work: Workplace) -> str | None:
    found = work.corrections
    if found is None:
        return None
    place = work.paths.corrections
    files = {image_id: correction_file(place, image_id) for image_id in found.images}
    return json_digest([found.to_json(), _files_digest(work, files)])


def _files_digest(work: Workplace, files: Mapping[str, Path]) -> str:
    """Digest of files, by name; those that have not changed are not read again."""
    paths = list(files.values())
    found = remembered(
        work.paths.manifests,
        "label maps",
        [(path,) for path in paths],
        lambda index: file_digest(paths[index]),
        work.progress,
        "digest",
    )
    return json_digest(list(zip(files, found, strict=True)))
