"""The page of `dvc plots show` says so where its charts cannot be drawn."""

from __future__ import annotations

from pathlib import Path

from dvc.config import Config
from dvc_render.html import HTML
from dvc_render.vega import VegaRenderer


def test_the_page_has_its_charts_and_says_what_it_needs(repository: Path) -> None:
    config = Config(str(repository / ".dvc"), validate=True)
    template = repository / ".dvc" / config["plots"]["html_template"]
    page = HTML(template.read_text(encoding="utf-8"))
    text = page.with_scripts(VegaRenderer.SCRIPTS).with_element("<div>chart</div>").embed()
    said, _, drawn = text.partition("</script>\n    <div>chart</div>")
    assert drawn and "{" + "plot_divs}" not in text
    # Where DVC loads Vega from, and that the page looks whether it has come before it is used.
    assert "cdn.jsdelivr.net/npm/vega@" in said and "did not answer" in said
    assert said.index("vega-embed@") < said.index("typeof vegaEmbed")
