"""`fmbseg predict` of videos, on files that are really encoded."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg import cli
from fmbseg.data.palette import palette
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.errors import DataError
from fmbseg.predicting.frames import Overlays
from fmbseg.predicting.results import Answer
from fmbseg.predicting.video import Timing, new_video, open_video
from fmbseg.view.overlay import PALE
from tests.heads import write_head
from tests.workspace import draw_picture

av = pytest.importorskip("av", reason="the extra `video` is not installed")

NAMES = "dog|puppy, grass, sky"
SIZE = (72, 48)


def write_video(path: Path, frames: Sequence[Image.Image], times: Sequence[Fraction]) -> None:
    with new_video(path, Timing(Fraction(25), Fraction(1, 1000))) as video:
        for frame, at in zip(frames, times, strict=True):
            video.add(frame, at)


def drawn(count: int, size: tuple[int, int] = SIZE) -> list[Image.Image]:
    """Frames of a picture that moves to the right."""
    pixels = np.asarray(draw_picture(3, size))
    return [Image.fromarray(np.roll(pixels, 2 * number, axis=1)) for number in range(count)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outside of any project: a head, and a video of twelve frames."""
    write_head(tmp_path / "head", 0)
    write_video(tmp_path / "clip.mp4", drawn(12), [Fraction(k, 25) for k in range(12)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*named: str, out: str = "out", classes: str = NAMES) -> int:
    command = ["predict", *named, "--classes", classes, "--out", out, "--checkpoint", "head"]
    return cli._main(command)


def values(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def decoded(path: Path) -> list[Any]:
    with av.open(path) as container:
        return list(container.decode(container.streams.video[0]))


def test_frames_get_the_labels_that_they_get_as_pictures(place: Path) -> None:
    assert predict("clip.mp4", "--frames", "--scores", "png") == 0
    (place / "frames").mkdir()
    for number, frame in enumerate(decoded(place / "clip.mp4")):
        frame.to_image().save(place / "frames" / f"{number}.png")
    assert predict("frames", "--scores", "png", out="pictures") == 0
    pixels = np.zeros(3, np.int64)
    for number in range(12):
        for ending in ("label.png", "scores.png"):
            one = values(place / "out" / "clip" / f"{number:06d}.{ending}")
            other = values(place / "pictures" / f"{number}.{ending}")
            assert (one == other).all()
        pixels += np.bincount(
            values(place / "pictures" / f"{number}.label.png").ravel(), minlength=3
        )
    record = json.loads((place / "out" / "clip.json").read_text())
    assert (record["frames"], record["broken"], record["seconds"]) == (12, 0, 12 / 25)
    assert (record["width"], record["height"]) == SIZE
    shares = {row["index"]: row["share"] for row in record["areas"]}
    for index, share in enumerate(pixels / pixels.sum()):
        assert shares.get(index, 0) == pytest.approx(share, abs=1e-6)


def test_smoothed_frames_are_those_of_a_folder_in_its_order(place: Path) -> None:
    assert predict("clip.mp4", "--frames", "--smooth", "0.8") == 0
    assert predict("clip.mp4", "--frames", out="alone") == 0
    (place / "frames").mkdir()
    for number, frame in enumerate(decoded(place / "clip.mp4")):
        frame.to_image().save(place / "frames" / f"{number}.png")  # 10.png before 2.png by name
    assert predict("frames", "--smooth", "0.8", "--fps", "12.5", out="pictures") == 0
    changed = 0
    for number in range(12):
        smoothed = values(place / "out" / "clip" / f"{number:06d}.label.png")
        assert (smoothed == values(place / "pictures" / f"{number}.label.png")).all()
        changed += (smoothed != values(place / "alone" / "clip" / f"{number:06d}.label.png")).sum()
    assert changed > 0
    video = decoded(place / "pictures" / "frames.overlay.mp4")
    assert [frame.pts * frame.time_base for frame in video] == [
        k / Fraction(25, 2) for k in range(12)
    ]


def test_overlays_have_the_colours_of_the_labels(place: Path) -> None:
    assert predict("clip.mp4", "--frames") == 0
    colours = palette(3).astype(float)
    for number, frame in enumerate(decoded(place / "out" / "clip.overlay.mp4")):
        label = values(place / "out" / "clip" / f"{number:06d}.label.png")
        picture = frame.to_ndarray(format="rgb24").astype(float)
        factor = picture.shape[1] // SIZE[0]
        assert picture.shape[0] > SIZE[1] * factor  # the legend below
        # Inside of regions the tint is a fifth of what is seen: it is no scene.
        inner = picture[factor // 2 :: factor, factor // 2 :: factor][: SIZE[1], : SIZE[0]]
        source = np.asarray(decoded(place / "clip.mp4")[number].to_image(), float)
        tint = (inner - (1 - PALE) * source) / PALE
        nearest = np.abs(tint[:, :, None] - colours).sum(axis=-1).argmin(axis=-1)
        assert (nearest == label).mean() > 0.8


def test_times_of_frames_stay_as_they_are(place: Path) -> None:
    uneven = [Fraction(each, 1000) for each in (0, 40, 120, 121, 400, 430)]
    write_video(place / "phone.mp4", drawn(6), uneven)
    assert predict("phone.mp4") == 0
    made = decoded(place / "out" / "phone.overlay.mp4")
    assert [frame.pts * frame.time_base for frame in made] == uneven
    rate = Fraction(30000, 1001)
    with new_video(place / "film.mp4", Timing(rate, 1 / rate)) as video:
        for number, frame in enumerate(drawn(5)):
            video.add(frame, number / rate)
    assert predict("film.mp4") == 0
    with av.open(place / "out" / "film.overlay.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames) == (rate, 5)


@pytest.mark.parametrize(("degrees", "corner"), [(-90, (0, -1)), (90, (-1, 0)), (180, (-1, -1))])
def test_a_video_is_turned_upright(degrees: int, corner: tuple[int, int], tmp_path: Path) -> None:
    """Phones store what was filmed upright on its side, and a matrix that turns it."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255  # the stored picture's upper left
    with av.open(tmp_path / "turned.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees)
        for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
            container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    if degrees == -90:
        # As QuickTime defines it: x' = ax + cy, y' = bx + dy turns right into down, clockwise.
        content = (tmp_path / "turned.mp4").read_bytes()
        start = content.index(b"tkhd") + 4 + 40
        a, b, _, c, d = struct.unpack(">5i", content[start : start + 20])
        assert (a, b, c, d) == (0, 1 << 16, -1 << 16, 0)
    with open_video(tmp_path / "turned.mp4") as video:
        (frame,) = video.frames()
    width, height = (96, 64) if degrees == 180 else (64, 96)
    assert frame.image.size == (width, height)
    parts = np.asarray(frame.image.convert("L").resize((2, 2), Image.Resampling.BOX))
    assert parts[corner] > 200 and np.sort(parts.ravel())[2] < 60


def test_broken_frames_are_left_out_and_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, times = drawn(40), [Fraction(k, 25) for k in range(40)]
    write_video(place / "damaged.mp4", frames, times)
    content = bytearray((place / "damaged.mp4").read_bytes())
    (place / "cut.mp4").write_bytes(content[: len(content) * 3 // 4])
    middle = len(content) * 3 // 4
    content[middle : middle + 80] = np.random.default_rng(0).bytes(80)
    (place / "damaged.mp4").write_bytes(content)
    (place / "empty.mp4").write_bytes(b"")
    (place / "zeros.mkv").write_bytes(bytes(5000))
    names = ("damaged.mp4", "cut.mp4", "empty.mp4", "zeros.mkv", "gone.mov", "clip.mp4")
    assert predict(*names) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fmbseg: 5 of 6 not done: ")
    for said in (
        "damaged.mp4: ",
        "cut.mp4: ",
        "of 40 frames cannot be decoded, the others are done",
        "empty.mp4 is broken, cut off or no video",
        "zeros.mkv is broken, cut off or no video",
        "gone.mov does not exist: name a video, a picture or a folder of pictures",
    ):
        assert said in error
    for name in ("damaged", "cut"):
        record = json.loads((place / "out" / f"{name}.json").read_text())
        assert record["frames"] + record["broken"] == 40 and record["broken"] > 0
        made = decoded(place / "out" / f"{name}.overlay.mp4")
        assert len(made) == record["frames"] > 10
        # Those that are left keep their times.
        assert {frame.pts * frame.time_base for frame in made} < set(times)
    assert not {path.stem for path in (place / "out").iterdir()} & {"empty", "zeros", "gone"}
    assert (place / "out" / "clip.overlay.mp4").is_file()
    capsys.readouterr()
    assert predict("cut.mp4", "--strict", out="strict") == 2
    assert not list((place / "strict").glob("*.mp4"))


def test_what_cannot_be_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_picture(0, (64, 48)).save(place / "one.png")
    for more, said in (
        (("clip.mp4", "--smooth", "1"), "smoothing by 1: give a number from 0 to below 1"),
        (("clip.mp4", "--export", "coco"), "--export takes pictures, not videos"),
        (("clip.mp4", "--scores", "png"), "are those of its frames: add --frames"),
        (("clip.mp4", "--fps", "25"), "--fps is for pictures that are frames"),
        (("one.png", "--fps", "0"), "--fps 0: give frames a second"),
        (("one.png", "--frames"), "--frames is for videos, and none is named"),
    ):
        assert predict(*more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (place / "out").exists()
    command = ["predict", "clip.mp4", "--classes", "dog, cat", "--out", "out", "--method", "pseudo"]
    assert cli._main([*command, "--preset", "tiny", "--smooth", "0.5"]) == 2
    assert "similarities that could be smoothed over frames" in capsys.readouterr().err


def test_videos_among_photos_are_left_out_and_said(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "photos"
    folder.mkdir()
    draw_picture(0, (64, 48)).save(folder / "one.png")
    (place / "clip.mp4").rename(folder / "clip.mp4")
    assert predict("photos") == 0
    error = capsys.readouterr().err
    assert "left out: photos/clip.mp4 is a video: name it itself to `fmbseg predict`" in error
    assert predict("photos", "photos/clip.mp4", out="both") == 0
    made = {path.name for path in (place / "both").iterdir()}
    assert {"one.label.png", "clip.overlay.mp4", "clip.json", "sheet.png"} <= made


def test_a_result_that_somebody_changed_stays(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert predict("clip.mp4") == 0  # what it wrote itself is replaced
    mine = place / "out" / "clip.overlay.mp4"
    mine.write_bytes(b"cut by hand")
    assert predict("clip.mp4") == 2
    assert "clip.overlay.mp4" in capsys.readouterr().err
    assert mine.read_bytes() == b"cut by hand"


def test_a_killed_call_leaves_nothing_that_looks_done(place: Path) -> None:
    write_video(place / "long.mp4", drawn(200), [Fraction(k, 25) for k in range(200)])
    out = place / "out"
    command = [sys.executable, "-m", "fmbseg", "predict", "long.mp4", "--classes", NAMES]
    running = subprocess.Popen([*command, "--out", "out", "--checkpoint", "head"], cwd=place)
    try:
        until = time.monotonic() + 120
        while not list(out.glob(".fmbseg-tmp-*/*.mp4")) and time.monotonic() < until:
            assert running.poll() is None
            time.sleep(0.02)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not list(out.glob("*.mp4")) and not list(out.glob("*.json"))
    assert list(out.glob(".fmbseg-tmp-*"))
    assert predict("clip.mp4") == 0
    assert not list(out.glob(".fmbseg-tmp-*"))


def test_a_long_video_takes_no_more_memory_than_a_short_one(place: Path) -> None:
    """Held frames of 320 x 240 px would take 0.6 MB each, with their labels and confidences."""
    for name, count in (("short", 10), ("long", 150)):
        frames = drawn(10, (320, 240)) * (count // 10)
        write_video(place / f"{name}.mp4", frames, [Fraction(k, 25) for k in range(count)])
    code = f"""
import resource
from fmbseg import cli
for name in ("short", "long"):
    command = ["predict", f"{{name}}.mp4", "--classes", {NAMES!r}, "--out", "out"]
    assert cli._main([*command, "--checkpoint", "head", "--smooth", "0.5"]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    short, long = (int(line[1]) for line in lines if line[0] == "peak")
    assert long - short < 30


def test_many_classes_have_their_legend_beside_the_video() -> None:
    image = draw_picture(0, (512, 384))
    label = np.zeros((384, 512), np.uint8)
    found = Answer(image, label, np.ones(label.shape, np.float32))
    few, many = (vocabulary_from_names([f"thing {k}" for k in range(n)]) for n in (24, 25))
    assert Overlays(few).draw(found).height > 384
    assert Overlays(many).draw(found).height == 384


def test_frames_of_another_size_fit_no_video(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="72 x 48 px does not fit a video of 50 x 31 px"):  # noqa: SIM117
        with new_video(tmp_path / "a.mp4", Timing(Fraction(25), Fraction(1, 25))) as video:
            video.add(draw_picture(0, (50, 31)), Fraction(0))
            video.add(draw_picture(0, SIZE), Fraction(1, 25))
