"""A scratch project in git, as a user has one: the package, few scenes, and commands in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Enough for every stage to have something to do, in seconds.
SMALL = {
    r"train: \d+, val: \d+": "train: 8, val: 4",
    r"\{val: \d+\}": "{val: 4}",
    r"(shard_size|points_per_side): \d+": r"\1: 4",
    r"epochs: \d+": "epochs: 2",
    r"threads: \d+": "threads: 1",
}
FILES = (
    "params.yaml",
    "dvc.yaml",
    "libraries.yaml",
    "corrections.yaml",
    "prefect.yaml",
    ".dvcignore",
    ".gitignore",
)
FOLDERS = ("fmbseg", "flows", "docker", "experiments")
# Two say of a pipeline what seven do.
BENCHMARKS = ("voc21", "coco_stuff")
WHO = {f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")}
MAIL = {f"GIT_{who}_EMAIL": "test@example.org" for who in ("AUTHOR", "COMMITTER")}
# The tester's own servers are not the project's.
SERVERS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
SERVERS += ("FMBSEG_MLFLOW_PORT", "FMBSEG_PREFECT_PORT")


class Project:
    """Commands in a project's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Its own package and not the installed one: what runs is what DVC watches.
        self.environment = {k: v for k, v in os.environ.items() if k not in SERVERS} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            **WHO,
            **MAIL,
        }

    def try_run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=3600,
        )

    def run(self, *command: str) -> str:
        """What a command that must succeed prints."""
        done = self.try_run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def repro(self, *targets: str) -> set[str]:
        """Names of the stages `dvc repro` ran."""
        return set(re.findall(r"Running stage '(.+?)'", self.run("dvc", "repro", *targets)))

    def set(self, pattern: str, new: str) -> None:
        """Change params.yaml wherever it matches; it must somewhere."""
        path = self.root / "params.yaml"
        text, count = re.subn(pattern, new, path.read_text(encoding="utf-8"))
        assert count, f"params.yaml has no {pattern}"
        path.write_text(text, encoding="utf-8")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def metrics(self, method: str, benchmark: str) -> dict[str, object]:
        """A result file."""
        path = self.root / "metrics" / method / f"{benchmark}.json"
        record: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return record


def copy_project(repository: Path, root: Path, every_benchmark: bool = False) -> Project:
    """A copy of the working tree with `SMALL` parameters and `BENCHMARKS`, or all, committed."""
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__py*")
        shutil.copytree(repository / name, root / name, ignore=ignored)
    for name in FILES:
        shutil.copy(repository / name, root)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore", "plots.html"):
        shutil.copy(repository / ".dvc" / name, root / ".dvc")
    project = Project(root)
    for pattern, new in SMALL.items():
        project.set(pattern, new)
    if not every_benchmark:
        project.set(rf"    (?!{'|'.join(BENCHMARKS)})\w+: \{{root: .*\n", "")
    project.run("git", "init", "-q")
    project.commit("start")
    return project
