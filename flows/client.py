"""`fmbseg run` through a Prefect server, where PREFECT_API_URL names one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

from flows.stages import FLOWS, Report
from fmbseg.errors import ConfigError, FmbsegError


def run_through_prefect(stage: str, overrides: Sequence[str], params: Path) -> list[Report]:
    """Run the flow of a stage in this process; the server shows it, and its task cache counts.

    Args:
        stage: as in `fmbseg run`, `evaluate@voc21` for one benchmark.
        overrides: section.key=value.
        params: the parameters' file.

    Returns:
        A report a task: stage, key, computed, taken_over.

    Raises:
        ConfigError: the server does not answer.
        FmbsegError: as the stage.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pools(limit=1)  # /health would also answer a wrong password
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            raise ConfigError(
                f"PREFECT_API_URL is {os.environ['PREFECT_API_URL']}, and nothing answers there "
                f"({' '.join(str(error).split())}): start it (`make stack`), or unset the variable"
            ) from error
    name, _, benchmark = stage.partition("@")
    given = {"overrides": overrides, "benchmark": benchmark or None, "params": params}
    state = cast("State[list[Report]]", FLOWS[name](**given, return_state=True))
    if not state.is_completed():
        raise FmbsegError(state.message or f"the flow of {stage} ended {state.name}")
    return state.result()
