"""The container files against the compose specification's schema and a Dockerfile linter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import apply_values

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


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_job_templates_mount_the_folder_that_runs_work_in(docker: Path, kind: str) -> None:
    template = json.loads((docker / f"pool-{kind}.json").read_text(encoding="utf-8"))
    # Prefect's own check: each placeholder of the configuration is a variable.
    WorkPoolCreate(name="pool", type=kind, base_job_template=template)
    broken = json.loads(json.dumps(template).replace("{{ image }}", "{{ imag }}"))
    with pytest.raises(ValueError, match="imag"):
        WorkPoolCreate(name="pool", type=kind, base_job_template=broken)

    variables = template["variables"]["properties"]
    defaults = {name: entry["default"] for name, entry in variables.items() if "default" in entry}
    validate(defaults, template["variables"])
    job = apply_values(template["job_configuration"], defaults)
    assert isinstance(job, dict)
    contained = yaml.safe_load((docker / "prefect.yaml").read_text(encoding="utf-8"))
    (step,) = contained["pull"]
    folder = step["prefect.deployments.steps.set_working_directory"]["directory"]
    if kind == "docker":
        assert job["volumes"] == [f"/data/fmbseg:{folder}"]
        (request,) = job["container_create_kwargs"]["device_requests"]
        assert request == {"count": 1, "capabilities": [["gpu"]]}
        environment = job["env"]
    else:
        pod = job["job_manifest"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount == {"name": volume["name"], "mountPath": folder}
        assert volume["persistentVolumeClaim"] == {"claimName": "fmbseg"}
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
        environment = container["env"]
    assert environment["PYTHONPATH"] == folder


def test_what_a_worker_writes_is_on_volumes_that_its_user_owns(docker: Path) -> None:
    compose = yaml.safe_load((docker / "compose.yaml").read_text(encoding="utf-8"))
    dockerfile = (docker / "Dockerfile").read_text(encoding="utf-8")
    (made,) = re.findall(
        r"install --directory --owner fmbseg --group fmbseg([^&]*?)\n[A-Z]", dockerfile
    )
    owned = set(made.replace("\\", " ").split())
    written = {"/state", *(f"/work/{name}" for name in ("data", "metrics", ".fmbseg"))}
    for name in ("worker", "worker-gpu"):
        mounts = dict(entry.rsplit(":", 1)[::-1] for entry in compose["services"][name]["volumes"])
        assert written <= set(mounts) & owned
        assert {mounts[place] for place in written} <= set(compose["volumes"])
    for name in ("prefect", "mlflow"):
        assert any(entry.endswith(":/state") for entry in compose["services"][name]["volumes"])


def test_every_service_that_stays_has_a_health_check(docker: Path) -> None:
    services = yaml.safe_load((docker / "compose.yaml").read_text(encoding="utf-8"))["services"]
    staying = {name for name, service in services.items() if service.get("restart") != "no"}
    assert staying == {"postgres", "prefect", "mlflow", "worker", "worker-gpu", "s3"}
    assert all("healthcheck" in services[name] for name in staying)


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
