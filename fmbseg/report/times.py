"""What stages took on this machine, as it was remembered when they ran."""

from __future__ import annotations

from fmbseg.errors import FmbsegError
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import open_stage, stage_names
from fmbseg.report.content import Table
from fmbseg.stage.workplace import Workplace
from fmbseg.tracking.performance import Performance, recall

_HEADS = ("stage", "pictures", "seconds", "pictures a second", "peak memory, MB", "GPU memory, MB")


def times(work: Workplace) -> Table | None:
    """A row for each stage whose present result was computed here; None: there is none."""
    rows = [
        (name, *_cells(found))
        for name in stage_names(work.config)
        if (found := _performance(name, work)) is not None
    ]
    return Table(_HEADS, tuple(rows)) if rows else None


def _performance(name: str, work: Workplace) -> Performance | None:
    try:
        stage = open_stage(name, work.config, work.paths, silent_progress())
        return recall(work.paths, stage.key)
    except FmbsegError:  # what it is made from is not there: it has no present result
        return None


def _cells(found: Performance) -> tuple[str, ...]:
    rate = f"{found.images / found.seconds:.1f}" if found.seconds else ""
    gpu = f"{found.peak_gpu_memory_mb:.0f}" if found.peak_gpu_memory_mb else ""
    return (
        str(found.images),
        f"{found.seconds:.1f}",
        rate,
        f"{found.peak_memory_mb:.0f}",
        gpu,
    )
