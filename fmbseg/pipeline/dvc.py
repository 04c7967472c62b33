"""dvc.yaml and libraries.yaml, made from the stage table: `python -m fmbseg.pipeline.dvc`.

libraries.yaml holds the installed versions of the libraries that results depend on: DVC follows it
as a file of parameters, as the content keys follow the versions themselves.

corrections.yaml names what DVC follows as people's corrections. DVC knows no dependency that may be
absent: while there are none, that file itself stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fmbseg.pipeline.table import ROWS
from fmbseg.stage.depends import PACKAGE, library_versions
from fmbseg.stage.row import BENCHMARK, CORRECTIONS, IMAGES, TRUTH, Row
from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths

LIBRARIES = "libraries.yaml"
FOLLOWED = Paths().followed.name
_HEAD = """\
# Made from fmbseg/pipeline/table.py by `make generated`: change the table, not this file.
#
# Code dependencies are whole folders: a stage that is called again without need finds its shards
# under .fmbseg/ and takes a second or two. Outs hold no time, host or path, and none is
# `persist: true`, which would switch DVC's run-cache off.
#
# DVC writes parameters into commands as they are, and a shell runs those: a benchmark's name, which
# is whatever params.yaml says, reaches its stage in DVC's variable instead (`evaluate@voc21`).
"""
# What follows the last colon: called in a sub-folder, DVC puts its file before the name.
_OWN_NAME = '"\\${DVC_STAGE##*:}"'
_PLACES = {
    IMAGES: "${data.root}",
    TRUTH: "${data.root}",
    BENCHMARK: "${item.root}",
    CORRECTIONS: f"${{{CORRECTIONS}}}",
}
# What `dvc artifacts get` and DVC's model registry know it by.
_ARTIFACTS = """\
artifacts:
  segmenter:
    path: data/align
    type: model
    desc: alignment head over a frozen encoder, asked with any class names
    labels: [semantic-segmentation, open-vocabulary, annotation-free]
  report:
    path: data/report
    type: report
    desc: results, pictures and figures of the run on one page
"""
_FOLLOWED_HEAD = """\
# What DVC follows as people's corrections: their folder, or this file while there are none.
# `fmbseg corrections import` writes it.
"""
# What `dvc plots show` draws of the stage plots and of the training.
_PLOTS = """\
plots:
- data/plots/iou:
    template: bar_horizontal_sorted
    x: iou
    y: class
    x_label: IoU, %
- data/plots/confusions:
    template: bar_horizontal_sorted
    x: share
    y: confusion
    x_label: "% of the scored pixels"
- data/plots/overlays
- training loss:
    x: epoch
    y: {data/align/curve.csv: loss, data/oracle/curve.csv: loss}
    title: Training loss of the alignment head
    y_label: loss
- learning rate:
    x: epoch
    y: {data/align/curve.csv: lr}
"""


def dvc_yaml() -> str:
    """The pipeline in DVC's words."""
    stages = {row.name: _stage(row) for row in ROWS.values() if not row.on_request}
    content = yaml.safe_dump({"vars": [FOLLOWED], "stages": stages}, sort_keys=False, width=100)
    return f"{_HEAD}\n{content}\n{_ARTIFACTS}\n{_PLOTS}"


def libraries_yaml() -> str:
    """The versions of all libraries that a result may depend on."""
    names = {library for row in ROWS.values() for library in row.depends.libraries}
    return _HEAD.partition("\n")[0] + "\n" + yaml.safe_dump(library_versions(sorted(names)))


def corrections_yaml(place: str = FOLLOWED) -> str:
    """What names the place of people's corrections; of none, itself."""
    return _FOLLOWED_HEAD + yaml.safe_dump({CORRECTIONS: place})


def follow_corrections(folder: Path) -> bool:
    """Have DVC follow a folder of corrections, if it is the one of the project in this folder.

    Returns:
        Whether it is.
    """
    place = Paths().corrections
    if folder.absolute() != place.absolute() or not Path(FOLLOWED).is_file():
        return False
    write_atomically(Path(FOLLOWED), corrections_yaml(place.as_posix()).encode())
    return True


def _stage(row: Row) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "desc": row.summary,
        "cmd": f"fmbseg run {_OWN_NAME if row.each_benchmark else row.name}",
        "deps": [*dict.fromkeys(_deps(row))],
        "params": [*sorted(row.depends.params), {LIBRARIES: sorted(row.depends.libraries)}],
    }
    if outs := [out for out in row.outputs if out not in row.metrics]:
        stage["outs"] = outs
    if row.metrics:
        stage["metrics"] = [{metric: {"cache": False}} for metric in row.metrics]
    return {"foreach": "${evaluate.benchmarks}", "do": stage} if row.each_benchmark else stage


def _deps(row: Row) -> Iterable[str]:
    for name in row.inputs:
        if name in ROWS:
            # Of results that are made one by one, their folder.
            yield from (out.partition("/${key}")[0] for out in ROWS[name].outputs)
        elif name in _PLACES:
            yield _PLACES[name]
    for source in sorted(row.depends.sources):
        if "*" not in source:
            yield f"{PACKAGE.name}/{source}"


def main() -> None:
    """Write both files into the current folder."""
    for name, text in (("dvc.yaml", dvc_yaml()), (LIBRARIES, libraries_yaml())):
        Path(name).write_text(text, encoding="utf-8")
    if not Path(FOLLOWED).exists():
        Path(FOLLOWED).write_text(corrections_yaml(), encoding="utf-8")


if __name__ == "__main__":
    main()
