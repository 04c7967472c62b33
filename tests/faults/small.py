"""A small workspace in which every stage has run, made by the command line."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tests.faults.forks import call
from tests.workspace import make_config, write_coco, write_weights

STAGES = ("detect", "query", "masks", "label", "features", "align", "evaluate", "plots")


def make_inputs(root: Path) -> None:
    """Pictures, random weights and params.yaml; FMBSEG_WEIGHTS names the weights from here on."""
    weights = root.parent / f"{root.name}-weights"
    weights.mkdir(parents=True)
    write_weights(weights)
    os.environ["FMBSEG_WEIGHTS"] = str(weights)
    write_coco(root / "coco")
    config = make_config(Path("coco"), tracking={"enabled": False})
    (root / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def make_finished(root: Path) -> None:
    """`make_inputs`, and every stage."""
    make_inputs(root)
    for stage in STAGES:
        done = call(("run", stage), root)
        assert done.code == 0, done.said


def outs(root: Path) -> dict[str, bytes]:
    """Everything that is published, byte for byte."""
    files = [file for name in ("data", "metrics") for file in (root / name).rglob("*")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


def leftovers(root: Path) -> list[str]:
    """What a dead writer has left."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".fmbseg-tmp-*"))
