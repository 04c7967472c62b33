"""A stage with nothing to do imports nothing that computes: that alone takes seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker
from tests.pipeline.test_nothing_to_do import grow_old
from tests.workspace import MakeConfig, run

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINED = ("detect", "query", "masks", "label", "features", "align", "oracle")
SCORED = ("evaluate", "baselines", "evaluate_oracle")
DRAWN = ("plots", "figures", "report")
HEAVY = ("torch", "timm", "open_clip", "mlflow", "matplotlib", "pandas", "prefect", "dvc")

COMPUTING = ["torch", "timm", "open_clip", "pandas"]  # which timm brings

# As `fmbseg run` does it, one stage after the other; says what each of them imported.
ASK = """
import json, sys
from pathlib import Path
from fmbseg.config import load_config
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker

config, paths, found = load_config(Path("params.yaml")), Paths(Path()), {}
for name in sys.argv[1].split(","):
    stage = open_stage(name, config, paths, silent_progress(), open_tracker(config, paths.root))
    computed = run_stage(stage).computed
    stage.summary()
    found[name] = [computed, [each for each in %r if each in sys.modules]]
print(json.dumps(found))
"""


def asked(folder: Path, names: tuple[str, ...]) -> dict[str, list[object]]:
    """Shards computed and heavy modules imported by then, by stage, in a process of its own."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ASK % (HEAVY,), ",".join(names)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def finished(coco: Path, make_config: MakeConfig, names: tuple[str, ...]) -> Path:
    """A workspace in which some stages have run, and are logged."""
    folder = coco.parent
    grow_old(coco)  # files of a moment ago are read again
    config = make_config(tracking={"uri": f"sqlite:///{folder / 'mlflow.db'}", "enabled": True})
    # JSON is YAML.
    (folder / "params.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    for name in names:
        run(name, config, Paths(folder), open_tracker(config, folder))
    return folder


def test_a_stage_with_nothing_to_do_imports_nothing_that_computes(
    coco: Path, make_config: MakeConfig
) -> None:
    names = (*TRAINED, *SCORED)
    folder = finished(coco, make_config, names)
    assert asked(folder, names) == {name: [0, []] for name in names}
    # It hears: what has something to do imports torch.
    shutil.rmtree(folder / "data" / "pseudo" / "query")
    shutil.rmtree(Paths(folder).shards / "query")
    assert asked(folder, ("masks", "query")) == {"masks": [0, []], "query": [3, COMPUTING]}


@pytest.mark.slow
def test_drawings_with_nothing_to_do_import_nothing_that_draws(
    coco: Path, make_config: MakeConfig
) -> None:
    names = (*TRAINED, *SCORED, *DRAWN)
    folder = finished(coco, make_config, names)
    assert asked(folder, names) == {name: [0, []] for name in names}
