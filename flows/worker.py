"""The worker of this project: `python -m flows.worker start --pool fmbseg --type process ...`.

Whoever reaches a Prefect server may write into its deployments and runs what a worker is to
execute: a command, its environment, another folder, another file. Prefect's process worker does all
of that. This one runs the flows that `prefect.yaml` deploys, in the folder it was started in, and
refuses everything else; a refused run is CRASHED, with the reason.

It also sees what a worker before it, which was killed, has left: runs without a process are said to
have crashed, and while a process still works in the folder no other run is begun.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from flows.lost import give_up, machine, under_way
from fmbseg.documents import read_yaml
from fmbseg.errors import ConfigError, one_line, shown

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

_FOLDER_STEP = "prefect.deployments.steps.set_working_directory"
# Of a run's environment: where models lie and which GPU is used, and nothing that starts programs.
_OWN_PREFIX, _OWN_NAMES = "FMBSEG_", {"CUDA_VISIBLE_DEVICES"}


def refusal(
    command: str | None,
    environment: Mapping[str, Any],
    folder: Path | None,
    deployment: DeploymentResponse | None,
    root: Path,
) -> str | None:
    """Why a run is not one of the project's own; None: it is.

    Args:
        command: that its job variables name.
        environment: that they name.
        folder: to work in, that they name.
        deployment: that it is a run of.
        root: the project's folder.

    Raises:
        ConfigError: the folder has no prefect.yaml.
    """
    if command is not None:
        return "its job variables name a command"
    odd = [n for n in environment if not n.startswith(_OWN_PREFIX) and n not in _OWN_NAMES]
    if odd:
        return f"its job variables set {min(odd)} in the environment"
    if folder is not None and Path(folder).resolve() != root:
        return f"its job variables name the folder {folder}"
    if deployment is None:
        return "it is a run of no deployment"
    deployed = read_yaml(root / "prefect.yaml", ConfigError)["deployments"]
    if deployment.entrypoint not in [each["entrypoint"] for each in deployed]:
        return f"its deployment runs {deployment.entrypoint!r}, which is no flow of the project"
    steps = [dict(step) for step in deployment.pull_steps or []]
    inside = [step.get(_FOLDER_STEP) for step in steps if [*step] == [_FOLDER_STEP]]
    places = [each for each in inside if isinstance(each, Mapping) and [*each] == ["directory"]]
    if len(places) != 1 or len(steps) != 1 or Path(str(places[0]["directory"])).resolve() != root:
        return f"its deployment does not work in {root} alone: deploy it from there"
    return None


class OwnJob(ProcessJobConfiguration):
    """A run's job; raises ConfigError for a run that is not the project's own."""

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: UUID | None = None,
    ) -> None:
        """See Prefect."""
        root = Path.cwd().resolve()
        if reason := refusal(self.command, self.env, self.working_dir, deployment, root):
            raise ConfigError(f"refused: {reason}")
        super().prepare_for_flow_run(
            flow_run, deployment, flow, work_pool, worker_name, worker_id=worker_id
        )


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the other's place, which is what it is for

    class OwnWorker(ProcessWorker):
        """Prefect's process worker with `OwnJob`, under the same name."""

        type = "process"
        job_configuration = OwnJob

        def __init__(self, work_pool_name: str, *, name: str | None = None, **options: Any) -> None:
            super().__init__(work_pool_name, name=name or machine(), **options)
            # Runs of a worker before this one that work on; None: not looked for yet.
            self._strays: set[UUID] | None = None
            self._suspects: set[UUID] = set()
            self._own: set[UUID] = set()

        async def sync_with_backend(self) -> None:
            """See Prefect; every half minute."""
            await super().sync_with_backend()
            try:
                await self._look_for_lost()
            except Exception as error:  # the server is away: the next time
                self._logger.warning("runs could not be looked through: %s", one_line(error))

        async def _look_for_lost(self) -> None:
            working, lost = await under_way(self.client)
            # A run of this worker that has just ended is said to be in a moment.
            certain = [r for r in lost if self._strays is None or r.id in self._suspects]
            self._suspects = {run.id for run in lost}
            self._strays = working - self._own
            await give_up(self.client, certain)
            for run in certain:
                self._logger.warning("%s: its process is gone", shown(run.name))

        async def get_and_submit_flow_runs(self) -> list[FlowRun]:
            """See Prefect; none while a run of another worker works in this folder."""
            if self._strays:
                self._logger.warning("waiting for a run that an earlier worker has started")
                await self._look_for_lost()
            if self._strays or self._strays is None:
                self._last_polled_time = datetime.now(UTC)
                return []
            begun = await super().get_and_submit_flow_runs()
            self._own |= {run.id for run in begun}
            return begun


def main() -> None:
    """Entry point; arguments as those of `prefect worker`."""
    from prefect.cli import app

    sys.argv[1:] = ["worker", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
