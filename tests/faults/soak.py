"""Stage 1 and predictions of thousands of scenes in one process: what grows is a leak.

    python -m tests.faults.soak --scenes 10000

Each scene is drawn, labelled by stage 1 (`Labeller`) and segmented by a head (`Segmenter`). Memory,
open files, child processes and processor time a scene are taken over tenths of the scenes; the last
tenth may need no more than 10 % above the second (in the first caches are filled).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from fmbseg import Labeller, load_segmenter
from fmbseg.config import Config, MasksSection
from tests.heads import write_head
from tests.workspace import draw_picture

WORDS = ("person", "dog", "sky", "grass", "car", "tree")
_TENTHS = 10
_MOST_GROWTH = 1.1
Figures = dict[str, float]


def measured(process: psutil.Process) -> Figures:
    """Resident memory in MB, open descriptors, threads and child processes."""
    return {
        "memory_mb": process.memory_info().rss / 1e6,
        "handles": float(process.num_fds()),
        "threads": float(process.num_threads()),
        "processes": float(len(process.children(recursive=True))),
    }


def soak(scenes: int, folder: Path) -> list[Figures]:
    """The medians of what is measured in each tenth of the scenes, and its time a scene.

    That is the processor's: what others do on the machine is no growth.
    """
    write_head(folder / "head", seed=0)
    labeller = Labeller(WORDS, Config(masks=MasksSection(points_per_side=4)))
    segmenter = load_segmenter(folder / "head")
    process, tenths = psutil.Process(), []
    for tenth in range(_TENTHS):
        begin, found = time.process_time(), []
        numbers = range(tenth * scenes // _TENTHS, (tenth + 1) * scenes // _TENTHS)
        for number in numbers:
            picture = draw_picture(number, (96 + number % 3 * 16, 64 + number % 2 * 16))
            labeller.label(picture)
            segmenter.predict(picture, classes=WORDS)
            if number % 5 == 0:
                found.append(measured(process))
        gc.collect()
        found.append(measured(process))
        figures = {name: statistics.median(each[name] for each in found) for name in found[0]}
        figures["seconds_a_scene"] = (time.process_time() - begin) / max(1, len(numbers))
        tenths.append(figures)
        said = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"tenth {tenth + 1}: {said}", flush=True)
    return tenths


def growth(tenths: list[Figures]) -> dict[str, float]:
    """What the last tenth needs of each, as a share of the second."""
    counts = ("memory_mb", "handles", "threads", "processes")
    grown = {name: (tenths[-1][name] + 1) / (tenths[1][name] + 1) for name in counts}
    name = "seconds_a_scene"
    return grown | {name: tenths[-1][name] / max(tenths[1][name], 1e-9)}


def main() -> None:
    """Ends with 1 where something grows."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scenes", type=int, default=10_000, metavar="N")
    parser.add_argument("--out", type=Path, default=Path("build/faults"), metavar="DIR")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fmbseg-soak-") as folder:
        tenths = soak(given.scenes, Path(folder))
    grown = growth(tenths)
    given.out.mkdir(parents=True, exist_ok=True)
    record = {"scenes": given.scenes, "tenths": tenths, "growth": grown}
    (given.out / "soak.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(", ".join(f"{name} x {share:.3f}" for name, share in grown.items()))
    sys.exit(any(share > _MOST_GROWTH for share in grown.values()))


if __name__ == "__main__":
    main()
