"""The classes of scenes: OpenMoji glyphs for things, procedural textures for stuff.

Names are the readable COCO-Stuff names; ids are those of the raw 182-label COCO pixel maps
(category id - 1) and of PASCAL VOC 2012.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TABLES = ("table:round", "table:square", "table:trestle")  # drawn by scenes.py, no glyph fits


@dataclass(frozen=True)
class SceneClass:
    """One class of scenes.

    `glyphs` are single characters of the OpenMoji font (or a `table:...` drawing); empty for
    stuff. `coco_id` is the raw pixel id 0..181; `voc_index` 1..20, None outside PASCAL VOC.
    """

    name: str
    kind: Literal["thing", "stuff"]
    glyphs: tuple[str, ...]
    synonyms: tuple[str, ...]
    coco_id: int
    voc_index: int | None = None

    @property
    def held_out_glyph(self) -> str | None:
        """The glyph pretraining never sees: the last, where there are three or more."""
        return self.glyphs[-1] if len(self.glyphs) >= 3 else None


def _thing(
    name: str,
    glyphs: str | tuple[str, ...],
    coco_id: int,
    voc_index: int | None = None,
    synonyms: tuple[str, ...] = (),
) -> SceneClass:
    return SceneClass(name, "thing", tuple(glyphs), synonyms, coco_id, voc_index)


def _stuff(name: str, coco_id: int, synonyms: tuple[str, ...] = ()) -> SceneClass:
    return SceneClass(name, "stuff", (), synonyms, coco_id)


THING_CLASSES = (
    _thing("person", "🧍🚶🧑👩👨👷🏃", 0, 15),
    _thing("bicycle", "🚲🚴", 1, 2),
    _thing("car", "🚗🚙🚘🚖🚕", 2, 7),
    _thing("motorcycle", "🏍🛵", 3, 14, ("motorbike",)),
    _thing("airplane", "✈🛩🛫", 4, 1, ("aeroplane",)),
    _thing("bus", "🚌🚍🚎", 5, 6),
    _thing("train", "🚆🚂🚄🚈🚅", 6, 19),
    _thing("truck", "🚛🛻🚒🚚", 7),
    _thing("boat", "⛵🚤🛶🚢", 8, 4),
    _thing("traffic light", "🚦🚥", 9),
    _thing("stop sign", "🛑", 12),
    _thing("bird", "🐦🦅🦆🦉🦜🦢🐓🐧", 15, 3),
    _thing("cat", "🐈🐱", 16, 8),
    _thing("dog", "🐕🐩🐶🦮", 17, 12),
    _thing("horse", "🐎🐴", 18, 13),
    _thing("sheep", "🐑🐏", 19, 17),
    _thing("cow", "🐄🐮🐂", 20, 10),
    _thing("elephant", "🐘", 21),
    _thing("bear", "🐻🐼", 22),
    _thing("zebra", "🦓", 23),
    _thing("giraffe", "🦒", 24),
    _thing("backpack", "🎒", 26),
    _thing("umbrella", "☂🌂⛱", 27),
    _thing("handbag", "👜👛👝", 30),
    _thing("tie", "👔", 31),
    _thing("suitcase", "🧳💼", 32),
    _thing("frisbee", "🥏", 33),
    _thing("skis", "🎿", 34),
    _thing("snowboard", "🏂", 35),
    _thing("sports ball", "⚽🏀🎾🏈⚾", 36),
    _thing("kite", "🪁", 37),
    _thing("skateboard", "🛹", 40),
    _thing("surfboard", "🏄", 41),
    _thing("bottle", "🍾🍼🧴", 43, 5),
    _thing("wine glass", "🍷🥂🍸", 45),
    _thing("cup", "☕🥤🍵", 46),
    _thing("fork", "🍴", 47),
    _thing("knife", "🔪🗡", 48),
    _thing("spoon", "🥄", 49),
    _thing("bowl", "🥣🍜🍲", 50),
    _thing("banana", "🍌", 51),
    _thing("apple", "🍎🍏", 52),
    _thing("sandwich", "🥪", 53),
    _thing("orange", "🍊", 54),
    _thing("broccoli", "🥦", 55),
    _thing("carrot", "🥕", 56),
    _thing("hot dog", "🌭", 57),
    _thing("pizza", "🍕", 58),
    _thing("donut", "🍩", 59),
    _thing("cake", "🎂🍰🧁", 60),
    _thing("chair", "🪑💺", 61, 9),
    _thing("couch", "🛋", 62, 18, ("sofa",)),
    _thing("potted plant", "🪴", 63, 16),
    _thing("bed", "🛏🛌", 64),
    _thing("dining table", TABLES, 66, 11),
    _thing("toilet", "🚽", 69),
    _thing("tv", "📺🖥", 71, 20, ("tv monitor", "television", "monitor", "television monitor")),
    _thing("laptop", "💻", 72),
    _thing("mouse", "🖱", 73),
    _thing("keyboard", "⌨", 75),
    _thing("cell phone", "📱", 76),
    _thing("book", "📕📗📘📙", 83),
    _thing("clock", "⏰🕰🕐", 84),
    _thing("vase", "🏺⚱", 85),
    _thing("scissors", "✂", 86),
    _thing("teddy bear", "🧸", 87),
    _thing("toothbrush", "🪥", 89),
    _thing("building", "🏢🏨🏥🏤", 95),
    _thing("door", "🚪", 111),
    _thing("flower", "🌻🌷🌹🌸", 118),
    _thing("fruit", "🍇🍓🍍🍐", 121),
    _thing("house", "🏠🏡🏘", 127),
    _thing("leaves", "🍁🍂🍃", 128),
    _thing("light", "💡", 129),
    _thing("mirror", "🪞", 132),
    _thing("mountain", "⛰🏔🗻", 134),
    _thing("rock", "🪨", 149),
    _thing("tent", "⛺🎪", 165),
    _thing("tree", "🌳🌲🌴", 168),
    _thing("vegetable", "🌽🍆🥒", 169),
)

STUFF_CLASSES = (
    _stuff("clouds", 105, ("cloud",)),
    _stuff("dirt", 110),
    _stuff("tile floor", 116),
    _stuff("wood floor", 117),
    _stuff("grass", 123),
    _stuff("gravel", 124),
    _stuff("road", 148),
    _stuff("rug", 151),
    _stuff("sand", 153, ("sands",)),
    _stuff("sea", 154),
    _stuff("sky", 156),
    _stuff("snow", 158),
    _stuff("brick wall", 170),
    _stuff("stone wall", 174),
)

SCENE_CLASSES = THING_CLASSES + STUFF_CLASSES
CLASS_INDEX = {scene_class.name: i for i, scene_class in enumerate(SCENE_CLASSES)}
