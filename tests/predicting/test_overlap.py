"""Pictures read ahead and written behind: the bytes, the order and the errors of one at a time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg import cli
from fmbseg.config import EvaluateSection, parse_config
from fmbseg.data.images import read_image
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.evaluate.methods.aligned import Aligned
from fmbseg.labelling.summary import Summary
from fmbseg.machine.progress import silent_progress
from fmbseg.predicting import overlap
from fmbseg.predicting.overlap import Steps, overlapped
from fmbseg.predicting.results import Answer, Results, Wanted
from fmbseg.predicting.run import SHEET, answer, predict_pictures
from fmbseg.store.ledger import LEDGER
from tests.heads import write_head
from tests.workspace import draw_picture

WORDS = vocabulary_from_names(["dog", "cat", "grass", "sky"])
ALL = Wanted("npz", contours=True)
SIZES = [(96, 64), (96, 64), (70, 90), (96, 64), (64, 64), (300, 200), (96, 64), (33, 57)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head and eight pictures; one more is cut off, and one is a text."""
    root = tmp_path_factory.mktemp("overlap")
    write_head(root / "head", 0)
    (root / "photos").mkdir()
    for number, size in enumerate(SIZES):
        draw_picture(number, size).save(root / "photos" / f"{number}.png")
    whole = (root / "photos" / "5.png").read_bytes()
    (root / "photos" / "3-cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "photos" / "6-text.png").write_text("no picture")
    return root


def jobs(place: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((place / "photos").iterdir())}


def predictor(place: Path) -> Aligned:
    config = parse_config({"run": {"threads": 1, "device": "cpu"}})
    section = EvaluateSection(short_side=64, shifts=2, min_region=0.02)
    return Aligned(config.model_copy(update={"evaluate": section}), place / "head")


def results_in(folder: Path) -> Results:
    folder.mkdir()
    return Results(folder, WORDS, ALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LEDGER}


def test_results_are_those_of_one_picture_after_the_other(place: Path, tmp_path: Path) -> None:
    method, results = predictor(place), results_in(tmp_path / "plain")
    counted = Summary(WORDS.names)
    for name, path in jobs(place).items():
        try:
            found = answer(read_image(path), method, WORDS)
        except DataError:
            continue
        results.write(name, path, found)
        counted.add(found.label, found.means(len(WORDS)))
    report = predict_pictures(
        jobs(place), method, WORDS, results_in(tmp_path / "out"), silent_progress()
    )
    made = contents(tmp_path / "out")
    assert made.pop(SHEET)
    assert made == contents(tmp_path / "plain") and len(made) == 5 * len(SIZES)
    assert [*report.done] == [str(number) for number in range(len(SIZES))]
    assert report.summary == tuple(counted.rows())
    assert [line.split(" is ")[0].rpartition("/")[2] for line in report.failures] == [
        "3-cut.png",
        "6-text.png",
    ]


def test_pictures_in_batches_get_their_own_labels(place: Path, tmp_path: Path) -> None:
    method = predictor(place)
    for batch in (1, 3):
        results = results_in(tmp_path / str(batch))
        report = predict_pictures(
            jobs(place), method, WORDS, results, silent_progress(), batch=batch
        )
        assert len(report.done) == len(SIZES) and len(report.failures) == 2
    one, other = (contents(tmp_path / each) for each in ("1", "3"))
    labels = [name for name in one if name.endswith(".label.png")]
    assert one.keys() == other.keys() and len(labels) == len(SIZES)
    assert all(one[name] == other[name] for name in labels)
    for name in (name for name in one if name.endswith(".npz")):
        with np.load(tmp_path / "1" / name) as mine, np.load(tmp_path / "3" / name) as theirs:
            np.testing.assert_allclose(mine["confidence"], theirs["confidence"], atol=1e-5)


class Odd(Aligned):
    """Fails for pictures of one size, wherever they stand in a batch."""

    def segment(self, images: Sequence[Image.Image], *rest: object, **more: object) -> Iterator:
        for image, found in zip(images, super().segment(images, *rest, **more), strict=True):
            if image.size == (70, 90):
                raise DataError("nothing is known of such pictures")
            yield found


def test_one_odd_picture_leaves_the_rest_of_its_batch(place: Path, tmp_path: Path) -> None:
    method = predictor(place)
    method.__class__ = Odd
    results = Results(tmp_path, WORDS, Wanted())
    report = predict_pictures(jobs(place), method, WORDS, results, silent_progress(), batch=4)
    assert [*report.done] == ["0", "1", "3", "4", "5", "6", "7"]
    assert report.failures[0] == "nothing is known of such pictures"


def test_strict_ends_at_the_first_and_what_came_before_is_written(
    place: Path, tmp_path: Path
) -> None:
    results = Results(tmp_path, WORDS, Wanted())
    with pytest.raises(DataError, match=r"3-cut\.png"):
        predict_pictures(
            jobs(place), predictor(place), WORDS, results, silent_progress(), strict=True
        )
    written = {path.name for path in tmp_path.glob("*.label.png")}
    before = [*takewhile(lambda name: name != "3-cut", jobs(place))]
    assert written == {f"{name}.label.png" for name in before}


def test_what_is_held_is_bounded_and_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pictures of 6,144 px with room for three; writing is the slowest step."""
    monkeypatch.setattr(overlap, "MAX_PIXELS", 3 * 96 * 64)
    lock, held, most = threading.Lock(), 0, 0

    def read(path: Path) -> Image.Image:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return read_image(path)

    def segment(pictures: Sequence[tuple[Path, Image.Image]]) -> Iterator[Answer]:
        for _, image in pictures:
            size = image.height, image.width
            yield Answer(image, np.zeros(size, np.uint8), np.zeros(size, np.float32))

    def write(name: str, path: Path, found: Answer) -> None:
        time.sleep(0.005)

    names = {str(number): place / "photos" / "0.png" for number in range(20)}
    order = []
    for job, found in overlapped(names, Steps(read, segment, write), lambda _: False):
        assert isinstance(found, Answer)
        order.append(job.name)
        with lock:
            held -= 1
    assert order == [*names] and 2 <= most <= 3


def test_a_picture_beyond_all_room_goes_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MAX_PIXELS", 10)

    def segment(pictures: Sequence[tuple[Path, Image.Image]]) -> Iterator[Answer]:
        assert len(pictures) == 1
        for _, image in pictures:
            size = image.height, image.width
            yield Answer(image, np.zeros(size, np.uint8), np.zeros(size, np.float32))

    steps = Steps(read_image, segment, lambda *_: None, batch=4)
    found = [*overlapped(jobs(place), steps, lambda _: False)]
    assert sum(isinstance(each, Answer) for _, each in found) == len(SIZES)


def test_a_kill_loses_nothing_that_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle; every file there is whole and known, and the next call goes on."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        draw_picture(number, (200, 160)).save(photos / f"{number:02d}.png")
    command = [sys.executable, "-m", "fmbseg", "predict", str(photos), "--classes", "dog, sky"]
    command += ["--checkpoint", str(place / "head"), "--set", "run.threads=1", "--out"]
    out = tmp_path / "out"
    with subprocess.Popen([*command, str(out)], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while len([*out.glob("*.label.png")]) < 4 and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    written = contents(out)
    written = {name: data for name, data in written.items() if not name.startswith(".fmbseg-tmp")}
    assert 4 <= len([name for name in written if name.endswith(".label.png")]) < 40
    lines = (out / LEDGER).read_text().splitlines()
    for name, data in written.items():
        assert f"{hashlib.sha256(data).hexdigest()}  {name}" in lines
    monkeypatch.chdir(tmp_path)
    assert cli._main([*command[3:], str(out)]) == 0
    assert cli._main([*command[3:], str(tmp_path / "whole")]) == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert written.items() <= contents(out).items()
