"""What every test gets: quiet, offline, one thread, and no state of the user's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports the libraries that read them.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Per test, not per session: what is tested sets threads itself.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Samples of the real benchmarks: in `FMBSEG_REALDATA`, or beside the repository."""
    path = Path(os.environ.get("FMBSEG_REALDATA", REPOSITORY.parent / "shared" / "realdata"))
    if not path.is_dir():
        pytest.skip(f"the benchmarks' sample files are not at {path}")
    return path
