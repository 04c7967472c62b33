"""The results of a run made ready for git and DVC's remote: `python -m fmbseg.pipeline.publish`.

`dvc.lock` and `metrics/` go into git together: the numbers, and what they were made from. What lies
in `data/` goes into the remote, where there is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fmbseg.config import load_config
from fmbseg.errors import ConfigError, FmbsegError, one_line
from fmbseg.pipeline.run import stage_names
from fmbseg.pipeline.table import ROWS
from fmbseg.store.paths import Paths

LOCK = "dvc.lock"
_DVC_CONFIG = ".dvc/config"
# What dvc.lock holds digests of, and git must therefore hold as it is.
_MADE_FROM = ("params.yaml", "dvc.yaml", "libraries.yaml", "corrections.yaml", "fmbseg")
_NAMED = 3  # of a list in a message


def publish(root: Path) -> list[str]:
    """Push the outs and stage dvc.lock with all results; nothing is committed.

    Args:
        root: the project.

    Returns:
        What was done, in lines.

    Raises:
        ConfigError: a stage is out of date, what it was made from is not committed, or a result is
            not of this run.
    """
    if not (root / LOCK).is_file():
        raise ConfigError(f"there is no {LOCK}: run `make demo` (or `dvc repro`) first")
    results = _results(root)
    if stale := json.loads(_said(root, _dvc("status", "--json"))):
        raise ConfigError(f"out of date: {_few(sorted(stale))}: run `dvc repro`, then this again")
    if changed := _said(root, ["git", "status", "--short", "--", *_MADE_FROM]).splitlines():
        raise ConfigError(
            f"not committed: {_few([line[3:] for line in changed])}: commit them first, {LOCK} "
            "holds their digests"
        )
    added = [LOCK, *results]
    if remote := _said(root, _dvc("config", "core.remote"), fails=True).strip():
        # Its progress is for whoever waits.
        if subprocess.run(_dvc("push"), cwd=root, check=False).returncode:
            raise ConfigError(f"`dvc push` to {remote!r} failed (above): nothing was staged")
        lines = [f"pushed to {remote!r}: `dvc pull` brings all of it into a clone"]
        added.append(_DVC_CONFIG)
    else:
        lines = ["pushed nothing, for there is no remote (docs/data.md): a clone has numbers alone"]
    _said(root, ["git", "add", "--", *added])
    lines.append(f"staged {LOCK} and {len(results)} results: `git commit` publishes them")
    return lines


def _results(root: Path) -> list[str]:
    """The files of results, each made by a stage of the configuration."""
    made = {
        output.replace("${key}", name.partition("@")[2])
        for name in stage_names(load_config(root / "params.yaml"))
        for output in ROWS[name.partition("@")[0]].metrics
    }
    there = {path.relative_to(root).as_posix() for path in Paths(root).metrics.rglob("*.json")}
    if strange := sorted(there - made):
        raise ConfigError(f"{_few(strange)}: no stage makes this result; remove it")
    return sorted(made)


def _dvc(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _said(root: Path, command: Sequence[str], *, fails: bool = False) -> str:
    """What a command prints; one that may fail prints nothing then."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode and not fails:
        raise ConfigError(" ".join((done.stderr or done.stdout).split()))
    return "" if done.returncode else done.stdout


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def main() -> int:
    """Publish the run of the current folder; a mistake is one line and exit code 2."""
    try:
        print("\n".join(publish(Path())))
    except FmbsegError as error:
        print(f"fmbseg: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
