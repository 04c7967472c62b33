"""Commands in forks of a process that has imported the libraries, as in `make demo`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from fmbseg.pipeline.ready import PLACE, Ready, handed_over, possible

FMBSEG = (sys.executable, "-m", "fmbseg")

pytestmark = pytest.mark.skipif(not possible(), reason="no forks are handed out on this system")


@pytest.fixture(scope="module")
def ready() -> Iterator[Ready]:
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with Ready() as found:
        found.start()
        yield found
    signal.signal(signal.SIGINT, before)


def environment(ready: Ready) -> dict[str, str]:
    return os.environ | dict(ready.place)


def forks(ready: Ready) -> list[psutil.Process]:
    assert ready._process is not None
    found: list[psutil.Process] = psutil.Process(ready._process.pid).children(recursive=True)
    return found


def wait_for(holds: object, seconds: float = 60.0) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_a_fork_does_what_the_command_does_itself(ready: Ready, tmp_path: Path) -> None:
    for line in (["--version"], ["run", "nothing"], ["predict", "gone", "--out", "o"]):
        plain, forked = (
            subprocess.run(
                [*FMBSEG, *line], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            for env in (os.environ, environment(ready))
        )
        assert forked.returncode == plain.returncode
        assert (forked.stdout, forked.stderr) == (plain.stdout, plain.stderr)


def test_it_is_a_fork_that_does_it(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PLACE, ready.place[PLACE])
    assert handed_over(["--version"]) == 0
    assert handed_over(["run", "nothing"]) == 2
    said = capfd.readouterr()
    assert said.out.startswith("fmbseg ") and "unknown stage" in said.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_nobody_answers_the_command_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path))
    assert handed_over(["--version"]) is None
    done = subprocess.run([*FMBSEG, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fmbseg ")
    monkeypatch.delenv(PLACE)
    assert handed_over(["--version"]) is None


@pytest.fixture
def at_work(ready: Ready, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that has much to do, and has begun."""
    (tmp_path / "photos").mkdir()
    for number in range(400):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number:03}.png")
    line = ("predict", "photos", "--method", "maskclip", "--classes", "dog, sky", "--out", "out")
    process = subprocess.Popen(
        [*FMBSEG, *line], cwd=tmp_path, env=environment(ready), stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len([*(tmp_path / "out").glob("*.json")]) > 2)
    assert forks(ready)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_reaches_the_fork(ready: Ready, at_work: subprocess.Popen[str]) -> None:
    at_work.send_signal(signal.SIGINT)
    _, said = at_work.communicate(timeout=60)
    assert at_work.returncode == 130 and said.endswith("fmbseg: interrupted\n")
    wait_for(lambda: not forks(ready))


def test_what_is_terminated_ends_as_a_command_does(
    ready: Ready, at_work: subprocess.Popen[str]
) -> None:
    at_work.terminate()
    assert at_work.wait(60) == -signal.SIGTERM
    wait_for(lambda: not forks(ready))


def test_a_caller_that_is_killed_takes_its_fork_with_it(
    ready: Ready, at_work: subprocess.Popen[str]
) -> None:
    at_work.kill()
    assert at_work.wait(60) == -signal.SIGKILL
    wait_for(lambda: not forks(ready))


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    ask = (
        "import os, time; from fmbseg.pipeline.ready import Ready; ready = Ready(); ready.start();"
        "print(ready._process.pid, *ready.place.values(), flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    number, place = starter.stdout.readline().split()
    process = psutil.Process(int(number))
    starter.kill()
    starter.wait()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert not Path(place).exists()
