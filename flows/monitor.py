"""The flow `fmbseg-monitor`: are the pictures still as they were? If not, label them anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.states import Failed
from pydantic import Field

from flows.parameters import Overrides, Preset, effective_config
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.errors import FmbsegError, one_line
from fmbseg.machine.progress import silent_progress
from fmbseg.monitor.drift import Drift, Limits, compare
from fmbseg.monitor.page import lines, write_page
from fmbseg.monitor.sources import observe_both

RELABEL = "fmbseg/pseudo-labels"
"""The deployment that makes the labels anew: stage 1."""
PAGE = Path("monitor") / "drift.html"
_Share = Annotated[float, Field(ge=0, le=1)]


@flow(name="fmbseg-monitor", description="Drift of pictures or predictions; relabels where any is.")
def monitor(
    reference: str = "data/pseudo/label",
    current: str = "predictions",
    vocabulary: str | None = None,
    max_psi: Annotated[float, Field(ge=0)] = Limits.psi,
    max_js: _Share = Limits.js,
    max_ks: _Share = Limits.ks,
    alpha: _Share = Limits.alpha,
    relabel: bool = True,
    preset: Preset = None,
    overrides: Overrides = (),
) -> bool | State[object]:
    """Hold two sets of pictures side by side, as `fmbseg monitor` does.

    The page is monitor/drift.html; the distances are the artifact fmbseg-monitor. Where there is
    drift, a run of fmbseg/pseudo-labels is scheduled, with the same preset and overrides; the
    worker takes it when this run has ended.

    Args:
        reference: how it was: an out of stage 1, predictions, or pictures.
        current: how it is, of one of these kinds.
        vocabulary: classes that pictures are asked for; empty: those recorded with labels.
        max_psi: population stability index of class shares from which on it is drift.
        max_js: the same for their Jensen-Shannon distance.
        max_ks: the same for the Kolmogorov-Smirnov distance of similarities and confidences.
        alpha: how often chance may give such a distance.
        relabel: whether stage 1 is started where there is drift.
        preset: set of models; empty: that of params.yaml.
        overrides: section.key=value, for this run and the relabelling.
    """
    root = Path(os.curdir)
    try:
        config = effective_config(preset, overrides, root)
        words = None if vocabulary is None else load_vocabulary(vocabulary)
        places = root / reference, root / current
        both = observe_both(*places, config, silent_progress(), words)
        found = compare(*both, Limits(max_psi, max_js, max_ks, alpha))
        write_page(found, root / PAGE)
    except FmbsegError as error:
        # A user's mistake is one line, not a traceback.
        return Failed(message=one_line(error))
    _show(found)
    if found.drifted and relabel:
        parameters = {"preset": preset, "overrides": [*overrides]}
        # Without a running event loop it gives the run itself.
        started = cast(FlowRun, run_deployment(RELABEL, parameters=parameters, timeout=0))
        get_run_logger().warning("%s is scheduled: run %s", RELABEL, started.name)
    return found.drifted


def _show(found: Drift) -> None:
    logger = get_run_logger()
    for line in lines(found):
        logger.info("%s", line)
    rows = [
        {
            "what": each.what,
            "measure": each.measure,
            "distance": round(each.value, 3),
            "limit": each.limit,
            "by chance": round(each.chance, 3),
            "drift": "yes" if each.drifted else "no",
        }
        for each in found.distances
    ]
    create_table_artifact(rows, key="fmbseg-monitor", description=lines(found)[-1])
