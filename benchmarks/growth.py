"""How time, memory and disk grow with the pictures: `python -m benchmarks.growth --images 20000`.

Small drawn scenes in COCO's layout are labelled and trained on twice, a quarter of them and all,
in workspaces of their own, and the two are held side by side: what a picture takes in the first
and in the last tenth of a stage, peaks of memory, open files and threads, a stage with nothing to
do, the manifest, shards and disk, `dvc repro` and `dvc status` with nothing to do. Straight lines
through both say what is to be expected at `--reach` pictures.

With `--distinct D` only D scenes are drawn; the others are copies of them with a name and bytes of
their own (a comment in the JPEG file), so that nothing is taken for known. `--machinery` leaves the
comment away: encodings are then found by their content, and what is measured is what lies around
the models. Writes build/growth.json; exit code 1: memory, files or threads grow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.watching import WATCH
from fmbseg.scenes.files import write_scenes
from tests.project import Project, copy_project

STAGES = ("detect", "query", "masks", "label", "features", "align")
SPLIT = "train2017"
REACH = 118_287  # COCO's train2017
FLAT = 0.1  # growth of memory, files and threads that is none
# One window, one class and two prompts a picture: the models have as little to do as can be.
CONFIG = {
    "clip": {"short_side": 64, "window": 64, "stride": 64},
    "detection": {"rule": "votes"},
    "masks": {"points_per_side": 1},
    "features": {"short_side": 64},
    "align": {"epochs": 1},
    "tracking": {"enabled": False},
}


@dataclass(frozen=True)
class Stage:
    """One run of a stage, from nothing.

    Attributes:
        seconds: wall time, imports and models included.
        first: seconds a picture in the first tenth of the pictures.
        last: the same in the last tenth.
        peak: highest resident memory, MB.
        files: most files that were open at once.
        threads: most threads.
        processes: most children.
        idle: seconds of `fmbseg run STAGE` with nothing to do, its start included.
        idle_peak: its highest resident memory, MB.
        shards: seconds of each shard but the first, which loads models (stages that have shards).
    """

    seconds: float
    first: float
    last: float
    peak: float
    files: int
    threads: int
    processes: int
    idle: float
    idle_peak: float
    shards: tuple[float, ...]


@dataclass
class Run:
    """All that was measured of some pictures; seconds, files and bytes.

    Attributes:
        images: how many.
        stages: by name.
        times: of the manifest (`manifest`, and `manifest again`) and of DVC.
        disk: (files, bytes) by folder.
    """

    images: int
    stages: dict[str, Stage] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    disk: dict[str, tuple[int, int]] = field(default_factory=dict)


def draw(root: Path, images: int, distinct: int, side: int, *, same_bytes: bool) -> None:
    """Pictures in COCO's layout, without annotations: `images` of them out of `distinct` scenes."""
    write_scenes("coco_stuff164k", root / "drawn", train=distinct, val=1)
    scenes = []
    for path in sorted((root / "drawn" / "images" / SPLIT).iterdir()):
        with Image.open(path) as scene:
            scenes.append(scene.convert("RGB").resize((side, side)))
    folder = root / "images" / SPLIT
    folder.mkdir(parents=True)
    for number in range(images):
        comment = {} if same_bytes else {"comment": str(number).encode()}
        scenes[number % distinct].save(folder / f"{number:012d}.jpg", quality=90, **comment)
    shutil.rmtree(root / "drawn")


def measure(project: Project, images: int, given: argparse.Namespace) -> Run:
    """Run all stages from nothing, then each with nothing to do, then DVC."""
    found = Run(images)
    for name in ("manifest", "manifest again"):
        found.times[name] = _watched(project, "manifest")["seconds"]
    for name in given.stages:
        seen = _watched(project, name)
        start = time.monotonic()
        idle = _watched(project, name, "idle")
        seconds = time.monotonic() - start
        first, last = tenths(seen["marks"])
        found.stages[name] = Stage(
            seen["seconds"],
            first,
            last,
            seen["peak"],
            seen["files"],
            seen["threads"],
            seen["processes"],
            seconds,
            idle["peak"],
            tuple(now - before for (before, _), (now, _) in pairwise(seen["marks"])),
        )
        print(f"{images} {name}: {seen['seconds']:.1f} s", file=sys.stderr, flush=True)
    for name in (".fmbseg/shards", ".fmbseg/encodings", ".fmbseg/features", "data/pseudo/label"):
        found.disk[name] = _size(project.root / name)
    if given.dvc:
        for name, command in (
            ("dvc repro, all taken over", ("dvc", "repro", "-q", given.stages[-1])),
            ("dvc repro, nothing to do", ("dvc", "repro", "-q", given.stages[-1])),
            ("dvc status", ("dvc", "status", "-q", *given.stages)),
        ):
            start = time.monotonic()
            project.run(*command)
            found.times[name] = time.monotonic() - start
    return found


def _watched(project: Project, *arguments: str) -> dict[str, Any]:
    said = project.run(sys.executable, "-c", WATCH, *arguments)
    found: dict[str, Any] = json.loads(
        next(line for line in said.splitlines() if line.startswith("{"))
    )
    return found


