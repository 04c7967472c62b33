"""The words of pretraining: which scene classes a class name can stand for.

Every name of every vocabulary is a word. Words that name no scene class are negatives everywhere.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.scenes.classes import SCENE_CLASSES

VOCABULARIES = (
    "voc20", "voc21", "context59", "coco_object", "coco_stuff", "cityscapes", "ade20k", "camvid",
)  # fmt: skip

# General words, true of several scene classes. Names of classes that are not drawn are skipped.
GENERAL = {
    "wall": ("brick wall", "stone wall", "tile wall"),
    "floor": ("wood floor", "tile floor"),
    "ground": ("dirt", "gravel", "sand", "grass"),
    "earth": ("dirt",),
    "terrain": ("grass", "dirt", "sand"),
    "land": ("grass", "dirt", "sand"),
    "field": ("grass",),
    "playing field": ("grass",),
    "water": ("sea", "river", "water"),
    "vegetation": ("tree", "flower", "potted plant", "bush", "grass"),
    "plant": ("potted plant", "flower", "tree"),
    "wood": ("wood floor",),
    "stone": ("stone wall", "gravel", "rock"),
    "rock": ("stone wall", "gravel", "rock"),
    "food": ("pizza", "hot dog", "donut", "cake", "sandwich"),
    "fruit": ("banana", "apple", "orange"),
    "vegetable": ("broccoli", "carrot"),
    "furniture": ("chair", "couch", "bed", "dining table"),
    "animal": (
        "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "bird",
    ),
    "sky": ("sky", "clouds"),
    "pavement": ("road",),
    "sands": ("sand",),
    "palm": ("tree",),
    "lake": ("sea",),
    "river": ("river", "sea"),
    "rug": ("rug", "carpet"),
    "carpet": ("rug", "carpet"),
    "mat": ("rug", "carpet"),
    "hovel": ("house",),
    "skyscraper": ("building", "skyscraper"),
    "structure": ("building", "house"),
    "ship": ("boat",),
    "van": ("car", "truck"),
    "minibike": ("motorcycle",),
    "armchair": ("chair", "couch"),
    "bag": ("handbag", "backpack", "suitcase"),
    "ball": ("sports ball",),
    "plaything": ("teddy bear", "kite"),
    "rider": ("person",),
    "bicyclist": ("person",),
    "cyclist": ("person",),
    "traffic sign": ("stop sign",),
    "sign": ("stop sign",),
    "television receiver": ("tv",),
    "crt screen": ("tv",),
    "path": ("road",),
    "runway": ("road",),
    "lamp": ("light",),
    "chandelier": ("light",),
    "clothes": ("tie",),
    "apparel": ("tie",),
    "table": ("dining table",),
    "plate": ("dining table", "bowl"),
    "glass": ("wine glass", "cup"),
    "screen": ("tv", "laptop"),
    "computer": ("laptop", "tv"),
    "pot": ("potted plant", "vase"),
}  # fmt: skip


@functools.cache
def words() -> tuple[tuple[str, ...], Tensor]:
    """All words and the bool matrix [W, C] of the scene classes each can stand for."""
    names = [c.name for c in SCENE_CLASSES]
    meaning: dict[str, set[int]] = {}
    for index, scene_class in enumerate(SCENE_CLASSES):
        for word in (scene_class.name, *scene_class.synonyms):
            meaning.setdefault(word.lower(), set()).add(index)
    # In the vocabulary that captions are written in, a word means its own class alone: there
    # "food" is what is neither pizza nor cake, as in COCO-Stuff's "food-other".
    own_words = set(load_vocabulary("coco_stuff").queries[0])
    for word, classes in GENERAL.items():
        if word in own_words:
            continue
        drawn = {names.index(name) for name in classes if name in names}
        if drawn:
            meaning.setdefault(word, set()).update(drawn)
    for vocabulary in VOCABULARIES:
        for word in load_vocabulary(vocabulary).queries[0]:
            meaning.setdefault(word.lower(), _person(word, names))
    matrix = torch.zeros(len(meaning), len(names), dtype=torch.bool)
    for row, drawn in enumerate(meaning.values()):
        matrix[row, sorted(drawn)] = True
    return tuple(meaning), matrix


def _person(word: str, names: list[str]) -> set[int]:
    # "person in shirt", "people", ...: the peers' synonyms of person.
    is_person = word.lower().startswith(("person", "people", "pedestrian", "body"))
    return {names.index("person")} if is_person else set()
