"""Whether a server answers what its clients ask, with their password: exit code 0 or 1."""

from __future__ import annotations

import base64
import os
import sys
import urllib.request


def main(server: str, address: str) -> int:
    """Ask `prefect` or `mlflow` for something that needs its database.

    Args:
        server: prefect or mlflow.
        address: of Prefect's API, or of the MLflow server.
    """
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
    try:
        with urllib.request.urlopen(request, timeout=8) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
