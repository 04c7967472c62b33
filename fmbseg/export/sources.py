"""Finding out what a folder of labels is: stage 1's out, a labelled folder, predictions, PNGs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmbseg.config import Config, DataSection
from fmbseg.data.datasets import load_dataset
from fmbseg.data.formats import PREDICTED
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary
from fmbseg.errors import DataError
from fmbseg.export.source import Classes, LabelledImage, Source
from fmbseg.labelling.record import LABELLED, VOCABULARY, read_labelled
from fmbseg.pseudo.merging import MACHINE
from fmbseg.pseudo.packs import has_label, label_ids
from fmbseg.pseudo.tables import MASKS


def open_source(
    place: Path, config: Config, images: Path | None = None, vocabulary: Vocabulary | None = None
) -> Source:
    """The labelled pictures of a folder.

    Args:
        place: an out of the stage label, a folder of `fmbseg label` or of `fmbseg predict`, or
            any folder of label PNGs (then `images` and `vocabulary` are needed).
        config: its section data says which pictures an out of the stage label is of.
        images: folder in which the pictures are looked for, in place of where they were.
        vocabulary: classes of the label maps, in place of those that were recorded.

    Raises:
        DataError: it is none of these, or a picture or label map is missing.
    """
    if not place.is_dir():
        raise DataError(f"{place} is no folder: give one of labels, such as data/pseudo/label")
    pictures = None if images is None else _by_name(images)
    if (place / LABELLED).is_file():
        return _labelled_folder(place, pictures, vocabulary)
    if (place / MASKS).is_file() and (place / "labels").is_dir():
        return _stage_out(place, config, pictures, vocabulary)
    if predicted := sorted(place.glob(f"*{PREDICTED}")):
        return _predictions(predicted, pictures, vocabulary)
    return _label_maps(place, pictures, vocabulary)


def in_order(source: Source, file: Path) -> Source:
    """The pictures that a file names, in its order: an image id a line.

    Raises:
        DataError: the file is missing, empty, or names a picture that is not there, or one twice.
    """
    wanted = listed_ids(file)
    by_id = {image.image_id: image for image in source.images}
    for name in wanted:
        if name not in by_id:
            raise DataError(f"{file} names {name!r}, which is none of the {len(by_id)} pictures")
    return replace(source, images=tuple(by_id[name] for name in wanted))


def listed_ids(file: Path) -> list[str]:
    """The image ids that a file names, one a line; raises DataError as `in_order`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: give a text file of image ids") from error
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted or len({*wanted}) < len(wanted):
        raise DataError(f"{file} names no picture, or one twice: give an image id a line")
    return wanted


def _labelled_folder(
    place: Path, pictures: Mapping[str, Path] | None, vocabulary: Vocabulary | None
) -> Source:
    record = read_labelled(place)
    root = Path(record.folder)
    found = [
        LabelledImage(
            entry.image_id,
            _picture(entry.image_id, root / entry.file, pictures),
            place / "labels" / f"{entry.image_id}.png",
            machine_path=_if_there(place / MACHINE / f"{entry.image_id}.png"),
        )
        for entry in record.images
    ]
    recorded = Classes.of(record.classes, record.background)
    own = place / VOCABULARY
    words = vocabulary or (load_vocabulary(own) if own.is_file() else None)
    classes = _chosen(vocabulary) or recorded
    return Source(classes, _checked(found, place), place / MASKS, vocabulary=words)


def _stage_out(
    place: Path, config: Config, pictures: Mapping[str, Path] | None, words: Vocabulary | None
) -> Source:
    if pictures is not None and words is not None:
        labels = _folder_of(place / "labels", words)
        listed = [
            (name, _picture(name, labels / f"{name}.png", pictures)) for name in label_ids(labels)
        ]
    else:
        data = config.data
        dataset = load_dataset(data.name, data.root, data.split)[: data.limit]
        words = words or _own_words(place, data, dataset.vocabulary)
        listed = [(name, _picture(name, path, pictures)) for name, path in dataset.image_files]
    labels = _folder_of(place / "labels", words)
    several = labels.name == words.name
    machine = place / MACHINE / words.name if several else place / MACHINE
    found = [
        LabelledImage(
            name,
            path,
            labels / f"{name}.png",
            machine_path=_if_there(machine / f"{name}.png"),
        )
        for name, path in listed
    ]
    classes = Classes.of(words.names, words.background)
    images = _checked(found, place)
    return Source(classes, images, place / MASKS, words.name if several else None, words)


