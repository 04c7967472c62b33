"""Stages that run beside each other make MLflow's database: one of them does, the others wait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROCESSES = 3
# MLflow's database is migrated table by table where there is none; imports take longer than that.
CODE = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from fmbseg.config import TrackingSection
from fmbseg.tracking.mlflow_runs import ExperimentRuns

runs = ExperimentRuns(TrackingSection(), Path())
print("ready", flush=True)
sys.stdin.readline()
client, experiment = runs.open()
print(experiment, client.create_run(experiment).info.experiment_id, flush=True)
"""


def test_processes_that_make_the_database_at_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CODE],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all are waiting: they begin together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    (experiments,) = {out for out, _ in said}
    first, second = experiments.split()
    assert first == second
