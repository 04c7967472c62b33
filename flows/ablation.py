"""The flow `fmbseg-ablation`: one change a variant, the rest as in params.yaml, one table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.common import at_one_decimal
from flows.parameters import Experiment, Overrides, Preset, effective_config, one_of
from flows.stages import call_task
from fmbseg.config import Config, override_config
from fmbseg.errors import FmbsegError, one_line
from fmbseg.evaluate.results import read_result
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import leading_to, open_stage, stage_names
from fmbseg.pipeline.table import ROWS
from fmbseg.store.paths import Paths
from fmbseg.studies.declared import STUDIES

METHOD = "fmbseg"
VARIANT = "variant"
Row = dict[str, object]


# What the trained segmenter's scores come from; rows without inputs draw the images.
_STAGES = [name for name, row in ROWS.items() if not row.inputs] + leading_to(
    name for name, row in ROWS.items() if METHOD in row.methods
)


@flow(name="fmbseg-ablation", description="One change a variant, scored side by side.")
def ablation(
    study: Annotated[str, one_of(STUDIES)],
    preset: Preset = None,
    overrides: Overrides = (),
    experiment: Experiment = None,
) -> list[Row] | State[object]:
    """Train and score each variant of a study; stages that a variant shares are taken over.

    Every variant is a pipeline run of its own in MLflow. At the end the results of params.yaml are
    put back into `data/` and `metrics/`, where they were there before; also those that an earlier
    ablation could not put back because it was killed.

    Args:
        study: what is varied.
        preset: set of models; empty: that of params.yaml.
        overrides: section.key=value, for all variants.
        experiment: name of a file of experiments/, for all variants; the overrides go over it.
    """
    root = Path(os.curdir)
    rows: list[Row] = []
    try:
        config = effective_config(preset, overrides, root, experiment=experiment)
        recorded = effective_config(None, (), root)
        # Kept on disk: a killed run leaves a variant's results, and the next one puts back.
        mark = Paths(root).work / "ablation-restores"
        if _is_done(recorded, root):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            for name, change in STUDIES[study].variants.items():
                rows.append({VARIANT: name} | _scores(override_config(config, change), root))
        finally:
            if mark.exists():
                get_run_logger().info("putting the results of params.yaml back")
                for stage in stage_names(recorded, _STAGES):
                    call_task(stage, recorded, root)
                mark.unlink()
            else:
                get_run_logger().warning("the last variant's results stay: there were none before")
    except FmbsegError as error:
        # A user's mistake is one line, not a traceback.
        return Failed(message=one_line(error))
    about = f"mIoU, %, of the study {study}"
    shown = [at_one_decimal(row) for row in rows]
    create_table_artifact(shown, key=f"fmbseg-ablation-{study}", description=about)
    return rows


def _scores(config: Config, root: Path) -> Row:
    for stage in stage_names(config, _STAGES):
        call_task(stage, config, root)
    results = Paths(root).metrics / METHOD
    return {
        name: read_result(results / f"{name}.json")["miou"] for name in config.evaluate.benchmarks
    }


def _is_done(config: Config, root: Path) -> bool:
    try:
        return all(
            open_stage(name, config, Paths(root), silent_progress()).published
            for name in stage_names(config, _STAGES)
        )
    except FmbsegError:  # an earlier stage was never run
        return False
