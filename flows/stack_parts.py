"""The parts of a stack: how each is started, what it is told, and which processes are one's own.

Which processes are a stack's, their environment says: it names the project, and whatever they start
inherits that. So there is no note of process numbers that a kill or a restart could make wrong.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from flows import ASK_AGAIN
from flows.lost import FLOW_RUN
from fmbseg.errors import ConfigError
from fmbseg.web.guard import LOOPBACK

HOST = "127.0.0.1"
POOL = "fmbseg"
PORTS = {"prefect": "FMBSEG_PREFECT_PORT", "mlflow": "FMBSEG_MLFLOW_PORT"}
"""Variable of the port that a part listens on."""
MARK = "FMBSEG_STACK"
"""Variable that names the project in the environment of all that a stack starts."""
_DEFAULT_PORTS = {"prefect": 4200, "mlflow": 5000}
_MLFLOW_HOST = "FMBSEG_MLFLOW_HOST"
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Stack:
    """The stack of one project folder.

    Attributes:
        root: the project, absolute.
        prefect_port: the one it runs on, otherwise `FMBSEG_PREFECT_PORT`.
        mlflow_port: the one it runs on, otherwise `FMBSEG_MLFLOW_PORT`.
        mlflow_host: address that MLflow listens at, `FMBSEG_MLFLOW_HOST`; off this machine's own
            it asks for a password.
    """

    root: Path
    prefect_port: int
    mlflow_port: int
    mlflow_host: str = HOST

    @property
    def folder(self) -> Path:
        """State and logs."""
        return self.root / ".stack"

    @property
    def api(self) -> str:
        """Prefect's API."""
        return f"http://{HOST}:{self.prefect_port}/api"

    @property
    def tracking(self) -> str:
        """MLflow, as this machine reaches it."""
        everywhere = self.mlflow_host in ("0.0.0.0", *LOOPBACK)
        return f"http://{HOST if everywhere else self.mlflow_host}:{self.mlflow_port}"

    @property
    def login(self) -> str:
        """`user:password` that Prefect's server asks for; made with the stack's folder."""
        return self._secret("login", f"fmbseg:{secrets.token_urlsafe(24)}")

    @property
    def mlflow_login(self) -> str | None:
        """`user:password` that MLflow asks for; None: it answers this machine alone, without."""
        if self.mlflow_host in LOOPBACK:
            return None
        return self._secret("mlflow-login", f"fmbseg:{secrets.token_urlsafe(24)}")

    def log(self, part: str) -> Path:
        """What a part prints."""
        return self.folder / f"{part}.log"

    @property
    def commands(self) -> Mapping[str, list[str]]:
        """Module and arguments of each part, in the order of their start; never a secret."""
        # Clients on this machine write artefacts straight into mlruns/, as plain runs do: a run
        # looks the same whether it was logged through the server or into the database.
        artefacts = ["--default-artifact-root", (self.root / "mlruns").as_uri()]
        artefacts += ["--no-serve-artifacts"]
        mlflow = ["--host", self.mlflow_host, "--port", str(self.mlflow_port), "--workers", "1"]
        users = [] if self.mlflow_login is None else ["--app-name", "basic-auth"]
        prefect = ["--host", HOST, "--port", str(self.prefect_port)]
        return {
            "prefect": ["flows.server", "start", *prefect],
            "mlflow": ["mlflow", "server", *artefacts, *users, *mlflow],
            # One run at a time: all of them work in this one folder.
            "worker": f"flows.worker start --pool {POOL} --type process --limit 1".split(),
        }

    @property
    def environment(self) -> dict[str, str]:
        """What the parts, and the runs that the worker starts, find in their environment."""
        places = [str(self.root), os.environ.get("PYTHONPATH", "")]
        defaults = {
            **ASK_AGAIN,
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "HF_HUB_OFFLINE": "1",
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.root / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Seven more processes, for features of language models.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # `prefect deployment run --watch` shows what a run logs, the reason of its end too.
            "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
            "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
            # Which slots are taken is in the database; until when, by default in the server's
            # memory: the slot of a run that was killed would stay taken after a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
        }
        return {
            **defaults,
            **os.environ,
            **self._users(),
            MARK: str(self.root),
            _MLFLOW_HOST: self.mlflow_host,
            PORTS["mlflow"]: str(self.mlflow_port),
            PORTS["prefect"]: str(self.prefect_port),
            "MLFLOW_TRACKING_URI": self.tracking,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PREFECT_API_AUTH_STRING": self.login,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "fmbseg",
            "PREFECT_SERVER_API_AUTH_STRING": self.login,
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
                f"http://{name}:{self.prefect_port}" for name in LOOPBACK
            ),
            # Every ten seconds is long to wait for a run that takes half a minute.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }

    def _users(self) -> dict[str, str]:
        """What MLflow's server and its clients need where it asks for a password."""
        if self.mlflow_login is None:
            return {}
        user, _, password = self.mlflow_login.partition(":")
        # It reads the first user from a file, and makes him with its database of users.
        users = self.folder / "mlflow-auth.ini"
        if not users.is_file():
            write_secret(
                users,
                "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
                f"database_uri = sqlite:///{self.folder / 'mlflow-users.db'}\n"
                f"admin_username = {user}\nadmin_password = {password}\n",
            )
        names = {}
        if self.mlflow_host != "0.0.0.0" and "MLFLOW_SERVER_ALLOWED_HOSTS" not in os.environ:
            hosts = ",".join(f"{name}:*" for name in (self.mlflow_host, *LOOPBACK))
            names = {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts}
        return names | {
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secret("mlflow-key", secrets.token_hex(32)),
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_TRACKING_USERNAME": user,
        }

    def _secret(self, name: str, new: str) -> str:
        """What a file of the folder holds that this user alone may read; made where it is not."""
        place = self.folder / name
        if not place.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_secret(place, f"{new}\n")
        return place.read_text(encoding="utf-8").strip()


