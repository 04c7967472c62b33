"""Whether a server answers what its clients ask, with their password: exit code 0 or 1."""

from __future__ import annotations

import base64
import os
import sys
import urllib.request


def main(server: str, address: str) -> int:
    """Ask `prefect` or `mlflow` for something that needs its database, or a worker how it is.

    Args:
        server: prefect, mlflow or worker.
        address: of Prefect's API, of the MLflow server, or of the worker's own little server.
    """
    if server == "worker":
        # No password. It answers 503 when it has not asked for work for some minutes.
        return _answer(urllib.request.Request(f"{address}/health"))
    if server == "prefect":
        login = os.environ["PREFECT_API_AUTH_STRING"]
        request = urllib.request.Request(f"{address}/flows/count", data=b"{}", method="POST")
        request.add_header("Content-Type", "application/json")
    else:
        names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        login = ":".join(os.environ[name] for name in names)
        path = "api/2.0/mlflow/experiments/get?experiment_id=0"
        request = urllib.request.Request(f"{address}/{path}")
    token = base64.b64encode(login.encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    return _answer(request)


def _answer(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=8) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
