"""Names for the pictures of a folder, from the words of the vocabularies of the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fmbseg.config import Config
from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import (
    Vocabulary,
    VocabularyClass,
    load_vocabulary,
    vocabulary_names,
)
from fmbseg.data.vocabulary.classes import compared
from fmbseg.data.vocabulary.rest import CONTRASTS
from fmbseg.errors import DataError
from fmbseg.machine.device import choose_device
from fmbseg.machine.progress import Progress
from fmbseg.models.clip import ClipModel
from fmbseg.models.image_windows import ImageWindows
from fmbseg.models.text import SAME_TO_CLIP, TextEmbeddings
from fmbseg.pseudo.detection import detect_classes, similarity_to_classes
from fmbseg.pseudo.encodings import ClipEncodings, pixels_digest
from fmbseg.view.sheet import label_sheet

_EXAMPLES = 3  # a row of the sheet


@dataclass(frozen=True)
class Example:
    """The window of a picture that is most similar to a name.

    Attributes:
        file: the picture.
        similarity: cosine.
        crop: the window, RGB.
    """

    file: Path
    similarity: float
    crop: Image.Image


@dataclass
class Suggestion:
    """A name that was detected in pictures.

    Attributes:
        name: the first of the words that are one to CLIP.
        also: the others.
        pictures: in how many it was detected.
        votes: windows whose most similar name it is.
        examples: the most similar windows, each of another picture, the best first.
    """

    name: str
    also: tuple[str, ...]
    pictures: int = 0
    votes: int = 0
    examples: list[Example] = field(default_factory=list)

    def seen(self, votes: int, example: Example) -> None:
        """Count one picture more."""
        self.pictures += 1
        self.votes += votes
        self.examples = sorted([*self.examples, example], key=lambda each: -each.similarity)[
            :_EXAMPLES
        ]


@dataclass(frozen=True)
class Suggestions:
    """What a folder suggests.

    Attributes:
        found: names that were detected, those of most pictures first.
        pictures: how many were looked at.
        skipped: why others could not be read.
        asked: how many names there were.
    """

    found: tuple[Suggestion, ...]
    pictures: int
    skipped: tuple[str, ...]
    asked: int


def suggest(
    files: Sequence[Path], config: Config, encodings: Path | None, progress: Progress
) -> Suggestions:
    """Detect the names of all our vocabularies in pictures, as stage 1.1 does.

    Args:
        files: pictures; those that cannot be read are skipped.
        config: sections run, clip and detection are read.
        encodings: folder where what CLIP sees is kept; None: it is made anew.
        progress: advanced by pictures.

    Raises:
        DataError: no picture can be read.
        WeightsError: the weights of CLIP are missing or damaged.
    """
    clip = ClipEncodings(config, encodings, choose_device(config.run))
    words, text = distinct_words(clip.model, config.clip.templates)
    found = [Suggestion(each.name, each.synonyms) for each in words.classes]
    skipped: list[str] = []
    with progress.task("suggest", len(files)) as task:
        for file in files:
            try:
                image = read_image(file)
            except DataError as error:
                skipped.append(str(error))
            else:
                for index, votes, example in _detected(file, image, clip, text, config):
                    found[index].seen(votes, example)
            task.advance()
    if len(skipped) == len(files):
        raise DataError(f"no picture can be read: {'; '.join(skipped[:3]) or 'there is none'}")
    ranked = sorted(found, key=lambda each: (-each.pictures, -each.votes))
    seen = tuple(each for each in ranked if each.pictures)
    return Suggestions(seen, len(files) - len(skipped), tuple(skipped), len(words))


def distinct_words(clip: ClipModel, templates: str) -> tuple[Vocabulary, TextEmbeddings]:
    """All words of the vocabularies of the package, those that are one to CLIP as one class."""
    # Of words that are one the first list's names it.
    vocabularies = map(load_vocabulary, dict.fromkeys((CONTRASTS, *vocabulary_names())))
    asked = dict.fromkeys(compared(word) for each in vocabularies for word in each.queries[0])
    asked.pop("background", None)
    plain = Vocabulary("suggested", tuple(map(VocabularyClass, asked)))
    text = clip.text_embeddings(plain, templates)
    same = (text.queries @ text.queries.T >= SAME_TO_CLIP).cpu().numpy()
    leaders: dict[int, list[str]] = {}
    for index, word in enumerate(plain.names):
        first = next((leader for leader in leaders if same[index, leader]), index)
        leaders.setdefault(first, []).append(word)
    classes = tuple(VocabularyClass(name, tuple(more)) for name, *more in leaders.values())
    words = Vocabulary("suggested", classes)
    return words, clip.text_embeddings(words, templates)


def suggestion_sheet(found: Sequence[Suggestion], pictures: int) -> Image.Image:
    """A row a name, with its best examples.

    Args:
        found: at least one.
        pictures: how many were looked at.
    """
    blank = Image.new("RGB", (4, 3), "white")
    panels = []
    for each in found:
        captions = [f"{each.name}: {each.pictures} of {pictures}", *([""] * (_EXAMPLES - 1))]
        crops = [example.crop for example in each.examples]
        crops += [blank] * (_EXAMPLES - len(crops))
        panels += [(caption, crop, None) for caption, crop in zip(captions, crops, strict=True)]
    return label_sheet(panels, [each.name for each in found])


def _detected(
    file: Path, image: Image.Image, clip: ClipEncodings, text: TextEmbeddings, config: Config
) -> Iterator[tuple[int, int, Example]]:
    """Classes detected in a picture, their votes, and the window that is most similar to each."""
    seen = clip.encode_image(image, pixels_digest(image))
    detections = detect_classes(seen.windows, seen.dense, text, config.detection)
    classes = detections.classes
    if not len(classes):
        return
    model = clip.model
    cut = ImageWindows.cut(image, config.clip, model.image_size, model.patch_size)
    similarity = similarity_to_classes(seen.windows, text, classes)
    for number, (index, votes) in enumerate(zip(classes, detections.votes, strict=True)):
        best = int(np.argmax(similarity[:, number]))
        crop = Image.fromarray(cut.pixels(slice(best, best + 1))[0])
        example = Example(file, float(similarity[best, number]), crop)
        yield int(index), int(votes), example