def _folder_of(labels: Path, words: Vocabulary) -> Path:
    """With several vocabularies each has a folder."""
    own = labels / words.name
    return own if own.is_dir() else labels


def _own_words(place: Path, data: DataSection, dataset: Vocabulary) -> Vocabulary:
    """The vocabulary that stage 1 labelled in; DataError where there are several."""
    own = data.vocabulary
    if isinstance(own, tuple) and len(own) > 1:
        raise DataError(f"{place} has labels in {', '.join(own)}: say which with --vocabulary NAME")
    if own is None:
        return dataset
    return load_vocabulary(own if isinstance(own, str) else own[0])


def _predictions(
    labels: Sequence[Path], pictures: Mapping[str, Path] | None, vocabulary: Vocabulary | None
) -> Source:
    found = []
    classes: Classes | None = _chosen(vocabulary)
    first = None
    for path in labels:
        name = path.name.removesuffix(PREDICTED)
        record = _read_json(path.with_name(f"{name}.json"))
        own = Classes.of(record["classes"], record.get("background"))
        if vocabulary is None and classes is not None and own != classes:
            raise DataError(
                f"{path} has other classes than {first}: export predictions of one vocabulary "
                "at a time"
            )
        classes, first = classes or own, first or path
        stored = Path(record["image"])
        found.append(LabelledImage(name, _picture(stored.stem, stored, pictures), path))
    assert classes is not None  # there is at least one
    return Source(classes, _checked(found, labels[0].parent))


def _label_maps(
    place: Path, pictures: Mapping[str, Path] | None, vocabulary: Vocabulary | None
) -> Source:
    inside = place / "labels" if (place / "labels").is_dir() else place
    labels = sorted(inside.glob("*.png"))
    if not labels:
        raise DataError(f"{place} holds no labels: give a folder of label maps (PNG)")
    classes = _chosen(vocabulary)
    if pictures is None or classes is None:
        raise DataError(
            f"{place} says neither pictures nor classes of its label maps: "
            "give --images FOLDER and --vocabulary NAME|FILE"
        )
    found = [LabelledImage(path.stem, _picture(path.stem, path, pictures), path) for path in labels]
    return Source(classes, _checked(found, place))


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _chosen(vocabulary: Vocabulary | None) -> Classes | None:
    return None if vocabulary is None else Classes.of(vocabulary.names, vocabulary.background)


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their ids, and by their stems where those differ."""
    listed = load_dataset("folder", folder, "all").image_files
    return {path.stem: path for _, path in listed} | dict(listed)


def _picture(image_id: str, recorded: Path, pictures: Mapping[str, Path] | None) -> Path:
    if pictures is None:
        return recorded
    for name in (image_id, recorded.stem):
        if name in pictures:
            return pictures[name]
    raise DataError(f"no picture {image_id} among the {len(pictures)} of --images: name its folder")


def _checked(found: Sequence[LabelledImage], place: Path) -> tuple[LabelledImage, ...]:
    """The images, of which none has its files missing."""
    if not found:
        raise DataError(f"{place} holds no labels: label pictures first")
    for image in found:
        if not has_label(image.label_path):
            raise DataError(
                f"{image.label_path} does not exist: {place} is of other pictures, label these"
            )
        if not image.path.is_file():
            raise DataError(
                f"{image.path} does not exist: say where the pictures are with --images FOLDER"
            )
    return tuple(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: make the labels again") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}): make the labels again") from error
    if not isinstance(record, dict) or not isinstance(record.get("classes"), list):
        raise DataError(f"{path} names no classes: make the labels again")
    return record
