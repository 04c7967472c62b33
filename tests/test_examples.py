"""The example scripts run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from fmbseg.store.paths import Paths


def test_a_picture_is_segmented_and_drawn(
    workspace: Paths, coco: Path, repository: Path, tmp_path: Path
) -> None:
    picture, out = sorted((coco / "images").rglob("*.jpg"))[0], tmp_path / "overlay.png"
    command = [sys.executable, repository / "examples" / "segment.py"]
    done = subprocess.run(
        [*command, workspace.align, picture, "dog, grass", out],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shares = [line.partition(": ")[2].partition("%")[0] for line in done.stdout.splitlines()]
    assert abs(sum(map(float, shares)) - 100) < 0.2
    with Image.open(out) as drawn, Image.open(picture) as image:
        assert drawn.width >= image.width
