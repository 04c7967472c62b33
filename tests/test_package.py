"""The package as a whole: what importing it costs, and the dependencies' known break."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fmbseg


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_public_names_and_version() -> None:
    assert set(fmbseg.__all__) == {"Labeller", "Segmenter", "__version__", "load_segmenter"}
    assert fmbseg.Segmenter.__name__ == "Segmenter"
    assert callable(fmbseg.load_segmenter)
    assert fmbseg.__version__.count(".") == 2


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fmbseg"):
        _ = fmbseg.segmenter


@pytest.mark.parametrize(
    "statement",
    [
        "import fmbseg",
        "import fmbseg.config",
        "from fmbseg.models.weights import model_digest; model_digest('tiny-clip')",
    ],
)
def test_import_is_light(statement: str) -> None:
    heavy = {"torch", "open_clip", "timm", "mlflow", "prefect", "dvc", "pandas"}
    assert not modules_after(statement) & heavy


def test_segmenter_needs_no_orchestration() -> None:
    assert not modules_after("from fmbseg import Segmenter") & {"prefect", "dvc", "mlflow"}


def test_prefect_server_can_be_imported() -> None:
    # pip's own choice of fastapi broke this while `pip check` was happy: hence the pin.
    assert "prefect.server.api.server" in modules_after("import prefect.server.api.server")
