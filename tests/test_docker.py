"""The container files against the compose specification's schema and a Dockerfile linter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture
def docker(repository: Path) -> Path:
    return repository / "docker"


def test_compose_file_is_valid(docker: Path, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="the extra `checks` is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, docker / "compose.yaml"], check=True)
    # And the schema refuses what is none.
    wrong = (docker / "compose.yaml").read_text(encoding="utf-8").replace("healthcheck:", "helth:")
    (tmp_path / "compose.yaml").write_text(wrong, encoding="utf-8")
    assert subprocess.run([*command, tmp_path / "compose.yaml"], check=False).returncode


def test_dockerfile_passes_the_linter(docker: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("the extra `checks` is not installed")
    done = subprocess.run(
        [hadolint, docker / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_everything_the_image_copies_is_in_its_context(docker: Path, repository: Path) -> None:
    ignored = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    lines = (docker / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    sources = [
        s for words in copies for s in words if not any(w.startswith("--from") for w in words)
    ]
    sources = [source for source in sources if not source.startswith("--")]
    assert "docker/healthcheck.py" in sources
    for source in sources:
        assert (repository / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in kept), source


def test_every_secret_is_in_the_example_and_has_no_value_in_git(docker: Path) -> None:
    text = (docker / "compose.yaml").read_text(encoding="utf-8")
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    example = (docker / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.M))
    assert needed <= set(given)
    assert all(given[name] == "" for name in needed)
    services = yaml.safe_load(text)["services"]
    assert {"postgres", "prefect", "mlflow", "worker", "worker-gpu", "s3"} <= set(services)
    assert all("latest" not in str(service.get("image", "")) for service in services.values())
