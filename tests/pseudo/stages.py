"""Stage 1 run in a workspace, and the files that it leaves."""

from __future__ import annotations

from pathlib import Path

from fmbseg.config import Config
from fmbseg.store.paths import Paths
from fmbseg.store.shards import StageReport
from tests.workspace import run

STAGES = ("detect", "query", "masks", "label")


def run_all(config: Config, paths: Paths) -> dict[str, StageReport]:
    return {name: run(name, config, paths) for name in STAGES}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
