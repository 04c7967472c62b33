"""CLIP: recognition of single objects, classes of an image (1.1), classes of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.config import Config, Dense
from fmbseg.data.vocabulary import Vocabulary, load_vocabulary, vocabulary_from_names
from fmbseg.machine.progress import Progress
from fmbseg.models.clip import ClipEncoding, ClipModel
from fmbseg.models.text import TextEmbeddings
from fmbseg.pseudo.detection import detect_classes, similarity_to_classes
from fmbseg.quality.figures import PURITY, SEEDS, Figure, held_out_scene, percent
from fmbseg.quality.probe import patch_truth
from fmbseg.scenes.classes import SCENE_CLASSES, THING_CLASSES
from fmbseg.scenes.render import render_scene, scene_seed

CROPS = 6  # single-object crops of each thing class
TEMPLATES = ("single", "subset7", "imagenet80")
# A class is in an image from this share of it on; smaller ones count neither as there nor as not.
LEAST_SHARE = 0.005
VARIANT_SCENES = 40  # scenes on which the other dense features are measured
Classes = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class SeenScene:
    """A scene's truth and what CLIP makes of it.

    Attributes:
        share: [C] float64, share of the image that each scene class covers.
        majority: [h * w] int64, scene class of each patch.
        purity: [h * w] float32, share of the patch that class covers.
        encoding: windows and dense map [h, w, D].
    """

    share: npt.NDArray[np.float64]
    majority: npt.NDArray[np.int64]
    purity: npt.NDArray[np.float32]
    encoding: ClipEncoding


def clip_figures(
    clip: ClipModel, config: Config, scenes: int, progress: Progress
) -> tuple[list[Figure], Classes]:
    """All figures of CLIP, and its detection class by class (see `detection_figures`)."""
    figures = zero_shot(clip, config, "crops", progress)
    figures += zero_shot(clip, config, "held-out crops", progress)
    seen = see_scenes(clip, config, scenes, progress)
    # Each drawn class is one of COCO-Stuff, which has many names more that are never drawn.
    vocabulary = load_vocabulary("coco_stuff")
    text = clip.text_embeddings(vocabulary, config.clip.templates)
    detection, classes = detection_figures(seen, vocabulary, text, config, LEAST_SHARE)
    # Stage 1.1 asks SAM with so many of a class's patches: on less of it they cannot all lie.
    located = config.query.points / seen[0].majority.size
    detection += detection_figures(seen, vocabulary, text, config, located)[0]
    drawn = vocabulary_from_names([each.name for each in SCENE_CLASSES], "scenes")
    drawn_text = clip.text_embeddings(drawn, config.clip.templates)
    figures += detection
    figures += patch_figures(seen, drawn, drawn_text, "present", config)
    figures += patch_figures(seen, drawn, drawn_text, "all", config)
    figures += patch_figures(seen, vocabulary, text, "all", config)
    for variant in get_args(Dense):
        if variant != config.clip.dense:
            other = config.model_copy(
                update={"clip": config.clip.model_copy(update={"dense": variant})}
            )
            part = see_scenes(clip, other, min(scenes, VARIANT_SCENES), progress)
            figures += patch_figures(part, drawn, drawn_text, "present", other)
    return figures, classes


def zero_shot(
    clip: ClipModel,
    config: Config,
    part: Literal["crops", "held-out crops"],
    progress: Progress,
    crops: int = CROPS,
) -> list[Figure]:
    """Top-1 of crops with one object, among the names of all thing classes, for each template set.

    Args:
        clip: the model.
        config: its batch size is used.
        part: glyphs that pretraining has seen, or the one of each class held out of it.
        progress: counts the crops.
        crops: of each class.
    """
    side = clip.image_size
    held_out = part == "held-out crops"
    pixels, truth = [], []
    for k, scene_class in enumerate(THING_CLASSES):
        glyphs = [
            g
            for g, glyph in enumerate(scene_class.glyphs)
            if (glyph == scene_class.held_out_glyph) == held_out
        ]
        for n in range(crops if glyphs else 0):
            seed = scene_seed("evaluation", k * crops + n, seed=SEEDS[part])
            objects = [(scene_class.name, glyphs[n % len(glyphs)])]
            scene = render_scene(seed, size=(side, side), objects=objects, scale=(0.35, 0.95))
            pixels.append(scene.image)
            truth.append(k)
    names = vocabulary_from_names([each.name for each in THING_CLASSES])
    texts = {each: clip.text_embeddings(names, each) for each in TEMPLATES}
    found: dict[str, list[int]] = {each: [] for each in TEMPLATES}
    with progress.task(f"clip: {part}", len(pixels)) as task:
        for start in range(0, len(pixels), config.clip.batch_size):
            batch = np.stack(pixels[start : start + config.clip.batch_size])
            image = clip.encode_windows(batch)[0].cpu().numpy()
            for templates, text in texts.items():
                found[templates] += similarity_to_classes(image, text).argmax(axis=1).tolist()
            task.advance(len(batch))
    shown = "glyphs never seen" if held_out else "crops of one object"
    name = f"zero-shot top-1 of {len(THING_CLASSES)}, {shown}"
    return [
        percent("clip", f"{name}, templates {each}", np.array(chosen) == truth)
        for each, chosen in found.items()
    ]


def see_scenes(clip: ClipModel, config: Config, count: int, progress: Progress) -> list[SeenScene]:
    """Encode held-out scenes as stage 1 encodes images."""
    seen = []
    with progress.task("clip: scenes", count) as task:
        for index in range(count):
            scene = held_out_scene("scenes", index)
            encoding = clip.encode_image_windows(Image.fromarray(scene.image), config.clip)
            rows, columns, _ = encoding.dense.shape
            majority, purity = patch_truth(scene.label, (rows, columns))
            sizes = np.bincount(scene.label.ravel(), minlength=len(SCENE_CLASSES))
            share = sizes / scene.label.size
            seen.append(SeenScene(share, majority.numpy(), purity.numpy(), encoding))
            task.advance()
    return seen


def detection_figures(
    seen: list[SeenScene],
    vocabulary: Vocabulary,
    text: TextEmbeddings,
    config: Config,
    least: float,
) -> tuple[list[Figure], Classes]:
    """Recall and precision of stage 1.1's classes, thresholds as configured.

    A class is there from the share `least` of the image on; smaller pieces of it are left out of
    both. A name that is never drawn, such as "wall-other", can only be wrong: it lowers the
    precision over all detections, and has no precision of its own in the mean over classes.

    Returns:
        Figures, and by class name `recall` and `precision` in percent (None: nothing to divide
        by) and the counts `there` and `detected`.
    """
    where = [vocabulary.names.index(each.name) for each in SCENE_CLASSES]
    there = np.zeros((len(seen), len(vocabulary)), dtype=bool)
    unclear, found = there.copy(), there.copy()
    for row, scene in enumerate(seen):
        there[row, where] = scene.share >= least
        unclear[row, where] = (scene.share > 0) & ~there[row, where]
        classes = detect_classes(
            scene.encoding.windows, scene.encoding.dense, text, config.detection
        ).classes
        found[row, classes] = True
    found &= ~unclear
    hits, drawn = (there & found).sum(axis=0), there.sum(axis=0)
    detected = found.sum(axis=0)
    table: Classes = {
        vocabulary.names[k]: {
            "recall": _share(hits[k], drawn[k]),
            "precision": _share(hits[k], detected[k]),
            "there": int(drawn[k]),
            "detected": int(detected[k]),
        }
        for k in np.flatnonzero(drawn + detected)
    }
    occurring = [table[vocabulary.names[k]] for k in np.flatnonzero(drawn)]
    name = f"detection among {len(vocabulary)} names, from {100 * least:.1f} % of the scene"
    return [
        _mean(f"{name}: recall, mean over classes", [each["recall"] for each in occurring]),
        _mean(
            f"{name}: precision, mean over classes there",
            [each["precision"] for each in occurring],
        ),
        percent("clip", f"{name}: recall", found[there]),
        percent("clip", f"{name}: precision, all names", there[found]),
    ], table


def patch_figures(
    seen: list[SeenScene],
    vocabulary: Vocabulary,
    text: TextEmbeddings,
    among: Literal["present", "all"],
    config: Config,
) -> list[Figure]:
    """Patches of purity above 0.5 that get the class drawn there: all of them, and of things.

    Args:
        seen: scenes.
        vocabulary: holds every scene class by its name.
        text: its embeddings.
        among: choose among the classes of the scene, or among the whole vocabulary.
        config: `clip.dense` is named in the figure.
    """
    where = np.array([vocabulary.names.index(each.name) for each in SCENE_CLASSES])
    right, things = [], []
    for scene in seen:
        similarity = similarity_to_classes(scene.encoding.dense, text)
        similarity = similarity.reshape(-1, len(vocabulary))
        if among == "present":
            absent = np.ones(len(vocabulary), dtype=bool)
            absent[where[scene.share > 0]] = False
            similarity[:, absent] = -np.inf
        pure = scene.purity > PURITY
        right.append((similarity.argmax(axis=1) == where[scene.majority])[pure])
        things.append(scene.majority[pure] < len(THING_CLASSES))
    hit, thing = np.concatenate(right), np.concatenate(things)
    choice = "classes present" if among == "present" else f"{len(vocabulary)} names"
    name = f"dense ({config.clip.dense}) among {choice}"
    return [
        percent("clip", f"{name}: patches", hit),
        percent("clip", f"{name}: thing patches", hit[thing]),
    ]


def _share(part: int, whole: int) -> float | None:
    return round(100 * float(part) / float(whole), 2) if whole else None


def _mean(name: str, values: Sequence[float | None]) -> Figure:
    known = [value for value in values if value is not None]
    return Figure("clip", name, round(float(np.mean(known)), 2) if known else 0.0, "%", len(known))
