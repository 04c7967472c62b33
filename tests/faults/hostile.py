"""Hostile files and texts: no traceback, no hang, little memory; what is sound is still done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tests.faults.forks import Outcome, call, start
from tests.faults.hostile_pictures import Make, not_utf_8, pictures
from tests.faults.hostile_texts import texts
from tests.workspace import draw_picture

_SOUND = "sound.jpg"
_THOUSAND_SECONDS = 1200.0


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: what it is.
        run: on a copy of a finished workspace; what it did wrong is in the second part.
    """

    name: str
    run: Callable[[Path], tuple[Outcome, str | None]]


def cases() -> Iterator[Case]:
    """All of them; each is run in a workspace of its own."""
    for name, file, make in pictures():
        yield Case(f"picture: {name}", _beside_a_sound_one(file, make))
    yield Case("picture: a name that is not UTF-8", _beside_a_sound_one("", _unnamed))
    for name, command in texts():
        yield Case(name, lambda root, command=command: _judged(call(command(root), root)))


def run_case(case: Case, finished: Path) -> tuple[Outcome, str | None]:
    """A case in a copy of a finished workspace; its outcome, and what is wrong with it."""
    with tempfile.TemporaryDirectory(prefix="fmbseg-hostile-") as folder:
        root = Path(folder) / "work"
        shutil.copytree(finished, root)
        outcome, problem = case.run(root)
        if (root / "pwned").exists():
            problem = "a command in the input was run"
        return outcome, problem


def _judged(outcome: Outcome) -> tuple[Outcome, str | None]:
    return outcome, outcome.problem


def _unnamed(path: Path) -> None:
    not_utf_8(path if path.is_dir() else path.parent)


def _beside_a_sound_one(file: str, make: Make) -> Callable[[Path], tuple[Outcome, str | None]]:
    def run(root: Path) -> tuple[Outcome, str | None]:
        photos = root / "photos"
        photos.mkdir()
        draw_picture(0, (64, 48)).save(photos / _SOUND)
        make(photos / file if file else photos)
        line = ("predict", "photos", "--classes", "dog, sky", "--out", "out")
        outcome = call(line, root)
        if problem := outcome.problem:
            return outcome, problem
        if not (root / "out" / "sound.json").is_file():
            return outcome, f"the sound picture is not done: {outcome.said.strip()[-200:]}"
        done = len(list((root / "out").rglob("*.json")))
        # A folder that is linked twice, or a link's own loop, is said and no mistake.
        if outcome.code == 0 and done < 2 and "left out" not in outcome.said:
            return outcome, "left out without a word"
        return outcome, None

    return run


def thousand(finished: Path, pictures: int = 1000, bad: int = 20) -> tuple[Outcome, str | None]:
    """A folder of pictures with some bad ones: all others are done, and each bad one is named."""
    with tempfile.TemporaryDirectory(prefix="fmbseg-hostile-") as folder:
        root = Path(folder) / "work"
        shutil.copytree(finished, root)
        photos = root / "photos"
        photos.mkdir()
        some = [draw_picture(seed, (64, 48)) for seed in range(8)]
        wrong = set(range(7, pictures, pictures // bad))
        for number in range(pictures):
            path = photos / f"{number:04d}.png"
            if number in wrong:
                path.write_bytes((b"", b"hello", bytes(50))[number % 3])
            else:
                Image.Image.save(some[number % 8], path)
        line = ("predict", "photos", "--classes", "dog, sky", "--out", "out")
        outcome = start(line, root).wait(_THOUSAND_SECONDS)
        done = len([each for each in (root / "out").glob("*.json")])
        unnamed = [f"{n:04d}.png" for n in wrong if f"{n:04d}.png" not in outcome.said]
        # So many take as long as they take: 60 s are for one.
        if problem := replace(outcome, seconds=0.0).problem:
            return outcome, problem
        if outcome.code != 2 or done != pictures - len(wrong) or unnamed:
            return outcome, f"{done} done, exit code {outcome.code}, not named: {unnamed[:3]}"
        return outcome, None
