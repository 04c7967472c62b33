"""The command line as a user meets it: in a process of its own, judged by what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from fmbseg import __version__
from fmbseg.pipeline.table import ROWS

COMMAND = [sys.executable, "-m", "fmbseg"]


def fmbseg(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def mistake(done: subprocess.CompletedProcess[str]) -> str:
    """The one line a user's mistake gets."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fmbseg: ")
    return lines[0]


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((repository / "params.yaml").read_bytes())
    return tmp_path


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    Image.new("RGB", (96, 64), (90, 120, 40)).save(path)
    return path


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("comp", ["compare"]),
        ("run lab", ["label"]),
        ("predict --vocabulary voc2", ["voc20", "voc21"]),
        ("evaluate --method mask", ["maskclip"]),
    ],
)
def test_the_shell_completes(typed: str, completed: list[str], tmp_path: Path) -> None:
    words = f"fmbseg {typed}"
    asked = {"_FMBSEG_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment = os.environ | asked | {"COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == completed


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "Missing command: see `fmbseg --help`"),
        ("segment", "No such command 'segment'"),
        ("run", "Missing argument 'STAGE': see `fmbseg run --help`"),
        ("run detect --foo", "No such option: --foo"),
        ("run detect --set", "requires an argument"),
        ("run segment", "unknown stage 'segment': use one of scenes, detect"),
        ("run evaluate@pascal", "unknown benchmark 'pascal': evaluate.benchmarks in params.yaml"),
        ("run detect --set clip.windw=3", "clip.windw: unknown parameter"),
        ("run detect --set clip.window=-1", "clip.window: Input should be greater than"),
        ("run detect --set clip.window=200 --set clip.stride=201", "larger than clip.window"),
        ("run detect --set clip.window", "write it as section.key=value"),
        ("run detect --params none.yaml", "none.yaml does not exist"),
        ("predict --classes dog --out o", "Missing argument 'IMAGE...'"),
        ("predict dog.png --out o", "give either --classes"),
        ("predict dog.png --out o --classes dog --vocabulary voc21", "give either --classes"),
        ("predict dog.png --out o --classes dog,cat,Dog", "'Dog' stands twice"),
        ("predict dog.png --out o --classes dog,,cat", "empty name"),
        ("predict dog.png --out o --vocabulary voc22", "voc22"),
        ("predict dog.png --out o --classes dog --checkpoint none", "no checkpoint in none"),
        ("predict none.png --out o --classes dog", "none.png does not exist"),
        ("predict dog.png --out params.yaml --classes dog", "params.yaml: File exists"),
        ("evaluate --benchmark voc21", "Missing option '--method'"),
        (
            "evaluate --benchmark voc99 --root . --method maskclip --json m.json",
            "no data set 'voc99'",
        ),
        ("evaluate --benchmark voc21 --root . --method sam --json m.json", "'sam' is not one of"),
        ("data", "Missing command: see `fmbseg data --help`"),
        ("data doctor voc99 --root .", "no data set 'voc99': use one of voc21"),
        (
            "data doctor voc21 --root none",
            "none does not exist, expected the folder VOC2012; to get",
        ),
        (
            "data prepare context60 --root .",
            "trainval_merged.json does not exist; to get context60",
        ),
        ("data vocabulary none.txt --out o.yaml", "Missing option '--separator'"),
        ("data vocabulary none.txt --out o.yaml --separator ;", "cannot read the class list none"),
        ("data scenes --layout zoo --images 3 --out o", "'zoo' is not one of"),
        ("data scenes --layout voc2012 --images 0 --out o", "Invalid value for '--images'"),
        ("models verify tiny-dino", "unknown model 'tiny-dino': choose one of tiny-clip"),
        ("models evaluate --scenes 1", "Invalid value for '--scenes'"),
        ("models evaluate --bsds500 none", "holds 0 photos: give a folder of BSDS500"),
        ("models evaluate --set clip.dense=sharp", "clip.dense: Input should be 'value', 'sclip'"),
        ("table --metrics none", "none"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    project: Path, dog: Path, arguments: str, part: str
) -> None:
    assert part in mistake(fmbseg(*arguments.split(), cwd=project))


