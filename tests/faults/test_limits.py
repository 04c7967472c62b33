"""Limits of the machine: one line, nothing lost, the rights that the user's umask gives."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from fmbseg.errors import machine_limit
from fmbseg.store.atomic import (
    remove_abandoned,
    replace_directory,
    seal,
    temporary_directory,
    write_atomically,
)
from fmbseg.store.paths import Paths
from fmbseg.store.shards import MANIFEST, published_key
from fmbseg.tracking.performance import Performance, remember
from tests.store.test_atomic import HALF
from tests.workspace import MakeConfig, run

MODES = """
import os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from fmbseg.store.atomic import temporary_directory, write_atomically, replace_directory
root = Path(sys.argv[1])
write_atomically(root / "file", b"x")
with temporary_directory(root, "folder") as made:
    (made / "inside").write_text("x")
    replace_directory(made, root / "folder")
"""


@pytest.mark.parametrize(
    ("umask", "file", "folder"),
    [("022", 0o644, 0o755), ("077", 0o600, 0o700), ("002", 0o664, 0o775)],
)
def test_the_umask_is_heeded(tmp_path: Path, umask: str, file: int, folder: int) -> None:
    subprocess.run([sys.executable, "-c", MODES, str(tmp_path), umask], check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"file": file, "inside": file, "folder": folder}


def test_who_reads_sees_the_old_out_or_the_new_one(tmp_path: Path) -> None:
    out, stop, seen = tmp_path / "out", threading.Event(), set()

    def publish(key: str) -> None:
        with temporary_directory(tmp_path, "new") as made:
            seal(made, MANIFEST, {"key": key})
            replace_directory(made, out)

    def read() -> None:
        while not stop.is_set():
            seen.add(published_key(out))

    publish("0")
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(200):
        publish(str(number % 2))
    stop.set()
    for reader in readers:
        reader.join()
    assert seen == {"0", "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_writers_file_is_swept_when_a_stage_starts(
    coco: Path, make_config: MakeConfig
) -> None:
    paths = Paths(coco.parent)
    config = make_config()
    run("detect", config, paths)
    place = paths.performance / "other.json"
    with subprocess.Popen(
        [sys.executable, "-c", HALF, str(place)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        # Its writer lives: it stays.
        run("detect", config, paths)
        assert len(list(paths.performance.glob(".fmbseg-tmp-*"))) == 1
        process.kill()
    run("detect", config, paths)
    assert not list(coco.parent.rglob(".fmbseg-tmp-*"))


def test_what_a_stage_took_is_no_reason_to_lose_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = Paths(tmp_path)
    paths.work.mkdir()
    paths.performance.write_text("a file where the folder should be")
    remember(paths, "k", Performance(images=1, seconds=1.0))
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "not enough memory"),
        (OSError("24576 requested and 9936 written"), "disk is full, or the file larger"),
        (ValueError("Unable to allocate 40.0 GiB for an array"), "not enough memory"),
        (ValueError("a bug"), None),
    ],
)
def test_limits_are_told_from_bugs(error: Exception, said: str | None) -> None:
    found = machine_limit(error)
    assert (found is None) == (said is None)
    assert said is None or (found is not None and said in found)


def limited(kind: int, most: int, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """fmbseg in a folder, under a limit of the system."""

    def limit() -> None:
        resource.setrlimit(kind, (most, most))

    command = [sys.executable, "-m", "fmbseg", *arguments]
    # What a run under `make coverage` notes down would be what the limit meets first.
    inherited = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    environment = inherited | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, preexec_fn=limit
    )


@pytest.fixture
def project(coco: Path, make_config: MakeConfig) -> Path:
    config = make_config(tracking={"enabled": False})
    (coco.parent / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return coco.parent


def test_a_file_too_large_is_one_line_and_what_is_finished_stays(project: Path) -> None:
    done = limited(resource.RLIMIT_FSIZE, 20_000, project, "run", "features")
    assert done.returncode == 2, done.stderr
    assert "ulimit -f" in done.stderr and "Traceback" not in done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "fmbseg", "run", "features"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert not list(project.rglob(".fmbseg-tmp-*"))


def test_memory_that_runs_out_is_one_line(project: Path) -> None:
    most = 8_000_000_000
    done = limited(
        resource.RLIMIT_AS, most, project, "run", "features", "--set", "features.short_side=4096"
    )
    assert done.returncode == 2, done.stderr
    assert "not enough memory" in done.stderr and "Traceback" not in done.stderr


def test_abandoned_folders_and_files_go_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / ".fmbseg-tmp-0123").write_text("left by a killed writer")
    (tmp_path / ".fmbseg-tmp-old").mkdir()
    (tmp_path / ".fmbseg-tmp-old" / "x").write_text("x")
    with temporary_directory(tmp_path, "living") as living:
        remove_abandoned(tmp_path)
        assert [path for path in tmp_path.iterdir()] == [living]
    write_atomically(tmp_path / "a", b"a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
