"""What a finished run shows in Prefect's UI: the table of mIoU, and where the rest is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from fmbseg.config import Config
from fmbseg.evaluate.results import current_results
from fmbseg.store.paths import Paths
from fmbseg.tracking.open import open_tracker


def show_results(config: Config, root: Path, reports: Sequence[dict[str, Any]]) -> None:
    """Create the artifacts `fmbseg-miou` (a table) and `fmbseg-run` (Markdown).

    Args:
        config: all sections.
        root: the workspace.
        reports: of the stages that ran: stage, key, computed, taken_over.
    """
    paths = Paths(root)
    rows = [
        {
            "method": result["method"],
            "benchmark": result["benchmark"],
            "mIoU, %": result["miou"],
            "pixel accuracy, %": result.get("pixel_accuracy"),
            "images": result.get("images"),
        }
        for result in current_results(paths.metrics)
    ]
    if rows:
        create_table_artifact(rows, key="fmbseg-miou", description="mIoU of the present results")
    lines = ["| stage | computed | taken over | key |", "|---|---:|---:|---|"]
    lines += [
        f"| {row['stage']} | {row['computed']} | {row['taken_over']} | `{row['key'][:12]}` |"
        for row in reports
    ]
    link = open_tracker(config, root).run_link(config, paths)
    if link and link.startswith("http"):
        link = f"[{link}]({link})"
    lines += ["", f"MLflow: {link or 'no run (tracking is off, or nothing was scored yet)'}"]
    create_markdown_artifact("\n".join(lines), key="fmbseg-run", description="What this run did")
