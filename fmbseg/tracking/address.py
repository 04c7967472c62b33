"""Where runs are logged, and where a browser finds them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from fmbseg.store.paths import project_folder


def tracking_uri(uri: str, root: Path) -> str:
    """The address to log to: `MLFLOW_TRACKING_URI` where it is set, otherwise `uri`.

    A relative SQLite path is taken from the project itself, also in the copies of it that DVC
    makes below `.dvc/tmp/exps` for queued experiments.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
    scheme, separator, name = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or name.startswith("/"):
        return uri
    return f"{scheme}:///{project_folder(root).resolve() / name}"


def ui_address(uri: str) -> str | None:
    """Where a browser finds MLflow's pages: `FMBSEG_MLFLOW_UI` where it is set, otherwise `uri`.

    A server among containers has a name that only they know. A password in `uri` is left out.

    Args:
        uri: the address that runs are logged to; a database has no pages.
    """
    if own := os.environ.get("FMBSEG_MLFLOW_UI"):
        return own.rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