def open_stack(root: Path = Path(".")) -> Stack:
    """The stack of a project, as it runs, otherwise as the environment asks for it.

    Raises:
        ConfigError: a port is no port.
    """
    root = root.resolve()
    # What was given when it was started need not be given again: at another port there may be
    # another project's stack.
    running = family(root)
    own = running[0].environ() if running else os.environ
    ports = []
    for part, name in PORTS.items():
        text = own.get(name) or str(_DEFAULT_PORTS[part])
        if not text.isdigit() or not 0 < int(text) < 65536:
            raise ConfigError(f"{name} is {text!r}: give a port, such as {_DEFAULT_PORTS[part]}")
        ports.append(int(text))
    return Stack(root, ports[0], ports[1], own.get(_MLFLOW_HOST) or HOST)


def spawn(stack: Stack, part: str) -> None:
    """Start a part, which outlives this process; what it prints is appended to its log."""
    # As a module: what is on the PATH under its name may belong to another environment.
    command = [sys.executable, "-m", *stack.commands[part]]
    with stack.log(part).open("ab") as output:
        subprocess.Popen(
            command,
            cwd=stack.root,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def parts(stack: Stack) -> dict[str, psutil.Process]:
    """The parts that run, by name, in the order of their start."""
    running = {}
    for process in family(stack.root):
        with suppress(psutil.Error):
            running[(*process.cmdline()[2:4],)] = process
    # By module and first argument: what a part has started may outlive it.
    heads = {name: (*command[:2],) for name, command in stack.commands.items()}
    return {name: running[head] for name, head in heads.items() if head in running}


def serves(stack: Stack, port: int, url: str, login: str | None = None) -> bool:
    """Whether a URL answers, and it is one of the stack's processes that listens on the port.

    Whoever took the port between our look at it and the server's would answer as well.
    """
    listening = set()
    for process in family(stack.root):
        with suppress(psutil.Error):
            found = process.net_connections(kind="tcp")
            listening |= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    if port not in listening:
        return False
    user, _, password = (login or "").partition(":")
    with suppress(httpx.HTTPError):
        # No proxy stands between this machine and itself.
        asked = httpx.get(url, timeout=10, trust_env=False, auth=(user, password) if user else None)
        return asked.is_success
    return False


def family(root: Path) -> list[psutil.Process]:
    """The processes of a project's stack, this one aside."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            if process.environ().get(MARK) == str(root) and process.pid != os.getpid():
                found.append(process)
    return found


def left_behind(stack: Stack) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """What parts that are gone have started: flow runs, which work on, and other processes."""
    known = set(parts(stack).values())
    runs: list[psutil.Process] = []
    others: list[psutil.Process] = []
    for process in family(stack.root):
        with suppress(psutil.Error):
            if known.isdisjoint((process, *process.parents())):
                (runs if FLOW_RUN in process.environ() else others).append(process)
    return runs, others


def end(processes: list[psutil.Process], how: Callable[[psutil.Process], None]) -> None:
    """End processes, and wait for it a while."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            how(process)
    psutil.wait_procs(processes, timeout=_STOP_SECONDS)


def write_secret(place: Path, text: str) -> None:
    """Write a file that nobody but this user may read."""
    place.unlink(missing_ok=True)
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
