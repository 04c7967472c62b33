"""The page in a real browser: what is seen is what the API says."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fmbseg.store.paths import Paths
from fmbseg.view.overlay import png
from tests.web.serving import running_page
from tests.web.watching import watched
from tests.workspace import draw_picture

pytestmark = pytest.mark.slow
NAMES = "dog, grass, sky"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "mine.png"
    path.write_bytes(png(draw_picture(4, (96, 72))))
    return path


@pytest.mark.parametrize(
    "shape",
    [
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"},
    ],
    ids=["desk", "phone in the dark"],
)
def test_upload_names_legend_and_download(
    browser: Any, workspace: Paths, random_weights: Path, picture: Path, shape: dict[str, Any]
) -> None:
    with running_page(workspace.root, random_weights) as address:
        page = browser.new_context(**shape).new_page()
        heard = watched(page, address)
        page.goto(address)
        page.fill("#classes", NAMES)
        page.set_input_files("#file", str(picture))
        page.wait_for_selector("#result:not([hidden])")

        asked = httpx.post(
            f"{address}/segment",
            params={"classes": NAMES, "part": ["before", "stage1"]},
            content=picture.read_bytes(),
            timeout=60,
        ).json()
        shown = page.eval_on_selector_all("#legend span", "all => all.map(e => e.textContent)")
        assert shown == [each["name"] for each in asked["classes"]]

        with page.expect_download() as waiting:
            page.click("#png")
        with Image.open(waiting.value.path()) as saved:
            assert saved.mode == "P"
            found = np.asarray(saved)
        with Image.open(io.BytesIO(base64.b64decode(asked["label"]))) as label:
            assert np.array_equal(found, np.asarray(label))
        with page.expect_download() as waiting:
            page.click("#coco")
        record = json.loads(Path(waiting.value.path()).read_text())
        assert [each["name"] for each in record["categories"]] == NAMES.split(", ")

        # Under the mouse stands the class of that pixel.
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        said = page.inner_text("#here")
        x, y = (int(part) for part in said.split(":")[0].split(","))
        assert NAMES.split(", ")[found[y, x]] in said

        # Stage 1 and what was before alignment are fetched when they are asked for.
        for view in ("before", "stage1"):
            page.check(f"input[value={view}]")
            page.wait_for_selector("#go:not([disabled])")
        page.check("#points")
        page.wait_for_selector("#go:not([disabled])")
        assert not heard.wrong and not heard.outside

        # A mistake is said, and nothing breaks.
        page.fill("#classes", "dog, dog")
        page.click("#go")
        page.wait_for_selector("#status.error")
        assert "dog" in page.inner_text("#status")
