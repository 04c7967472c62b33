"""The report and the review sheet in a real browser, from the disk: light, dark and on a phone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fmbseg.cli import app
from fmbseg.evaluate.results import read_result
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import workplace
from fmbseg.report.stage import PAGE, write_report
from fmbseg.store.paths import Paths
from tests.web.watching import SHAPES, watched
from tests.workspace import MakeConfig, run

pytestmark = pytest.mark.slow


def brightness(page: Any, selector: str, part: str) -> float:
    """Of a colour of an element, 0 to 255."""
    text = page.eval_on_selector(selector, f"e => getComputedStyle(e).{part}")
    channels = [float(each) for each in re.findall(r"[\d.]+", text)][:3]
    scale = 255 if text.startswith("color(") else 1
    return scale * sum(channels) / len(channels)


def fits(page: Any) -> bool:
    """Whether nothing of it lies beside the screen."""
    width: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return width


def in_the_right_light(page: Any, shape: str) -> bool:
    ground = brightness(page, "body", "backgroundColor")
    ink = brightness(page, "body", "color")
    return abs(ground - ink) > 150 and (ground < ink) == (shape == "dark")


def test_the_report(browser: Any, labelled: Paths, make_config: MakeConfig) -> None:
    config = make_config()
    for stage in ("features", "align", "evaluate", "baselines", "plots"):
        run(stage, config, labelled)
    write_report(workplace(config, labelled, silent_progress()), labelled.root / "report")
    address = (labelled.root / "report" / PAGE).as_uri()
    own = read_result(labelled.metrics / "fmbseg" / "coco_stuff.json")
    scores = [
        read_result(labelled.metrics / name / "coco_stuff.json")["miou"]
        for name in ("fmbseg", "maskclip", "pseudo")
    ]
    for shape, options in SHAPES.items():
        page = browser.new_context(**options).new_page()
        heard = watched(page, address)
        page.goto(address)
        assert fits(page) and in_the_right_light(page, shape), shape

        # What a person reads: the head's score, and the best of the column marked.
        row = page.locator("main table").first.locator("tr", has_text="fmbseg").first
        assert f"{own['miou']:.2f}" in row.inner_text()
        best = page.locator("main table").first.locator("td.best").first.inner_text()
        assert best == f"{max(scores):.2f}"
        marked = brightness(page, "td.best", "backgroundColor")
        assert marked != brightness(page, "body", "backgroundColor")

        # By keys alone: to the results, to a folded table, and into it.
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.url.endswith("#results")
        summary = page.locator("summary", has_text="IoU of each class").first
        summary.focus()
        assert page.eval_on_selector("summary:focus", "e => getComputedStyle(e).outlineWidth")
        page.keyboard.press("Enter")
        name = next(key for key, value in own["per_class_iou"].items() if value is not None)
        shown = page.locator("details[open] tr", has=page.locator(f"th:text-is('{name}')")).first
        assert shown.is_visible()
        assert f"{own['per_class_iou'][name]:.1f}" in shown.inner_text()

        # Pictures come when they are scrolled to, and have a text for those who do not see them.
        for picture in page.locator("main img").all():
            picture.scroll_into_view_if_needed()
            assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") > 0
            assert picture.get_attribute("alt")
        if shape == "phone":
            # The name of a row stays where its numbers are scrolled to.
            table = page.locator(".wide").first
            table.evaluate("e => { e.scrollLeft = 1000 }")
            left = row.locator("th").bounding_box()["x"] - table.bounding_box()["x"]
            assert 0 <= left < 5
        assert not heard.wrong and not heard.outside, shape


def test_the_review_sheet(
    browser: Any,
    labelled: Paths,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(labelled.root)
    Path("params.yaml").write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    out = tmp_path / "sheet"
    done = CliRunner().invoke(app, ["review", str(labelled.label), "--out", str(out)])
    assert done.exit_code == 0, done.output
    address = (out / "review.html").as_uri()
    for shape, options in SHAPES.items():
        page = browser.new_context(**options).new_page()
        heard = watched(page, out.as_uri())
        page.goto(address)
        assert fits(page) and in_the_right_light(page, shape), shape
        cards = page.locator("article")
        count = cards.count()
        assert count >= 2
        assert f"{count} of {count} pictures, 0 looked at" in page.inner_text("#count")
        for picture in page.locator("article img").all():
            picture.scroll_into_view_if_needed()
            assert picture.evaluate("e => e.decode().then(() => e.naturalWidth)") > 0

        # By keys alone: next, looked at, which goes on to the next; the browser remembers it.
        page.keyboard.press("j")
        first = page.locator("article.here").get_attribute("id")
        page.keyboard.press("x")
        assert page.locator("article.here").get_attribute("id") != first
        assert "1 looked at" in page.inner_text("#count")
        page.reload()
        assert "1 looked at" in page.inner_text("#count")
        page.check("#unseen")
        assert page.locator("article:visible").count() == count - 1
        page.uncheck("#unseen")

        # Of one class: rows of others are hidden, and so are pictures without it.
        name = page.locator("#class option").nth(1).get_attribute("value")
        page.select_option("#class", name)
        rows = page.locator("li:visible")
        assert rows.count() > 0
        assert {row.get_attribute("data-name") for row in rows.all()} == {name}
        assert not heard.wrong and not heard.outside, shape
