"""The documentation's site: it builds without a warning, from the code, and loads nothing else."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmbseg
from fmbseg.config import Config

# What a browser would fetch by itself; a link is followed by people.
FETCHED = re.compile(
    r"""<(?:script|img|source|iframe)[^>]+src=["']?(https?:)?//|url\(["']?https?:"""
)
STYLES = re.compile(r"""<link[^>]+rel=["']?stylesheet["']?[^>]+href=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return out


@pytest.mark.slow  # the extra is there in a turn of slow tests
def test_every_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not FETCHED.search(text) and not STYLES.search(text), page


@pytest.mark.slow
def test_the_references_are_the_codes_own(site: Path) -> None:
    parameters = (site / "configuration" / "index.html").read_text(encoding="utf-8")
    for section, values in Config().model_dump().items():
        assert f'id="{section}"' in parameters
        for name in values:
            assert f"<code>{name}</code>" in parameters, f"{section}.{name}"
    commands = (site / "commands" / "index.html").read_text(encoding="utf-8")
    for name in ("run", "predict", "label", "report", "demo", "data doctor", "models pull"):
        assert f">fmbseg {name}<" in commands
    python = (site / "python" / "index.html").read_text(encoding="utf-8")
    assert 'id="fmbseg.align.losses.tsupcon"' in python
    tour = (site / "tour" / "index.html").read_text(encoding="utf-8")
    assert "<code>Labeller</code>" in tour and "mIoU" in tour and "tour-2.png" in tour
    method = (site / "method" / "index.html").read_text(encoding="utf-8")
    assert method.count("<math") > 10 and "```math" not in method


def test_examples_in_docstrings_run() -> None:
    tried = 0
    for module in pkgutil.walk_packages(fmbseg.__path__, "fmbseg."):
        source = importlib.util.find_spec(module.name)
        assert source is not None and source.origin is not None
        if ">>> " in Path(source.origin).read_text(encoding="utf-8"):
            found = doctest.testmod(importlib.import_module(module.name))
            assert found.failed == 0, module.name
            tried += found.attempted
    assert tried > 10
