"""A real PostgreSQL of one's own, for tests."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.stack import free_ports


@dataclass(frozen=True)
class Postgres:
    """A server with the databases `prefect` and `mlflow`, and the user fmbseg."""

    programs: Path
    place: Path
    port: int

    def address(self, name: str, port: int | None = None, password: str = "any") -> str:
        """Of a database, without its scheme; any password will do."""
        return f"fmbseg:{password}@127.0.0.1:{port or self.port}/{name}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs, as its user."""
        command = [self.programs / program, *arguments]
        user = _user() if os.geteuid() == 0 else None
        subprocess.run(command, user=user, cwd=self.place, check=True)

    def start(self) -> None:
        """Start it and return when it answers."""
        options = f"-p {self.port} -k {self.place} -h 127.0.0.1"
        given = ("-l", f"{self.place}/log", "-o", options, "-w", "start")
        self.run("pg_ctl", "-D", f"{self.place}/data", *given)

    def kill(self) -> None:
        """End it as a lack of power would."""
        self.run("pg_ctl", "-D", f"{self.place}/data", "-m", "immediate", "stop")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A running server; skips the test where the machine has none."""
    folder = _programs()
    if folder is None:
        pytest.skip("no PostgreSQL with pg_trgm on this machine: apt install postgresql")
    # PostgreSQL refuses root; and not below pytest's own folder, which nobody else may enter.
    place = Path(tempfile.mkdtemp(prefix="fmbseg-pg-"))
    shutil.chown(place, _user())
    (port,) = free_ports(1)
    made = Postgres(folder, place, port)
    own = ("--auth=trust", "--username=fmbseg", "--encoding=UTF8")
    made.run("initdb", *own, "-D", f"{place}/data")
    try:
        made.start()
        for name in ("prefect", "mlflow"):
            made.run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "fmbseg", name)
        yield made
    finally:
        made.kill()
        shutil.rmtree(place, ignore_errors=True)


def _user() -> str:
    return "nobody" if os.geteuid() == 0 else getpass.getuser()


def _programs() -> Path | None:
    """Folder of PostgreSQL's programs, with the extension that Prefect needs beside them."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    for folder in folders:
        asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True)
        share = Path(asked.stdout.strip()) if asked.returncode == 0 else folder
        version = folder.parent.name
        for place in (share, Path("/usr/share/postgresql") / version):
            if (folder / "initdb").exists() and (place / "extension/pg_trgm.control").exists():
                return folder
    return None
