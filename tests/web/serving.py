"""The page's server at work, with a head of random weights, for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmbseg.models.weights import WEIGHTS_VARIABLE


@contextmanager
def running_page(root: Path, weights: Path, *options: str) -> Iterator[str]:
    """`fmbseg demo` in the folder of a workspace with a head; gives its address."""
    command = [sys.executable, "-m", "fmbseg", "demo", "--port", "0", *options]
    environment = os.environ | {WEIGHTS_VARIABLE: str(weights)}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the server did not start"
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=30)
