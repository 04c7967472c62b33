"""The classes of scenes: OpenMoji glyphs for things, procedural textures for stuff.

Names are the readable COCO-Stuff names; ids are those of the raw 182-label COCO pixel maps
(category id - 1) and of PASCAL VOC 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    glyphs: Sequence[str]
    coco_id: int
    voc_index: int | None = None
    synonyms: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["thing", "stuff"]:
        """Stuff has no glyphs."""
        return "thing" if self.glyphs else "stuff"

    @property
    def held_out_glyph(self) -> str | None:
        """The glyph pretraining never sees: the last, where there are three or more."""
        return self.glyphs[-1] if len(self.glyphs) >= 3 else None


THING_CLASSES = (
    SceneClass("person", "🧍🚶🧑👩👨👷🏃", 0, 15),
    SceneClass("bicycle", "🚲🚴", 1, 2),
    SceneClass("car", "🚗🚙🚘🚖🚕", 2, 7),
    SceneClass("motorcycle", "🏍🛵", 3, 14, ("motorbike",)),
    SceneClass("airplane", "✈🛩🛫", 4, 1, ("aeroplane",)),
    SceneClass("bus", "🚌🚍🚎", 5, 6),
    SceneClass("train", "🚆🚂🚄🚈🚅", 6, 19),
    SceneClass("truck", "🚛🛻🚒🚚", 7),
    SceneClass("boat", "⛵🚤🛶🚢", 8, 4),
    SceneClass("traffic light", "🚦🚥", 9),
    SceneClass("stop sign", "🛑", 12),
    SceneClass("bird", "🐦🦅🦆🦉🦜🦢🐓🐧", 15, 3),
    SceneClass("cat", "🐈🐱", 16, 8),
    SceneClass("dog", "🐕🐩🐶🦮", 17, 12),
    SceneClass("horse", "🐎🐴", 18, 13),
    SceneClass("sheep", "🐑🐏", 19, 17),
    SceneClass("cow", "🐄🐮🐂", 20, 10),
    SceneClass("elephant", "🐘", 21),
    SceneClass("bear", "🐻🐼", 22),
    SceneClass("zebra", "🦓", 23),
    SceneClass("giraffe", "🦒", 24),
    SceneClass("backpack", "🎒", 26),
    SceneClass("umbrella", "☂🌂⛱", 27),
    SceneClass("handbag", "👜👛👝", 30),
    SceneClass("tie", "👔", 31),
    SceneClass("suitcase", "🧳💼", 32),
    SceneClass("frisbee", "🥏", 33),
    SceneClass("skis", "🎿", 34),
    SceneClass("snowboard", "🏂", 35),
    SceneClass("sports ball", "⚽🏀🎾🏈⚾", 36),
    SceneClass("kite", "🪁", 37),
    SceneClass("skateboard", "🛹", 40),
    SceneClass("surfboard", "🏄", 41),
    SceneClass("bottle", "🍾🍼🧴", 43, 5),
    SceneClass("wine glass", "🍷🥂🍸", 45),
    SceneClass("cup", "☕🥤🍵", 46),
    SceneClass("fork", "🍴", 47),
    SceneClass("knife", "🔪🗡", 48),
    SceneClass("spoon", "🥄", 49),
    SceneClass("bowl", "🥣🍜🍲", 50),
    SceneClass("banana", "🍌", 51),
    SceneClass("apple", "🍎🍏", 52),
    SceneClass("sandwich", "🥪", 53),
    SceneClass("orange", "🍊", 54),
    SceneClass("broccoli", "🥦", 55),
    SceneClass("carrot", "🥕", 56),
    SceneClass("hot dog", "🌭", 57),
    SceneClass("pizza", "🍕", 58),
    SceneClass("donut", "🍩", 59),
    SceneClass("cake", "🎂🍰🧁", 60),
    SceneClass("chair", "🪑💺", 61, 9),
    SceneClass("couch", "🛋", 62, 18, ("sofa",)),
    SceneClass("potted plant", "🪴", 63, 16),
    SceneClass("bed", "🛏🛌", 64),
    SceneClass("dining table", TABLES, 66, 11),
    SceneClass("toilet", "🚽", 69),
    SceneClass("tv", "📺🖥", 71, 20, ("tv monitor", "television", "monitor", "television monitor")),
    SceneClass("laptop", "💻", 72),
    SceneClass("mouse", "🖱", 73),
    SceneClass("keyboard", "⌨", 75),
    SceneClass("cell phone", "📱", 76),
    SceneClass("book", "📕📗📘📙", 83),
    SceneClass("clock", "⏰🕰🕐", 84),
    SceneClass("vase", "🏺⚱", 85),
    SceneClass("scissors", "✂", 86),
    SceneClass("teddy bear", "🧸", 87),
    SceneClass("toothbrush", "🪥", 89),
    SceneClass("building", "🏢🏨🏥🏤", 95),
    SceneClass("door", "🚪", 111),
    SceneClass("flower", "🌻🌷🌹🌸", 118),
    SceneClass("fruit", "🍇🍓🍍🍐", 121),
    SceneClass("house", "🏠🏡🏘", 127),
    SceneClass("leaves", "🍁🍂🍃", 128),
    SceneClass("light", "💡", 129),
    SceneClass("mirror", "🪞", 132),
    SceneClass("mountain", "⛰🏔🗻", 134),
    SceneClass("rock", "🪨", 149),
    SceneClass("tent", "⛺🎪", 165),
    SceneClass("tree", "🌳🌲🌴", 168),
    SceneClass("vegetable", "🌽🍆🥒", 169),
)

STUFF_CLASSES = (
    SceneClass("clouds", "", 105, synonyms=("cloud",)),
    SceneClass("dirt", "", 110),
    SceneClass("tile floor", "", 116),
    SceneClass("wood floor", "", 117),
    SceneClass("grass", "", 123),
    SceneClass("gravel", "", 124),
    SceneClass("road", "", 148),
    SceneClass("rug", "", 151),
    SceneClass("sand", "", 153, synonyms=("sands",)),
    SceneClass("sea", "", 154),
    SceneClass("sky", "", 156),
    SceneClass("snow", "", 158),
    SceneClass("brick wall", "", 170),
    SceneClass("stone wall", "", 174),
)

SCENE_CLASSES = THING_CLASSES + STUFF_CLASSES
CLASS_INDEX = {scene_class.name: i for i, scene_class in enumerate(SCENE_CLASSES)}
