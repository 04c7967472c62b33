"""`.ci/install`: uv goes where pip was told to go."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest


def test_registries_that_pip_was_told_of_are_handed_on(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = SourceFileLoader("install", str(repository / ".ci" / "install"))
    install = module_from_spec(spec_from_loader("install", loader))
    loader.exec_module(install)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://one.example/simple\ntimeout = 7\n"
        "extra-index-url =\n  https://two.example/simple\n  file:///three\n"
        "[install]\nfind-links = /a /b\nprogress-bar = off\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CERT", "/own.pem")
    monkeypatch.setenv("PIP_TIMEOUT", "9")  # the environment counts more than a file
    found = install.settings([sys.executable, "-m", "pip"])
    wanted = {
        "UV_DEFAULT_INDEX": "https://one.example/simple",
        "UV_INDEX": "https://two.example/simple file:///three",
        "SSL_CERT_FILE": "/own.pem",
        "UV_HTTP_TIMEOUT": "9",
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["UV_FIND_LINKS"] == "/a,/b"