def test_all_errors_of_a_params_file_are_listed_at_once(project: Path) -> None:
    (project / "params.yaml").write_text("clip: {window: 0, strid: 3}\nnothing: {}\n")
    line = mistake(fmbseg("run", "detect", cwd=project))
    assert "clip.window" in line
    assert "clip.strid: unknown parameter" in line
    assert "nothing: unknown parameter" in line


def test_outside_a_project(tmp_path: Path) -> None:
    line = mistake(fmbseg("run", "detect", cwd=tmp_path))
    assert "params.yaml does not exist: run inside the project or give --params FILE" in line


def test_a_stage_without_its_input_says_what_to_run(project: Path) -> None:
    assert "data/scenes/coco_stuff164k" in mistake(fmbseg("run", "detect", cwd=project))


@pytest.mark.parametrize(
    ("arguments", "differs"),
    [
        ("--set scenes.seed=1", True),
        ("--params other.yaml", True),
        ("--set scenes.seed=0", False),
        ("--set tracking.enabled=false", False),
    ],
)
def test_a_run_with_other_parameters_says_so(project: Path, arguments: str, differs: bool) -> None:
    (project / "params.yaml").write_text("scenes: {layouts: {voc2012: {val: 2}}}\n")
    (project / "other.yaml").write_text("scenes: {layouts: {voc2012: {val: 1}}}\n")
    done = fmbseg("run", "scenes", *arguments.split(), cwd=project)
    assert done.returncode == 0, done.stderr
    assert ("not the result of params.yaml" in done.stderr) == differs


def test_scenes_are_not_mixed_with_anything_else(tmp_path: Path) -> None:
    def scenes(layout: str, images: int, seed: int, out: str) -> subprocess.CompletedProcess[str]:
        command = f"data scenes --layout {layout} --images {images} --seed {seed} --out {out}"
        return fmbseg(*command.split(), cwd=tmp_path)

    done = scenes("coco_stuff164k", 4, 3, "s")
    assert (done.returncode, done.stdout) == (0, "s: 4 training and 1 validation scenes\n")
    assert len(list((tmp_path / "s" / "images" / "train2017").iterdir())) == 4
    assert scenes("coco_stuff164k", 4, 3, "s").returncode == 0
    assert "holds 5 scenes, more than 3" in mistake(scenes("coco_stuff164k", 2, 3, "s"))
    assert "holds other scenes" in mistake(scenes("coco_stuff164k", 4, 2, "s"))
    assert "holds other scenes" in mistake(scenes("voc2012", 4, 3, "s"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.txt").touch()
    assert "mine holds something else" in mistake(scenes("voc2012", 4, 3, "mine"))


def test_version_and_help(tmp_path: Path) -> None:
    assert fmbseg("--version", cwd=tmp_path).stdout == f"fmbseg {__version__}\n"
    shown = fmbseg("run", "--help", cwd=tmp_path).stdout
    assert all(name in shown for name in ROWS)
    explained = " ".join(fmbseg("data", "scenes", "--help", cwd=tmp_path).stdout.split())
    assert "max(1, N // 4)" in explained


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, fmbseg.cli; print([m for m in ('torch', 'mlflow') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_models_list_names_every_model_and_its_place(tmp_path: Path) -> None:
    from fmbseg.models.records import registry

    done = fmbseg("models", "list", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(registry())


def test_interrupt_is_one_line_and_exit_code_130(project: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "scenes", "--set", "scenes.layouts.voc2012.val=100000"],
        cwd=project,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Started in the background of a script, the tests inherit an ignored interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (project / ".fmbseg").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal: to the processes it has started, too
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "fmbseg: interrupted"
    assert "Traceback" not in stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    script = f"{' '.join(COMMAND)} models list | head -1"
    done = subprocess.run(script, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
