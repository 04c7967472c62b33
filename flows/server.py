"""Prefect's server for this machine alone: `python -m flows.server start --host ... --port ...`.

Prefect's own `server start` answers any page that is open in a browser of this machine; here it
stands behind `fmbseg.web.guard`, and `FMBSEG_PREFECT_HOSTS` has its further names. The password is
Prefect's own, `PREFECT_SERVER_API_AUTH_STRING`.
"""

from __future__ import annotations

import argparse
import os

import uvicorn
from prefect.settings import (
    PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    PREFECT_SERVER_LOGGING_LEVEL,
)

from fmbseg.web.guard import LOOPBACK, guarded


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("action", choices=["start"])
    parser.add_argument("--host", default=LOOPBACK[0])
    parser.add_argument("--port", type=int, default=4200)
    options = parser.parse_args()
    named = os.environ.get("FMBSEG_PREFECT_HOSTS", "").split(",")
    origins = PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")

    from prefect.server.api.server import create_app

    uvicorn.run(
        guarded(
            create_app(final=True),
            frozenset({*LOOPBACK, *(name.strip() for name in named if name.strip())}),
            frozenset(origin.strip() for origin in origins),
        ),
        host=options.host,
        port=options.port,
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        log_level=PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
    )


if __name__ == "__main__":
    main()
