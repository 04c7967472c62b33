"""A scratch project with real servers of its own: what `make stack` starts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    temporary_settings,
)

from flows.stack_parts import open_stack, parts
from tests.project import Project, copy_project


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Stack(Project):
    """A scratch project with its stack on ports of its own."""

    def __init__(self, root: Path, ports: list[int]) -> None:
        super().__init__(root)
        self.ports = ports
        self.environment["FMBSEG_PREFECT_PORT"] = str(ports[0])
        self.environment["FMBSEG_MLFLOW_PORT"] = str(ports[1])

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}/api"

    @property
    def login(self) -> str:
        """`user:password` of the Prefect server."""
        return open_stack(self.root).login

    @property
    def address(self) -> dict[str, str]:
        """Where its server is, and its password, for the environment of a client elsewhere."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login}

    @property
    def settings(self) -> dict[Any, str]:
        """The same for a client in this process."""
        return {PREFECT_API_URL: self.api, PREFECT_API_AUTH_STRING: self.login}

    def stack(self, action: str) -> str:
        return self.run("python", "-m", "flows.stack", action)

    def processes(self) -> dict[str, int]:
        """Process id of each server, and of the worker, by name."""
        return {name: part.pid for name, part in parts(open_stack(self.root)).items()}

    @contextmanager
    def running(self) -> Iterator[Stack]:
        """Servers and worker started and the deployments registered; all is gone at the end."""
        try:
            self.stack("start")
            self.stack("deploy")
            yield self
        finally:
            self.try_run("python", "-m", "flows.stack", "stop")
            shutil.rmtree(self.root, ignore_errors=True)

    def deployment(self, name: str, *parameters: str) -> tuple[str, str, dict[str, str]]:
        """Run a deployment of `fmbseg` (or `other-flow/name`) to its end.

        Returns:
            The flow run's state and its message, and the state of each task by its name.
        """
        # No address is given: the command finds the stack in this folder, as a user's does.
        options = [part for entry in parameters for part in ("-p", entry)]
        full = name if "/" in name else f"fmbseg/{name}"
        self.try_run("prefect", "deployment", "run", full, "--watch", *options)
        run = self.newest_run()
        assert run.state is not None
        states = {task.name: task.state_name or "" for task in self.tasks(run)}
        return run.state.name or "", run.state.message or "", states

    def newest_run(self) -> FlowRun:
        """The flow run that was asked for last; flows called by others do not count."""
        mine = FlowRunFilter(parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True))
        newest = FlowRunSort.EXPECTED_START_TIME_DESC
        with self._client() as api:
            (run,) = api.read_flow_runs(flow_run_filter=mine, sort=newest, limit=1)
            return run

    def tasks(self, run: FlowRun) -> list[TaskRun]:
        """The task runs of a flow run."""
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        with self._client() as api:
            found: list[TaskRun] = api.read_task_runs(flow_run_filter=wanted)
            return found

    def runs(self, name: str) -> list[FlowRun]:
        """Flow runs of a name."""
        wanted = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        with self._client() as api:
            found: list[FlowRun] = api.read_flow_runs(flow_run_filter=wanted)
            return found

    def subflows(self, run: FlowRun) -> set[str]:
        """Names of the flow runs that a flow run has started."""
        wanted = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        with self._client() as api:
            return {child.name for child in api.read_flow_runs(flow_run_filter=wanted)}

    def state(self, run: FlowRun) -> State[object]:
        """The state of a flow run now."""
        with self._client() as api:
            state = api.read_flow_run(run.id).state
        assert state is not None
        return state

    def hold_slot(self) -> subprocess.Popen[str]:
        """A process that has the slot of the limit `gpu` until its input ends."""
        code = (
            "import sys; from flows.common import gpu_slot\n"
            "with gpu_slot(): print('held', flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=self.root,
            env=self.environment | self.address,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        return holder

    def taken_slots(self) -> int:
        """Slots of the limit `gpu` that are taken now."""
        with self._client() as api:
            return int(api.read_global_concurrency_limit_by_name("gpu").active_slots)

    def deployment_steps(self, name: str) -> list[dict[str, object]]:
        """What a run of a deployment does before it imports the flow."""
        with self._client() as api:
            return list(api.read_deployment_by_name(name).pull_steps or [])

    def logs(self) -> list[str]:
        """Everything that runs have logged."""
        messages: list[str] = []
        with self._client() as api:
            while page := api.read_logs(limit=200, offset=len(messages)):
                messages += [log.message for log in page]
        return messages

    @contextmanager
    def _client(self) -> Iterator[SyncPrefectClient]:
        with temporary_settings(self.settings), get_client(sync_client=True) as client:
            yield client


@contextmanager
def drawing(repository: Path, root: Path, train: int) -> Iterator[Stack]:
    """A project with its stack, whose scenes take long enough to be drawn for something to fail."""
    copy_project(repository, root)
    made = Stack(root, free_ports(2))
    made.set(r"train: \d+, val: \d+", f"train: {train}, val: 20")
    made.commit("many scenes")
    with made.running():
        yield made
