"""What a file a picture costs beside packs: `python -m benchmarks.packing --files 20000`.

The same label maps (128 px, all different) as one PNG each and in packs, in a scratch repository:
seconds of `seal` (every file is brought to disk and digested, as each stage does at its end) and of
the check of an out that is there (what a stage with nothing to do does), and of `dvc add`, `dvc
status`, `dvc add` with nothing to do, `dvc checkout` and `dvc push` to a folder. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fmbseg.pseudo.labels import label_png
from fmbseg.pseudo.packs import repack, write_pack
from fmbseg.store import atomic
from fmbseg.store.shards import MANIFEST

SIDE, BLOCK, SHARD = 128, 16, 64


def labels(files: int) -> dict[str, bytes]:
    """Label maps of blocks of 20 classes by image id; three pixels tell them apart."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 20, (SIDE // BLOCK, SIDE // BLOCK))
    label = np.kron(blocks, np.ones((BLOCK, BLOCK))).astype(np.uint8)
    made = {}
    for number in range(files):
        label[0, :3] = number % 250, number // 250 % 250, number // 62_500
        made[f"{number:012d}"] = label_png(label)
    return made


def write(folder: Path, made: dict[str, bytes], *, packed: bool) -> None:
    """Write them in one form or the other."""
    names = sorted(made)
    folder.mkdir(parents=True)
    if packed:
        for start in range(0, len(names), SHARD):
            write_pack(folder, {name: made[name] for name in names[start : start + SHARD]})
        repack(folder)
    else:
        for name in names:
            (folder / f"{name}.png").write_bytes(made[name])


def measure(root: Path, made: dict[str, bytes], *, packed: bool) -> dict[str, float]:
    """Seconds by what is done, in a repository of its own."""
    root.mkdir()
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        subprocess.run(command, cwd=root, check=True)
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.monotonic()
        work()
        found[name] = time.monotonic() - start

    def dvc(*arguments: str) -> Callable[[], object]:
        command = ["dvc", *arguments, "-q"]
        return lambda: subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)

    out = root / "label"
    write(out / "labels", made, packed=packed)
    found["files"] = sum(1 for _ in (out / "labels").iterdir())
    timed("seal", lambda: atomic.seal(out, MANIFEST, {}))
    timed("check", lambda: atomic.damage(out, MANIFEST))
    timed("dvc add", dvc("add", "label"))
    timed("dvc status", dvc("status", "label.dvc"))
    timed("dvc add, nothing to do", dvc("add", "label"))
    shutil.rmtree(out)
    timed("dvc checkout", dvc("checkout", "label.dvc"))
    remote = os.fspath(root.with_suffix(".remote"))
    dvc("remote", "add", "-d", "storage", remote)()
    timed("dvc push", dvc("push", "label.dvc"))
    return found


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--files", type=int, default=20_000, metavar="N")
    given = parser.parse_args()
    made = labels(given.files)
    with tempfile.TemporaryDirectory(prefix="fmbseg-packing-") as folder:
        loose = measure(Path(folder) / "loose", made, packed=False)
        packed = measure(Path(folder) / "packed", made, packed=True)
    print("| | a PNG each | packs |\n|---|---:|---:|")
    for name, value in loose.items():
        unit = "" if name == "files" else ", s"
        shown = ".0f" if name == "files" else ".2f"
        print(f"| {name}{unit} | {value:{shown}} | {packed[name]:{shown}} |")


if __name__ == "__main__":
    main()
