"""The deployments, made from the stage table: `python -m flows.deployments` writes the files.

prefect.yaml is for the stack's worker, docker/prefect.yaml for a pool of containers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.monitor import RELABEL
from fmbseg.pipeline.run import leading_to
from fmbseg.pipeline.table import ROWS
from fmbseg.store.paths import Paths
from fmbseg.studies.declared import STUDIES

_MADE = "# Made by `make generated` from flows/deployments.py and the stage table: change those.\n"
_ABOUT = {
    "prefect.yaml": """\
# `make deploy` registers them with the stack's server; the worker runs them in the folder they were
# deployed from.
""",
    "docker/prefect.yaml": """\
# The deployments of ../prefect.yaml for a pool of containers (docker or Kubernetes), from the
# project's folder:
#   prefect --no-prompt deploy --all --prefect-file docker/prefect.yaml
# A run works in the copy of the project that the pool's job template mounts, and not in the folder
# of whoever deploys.
""",
}
_CONTAINER = "/project"


def prefect_files() -> Mapping[str, str]:
    """The text of each file, by its path in the project."""
    mounted = {"prefect.deployments.steps.set_working_directory": {"directory": _CONTAINER}}
    pools: dict[str, tuple[str, dict[str, Any]]] = {
        "prefect.yaml": ("fmbseg", {}),
        "docker/prefect.yaml": ("fmbseg-containers", {"pull": [mounted]}),
    }
    files = {}
    for name, (pool, more) in pools.items():
        content = {"name": "fmbseg", **more, "deployments": _deployments(pool)}
        text = yaml.safe_dump(content, sort_keys=False, width=100)
        files[name] = f"{_MADE}{_ABOUT[name]}\n{text}"
    return files


def _deployments(pool: str) -> list[dict[str, Any]]:
    labels = [name for name, row in ROWS.items() if not row.inputs] + leading_to(["label"])
    train = [name for name in leading_to(["align"]) if name not in labels]
    rest = [n for n, row in ROWS.items() if n not in (*labels, *train) and not row.on_request]
    parts: Sequence[tuple[str, str, Sequence[str]]] = (
        ("full", "Pseudo labels, alignment head and scores of all methods.", ()),
        ("pseudo-labels", "Stage 1: pseudo labels.", labels),
        ("train", "Stage 2: the alignment head. Needs the pseudo labels.", train),
        ("evaluate", "Scores of the trained head and of all it is held beside.", rest),
    )
    made = [
        _deployment(pool, name, about, "full.py:fmbseg", [], {"stages": [*stages]})
        for name, about, stages in parts
    ]
    for name, study in STUDIES.items():
        about = f"Ablation: {study.about} ({', '.join(study.variants)})."
        flow = "ablation.py:ablation"
        made.append(_deployment(pool, name, about, flow, ["ablation"], {"study": name}))
    about = "Parameters of the training, searched with Optuna on development scenes."
    made.append(_deployment(pool, "head", about, "search.py:search", ["search"], {}))
    about = f"Drift of predictions from the training set; where there is any, starts {RELABEL}."
    parameters = {"reference": Paths().label.as_posix(), "current": "predictions"}
    made.append(_deployment(pool, "drift", about, "monitor.py:monitor", ["monitor"], parameters))
    return made


def _deployment(
    pool: str, name: str, about: str, flow: str, tags: Sequence[str], parameters: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "description": about,
        "entrypoint": f"flows/{flow}",
        "tags": ["fmbseg", *tags],
        "parameters": parameters,
        "work_pool": {"name": pool},
    }


def main() -> None:
    """Write the files into the current folder."""
    for name, text in prefect_files().items():
        Path(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