def tenths(marks: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Seconds a picture in the first and in the last tenth, by (time, pictures done) marks.

    What came before the first mark, the loading of models above all, does not count. NaN: there
    are fewer than three marks.
    """
    if len(marks) < 3:
        return math.nan, math.nan
    span = max(1, len(marks) // 10)

    def rate(first: int, last: int) -> float:
        return (marks[last][0] - marks[first][0]) / (marks[last][1] - marks[first][1])

    return rate(0, span), rate(-span - 1, -1)


def _size(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def line(small: Run, large: Run, low: float, high: float, reach: int) -> float:
    """What a straight line through both says of `reach` pictures; never below `high`."""
    slope = (high - low) / (large.images - small.images)
    return max(high, high + slope * (reach - large.images))


def table(small: Run, large: Run, reach: int) -> Iterator[str]:
    """Both runs side by side, Markdown."""
    yield (
        f"| stage | s a picture, first and last tenth of {large.images} | peak MB at "
        f"{small.images} and {large.images} | files, threads, children | nothing to do, s | "
        f"the same at {reach} (line), s |"
    )
    yield "|---|---|---|---|---|---|"
    for name in large.stages:
        low, high = small.stages[name], large.stages[name]
        yield (
            f"| {name} | {high.first:.3f}, {high.last:.3f} | {low.peak:.0f}, {high.peak:.0f} | "
            f"{high.files}, {high.threads}, {high.processes} | {low.idle:.1f}, {high.idle:.1f} | "
            f"{line(small, large, low.idle, high.idle, reach):.0f} |"
        )
    yield ""
    yield f"| what | {small.images} | {large.images} | {reach} (line) |"
    yield "|---|---:|---:|---:|"
    for name, high in large.times.items():
        low = small.times[name]
        yield f"| {name}, s | {low:.1f} | {high:.1f} | {line(small, large, low, high, reach):.0f} |"
    for name, (files, size) in large.disk.items():
        before, bytes_before = small.disk[name]
        expected = line(small, large, bytes_before, size, reach) / 1e9
        yield (
            f"| {name} | {before} files, {bytes_before / 1e6:.1f} MB | {files} files, "
            f"{size / 1e6:.1f} MB | {line(small, large, before, files, reach):.0f} files, "
            f"{expected:.1f} GB |"
        )


def growing(small: Run, large: Run) -> list[str]:
    """What grows with the pictures and should not, in lines; one file or thread more is nothing."""
    return [
        f"{name}: {measure} {getattr(small.stages[name], measure):.0f} with {small.images} "
        f"pictures, {getattr(large.stages[name], measure):.0f} with {large.images}"
        for name in large.stages
        for measure in ("peak", "files", "threads", "processes")
        if getattr(large.stages[name], measure)
        > getattr(small.stages[name], measure) * (1 + FLAT) + (measure != "peak")
    ]


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--images", type=int, default=20_000, metavar="N")
    parser.add_argument("--distinct", type=int, default=100, metavar="D")
    parser.add_argument("--side", type=int, default=64, metavar="PX")
    parser.add_argument("--shard-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="in their order; default: all"
    )
    parser.add_argument("--machinery", action="store_true", help="copies have the same bytes")
    parser.add_argument("--pack", action="store_true", help="run.pack_labels")
    parser.add_argument("--no-dvc", dest="dvc", action="store_false")
    parser.add_argument("--reach", type=int, default=REACH, metavar="N")
    parser.add_argument("--folder", type=Path, help="where to work; None: a temporary one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fmbseg-growth-"))
    repository = Path(__file__).parents[1]
    runs = []
    try:
        for images in (given.images // 4, given.images):
            project = copy_project(repository, folder / str(images) / "project")
            pictures = folder / str(images) / "coco"
            distinct = min(given.distinct, images)
            draw(pictures, images, distinct, given.side, same_bytes=given.machinery)
            configure(project, pictures, given.shard_size, pack=given.pack)
            if given.dvc:
                project.run("dvc", "config", "core.analytics", "false")
            runs.append(measure(project, images, given))
            shutil.rmtree(folder / str(images))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    small, large = runs
    Path("build").mkdir(exist_ok=True)
    text = json.dumps([asdict(run) for run in runs], indent=1)
    Path("build/growth.json").write_text(text + "\n", encoding="utf-8")
    print("\n".join(table(small, large, given.reach)))
    found = growing(small, large)
    print("\n".join(["", *found]) if found else "\nmemory, files and threads do not grow")
    return int(bool(found))


def configure(project: Project, pictures: Path, shard_size: int, *, pack: bool) -> None:
    """Parameters for small pictures and one vocabulary."""
    import yaml

    place = project.root / "params.yaml"
    config = yaml.safe_load(place.read_text(encoding="utf-8"))
    for name, values in CONFIG.items():
        config[name] |= values
    config["run"] |= {"shard_size": shard_size, "pack_labels": pack}
    config["data"] |= {"root": os.fspath(pictures), "split": SPLIT, "vocabulary": None}
    place.write_text(yaml.safe_dump(config), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
