"""How fast a stage was and how much memory it took, kept for the tracked run.

Not part of any result: two machines differ here, and nowhere else.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fmbseg.store.atomic import write_atomically
from fmbseg.store.paths import Paths

_log = logging.getLogger(__name__)


@dataclass
class Performance:
    """One run of a stage that computed something.

    Attributes:
        images: computed in this run.
        seconds: wall time of the stage, loading of models and reading of images included.
        peak_memory_mb: highest resident memory of the process until the stage's end, earlier stages
            of the same process included.
        peak_gpu_memory_mb: highest memory of torch's tensors on the GPU; 0 without one.
    """

    images: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    peak_gpu_memory_mb: float = 0.0


@contextmanager
def measured() -> Iterator[Performance]:
    """Measures the block; `images` is the caller's to set."""
    performance = Performance()
    if (gpu := _gpu()) is not None:
        gpu.reset_peak_memory_stats()
    start = time.monotonic()
    yield performance
    performance.seconds = time.monotonic() - start
    # Kilobytes, but bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    performance.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if (gpu := _gpu()) is not None:
        performance.peak_gpu_memory_mb = gpu.max_memory_allocated() / 2**20


def _gpu() -> Any:
    # What did not import torch has used no GPU.
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def remember(paths: Paths, key: str, performance: Performance) -> None:
    """Keep it under the content key of what was computed; where that fails, one warning says so."""
    text, place = json.dumps(asdict(performance)), paths.performance / f"{key}.json"
    try:
        write_atomically(place, text.encode())
    except OSError as error:  # the result is there: what it took is no reason to lose it
        _log.warning("%s cannot be written (%s): nobody will know", place, error.strerror)


def recall(paths: Paths, key: str) -> Performance | None:
    """What was kept, or None: computed elsewhere, or before a clean-up."""
    try:
        values = json.loads((paths.performance / f"{key}.json").read_text(encoding="utf-8"))
        return Performance(**values)
    except (OSError, ValueError, TypeError):
        return None
