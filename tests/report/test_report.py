"""The report is one file with everything in it, and says what the results say."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from fmbseg import cli
from fmbseg.align.record import STAGE_1, SUPERVISION, Supervision
from fmbseg.errors import FmbsegError
from fmbseg.evaluate.results import read_result, write_result
from fmbseg.report.card import card
from fmbseg.report.content import Table, collect
from fmbseg.report.page import best_cells, page
from fmbseg.report.stage import CARD, PAGE
from fmbseg.stage.tracker import Tracker
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run

BEFORE = ("features", "align", "evaluate", "baselines", "oracle", "evaluate_oracle", "plots")


@pytest.fixture
def made(labelled: Paths, make_config: MakeConfig) -> Paths:
    """A workspace in which all stages have run."""
    config = make_config()
    for stage in (*BEFORE, "figures", "report"):
        run(stage, config, labelled)
    return labelled


class Page(HTMLParser):
    """Tags with their attributes, and the cells of all tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data.strip()


def test_the_page_says_what_the_results_say(made: Paths) -> None:
    found = Page((made.report / PAGE).read_text(encoding="utf-8"))
    shown = {row[0]: row for row in found.rows if row and len(row) == 4}
    for method in ("fmbseg", "maskclip", "pseudo", "oracle"):
        result = read_result(made.metrics / method / "coco_stuff.json")
        assert shown[method][2] == f"{result['miou']:.2f}"
    iou = read_result(made.metrics / "fmbseg" / "coco_stuff.json")["per_class_iou"]
    for name, value in iou.items():
        if value is not None:
            (row,) = (row for row in found.rows if row and row[0] == name)
            assert row[1] == f"{value:.1f}"


def test_everything_is_inside_one_file(made: Paths) -> None:
    text = (made.report / PAGE).read_text(encoding="utf-8")
    found = Page(text)
    addresses = [v for _, attrs in found.tags for k, v in attrs.items() if k in ("src", "href")]
    assert addresses
    assert all(v and v.startswith(("data:image/webp;base64,", "#")) for v in addresses)
    assert "url(" not in text and "<script" not in text
    pictures = [attrs for tag, attrs in found.tags if tag == "img"]
    assert len(pictures) == 1 + 7  # a benchmark's examples, and the figures
    for attrs in pictures:
        assert attrs["alt"]
        data = base64.b64decode(str(attrs["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert (str(image.width), str(image.height)) == (attrs["width"], attrs["height"])
    targets = {attrs["id"] for _, attrs in found.tags if attrs.get("id")}
    assert {v[1:] for v in addresses if v and v.startswith("#")} <= targets


def test_equal_results_give_equal_bytes_and_are_not_computed_again(
    made: Paths, make_config: MakeConfig
) -> None:
    before = {path.name: path.read_bytes() for path in made.report.iterdir()}
    assert run("report", make_config(), made).computed == 0
    for store in (made.shards / "report").iterdir():
        for path in sorted(store.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    (made.report / PAGE).unlink()
    assert run("report", make_config(), made).computed == 1
    assert {path.name: path.read_bytes() for path in made.report.iterdir()} == before
    assert str(made.root).encode() not in before[PAGE]


def test_a_name_is_never_markup(labelled: Paths, make_config: MakeConfig) -> None:
    run("baselines", make_config(), labelled)
    result = json.loads((labelled.metrics / "maskclip" / "coco_stuff.json").read_text())
    result["per_class_iou"]["<img src=x onerror=alert(1)>"] = 12.0
    write_result(result, labelled.metrics / "maskclip" / "coco_stuff.json")
    text = page(collect(labelled, (), [("<b>", "&")]))
    assert "<img src=x" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<b>" not in text


def test_the_card_is_one_of_the_hub(made: Paths) -> None:
    text = (made.report / CARD).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    record = yaml.safe_load(front)
    assert (record["license"], record["pipeline_tag"]) == ("apache-2.0", "image-segmentation")
    (result,) = record["model-index"][0]["results"]
    miou = read_result(made.metrics / "fmbseg" / "coco_stuff.json")["miou"]
    assert result["metrics"][0]["value"] == round(miou, 2)
    assert "| fmbseg |" in body and "sha256 of the head" in body


def test_the_command_writes_what_is_there_and_says_where(
    made: Paths, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.root)
    Path("params.yaml").write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    done = CliRunner().invoke(cli.app, ["report", "--out", "mine"], catch_exceptions=False)
    assert done.exit_code == 0 and "mine/index.html" in done.stdout
    text = Path("mine", PAGE).read_text(encoding="utf-8")
    times = re.search(r'id="times".*?</table>', text, re.S)
    assert times is not None and "features" in times[0] and "evaluate@coco_stuff" in times[0]
    assert 'id="times"' not in (made.report / PAGE).read_text(encoding="utf-8")


def test_without_results_it_says_what_to_do(
    coco: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(coco.parent)
    Path("params.yaml").write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    assert cli._main(["report"]) == 2
    error = capfd.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "no results" in error


def test_a_report_of_scores_of_another_head_is_refused(
    made: Paths, make_config: MakeConfig
) -> None:
    path = made.metrics / "fmbseg" / "coco_stuff.json"
    result = json.loads(path.read_text())
    write_result(result | {"checkpoint_sha256": "0" * 64}, path)
    with pytest.raises(FmbsegError, match="coco_stuff is not of the present head"):
        assert opened("report", make_config(), made).key


def test_what_people_have_corrected_is_never_called_annotation_free(made: Paths) -> None:
    free = collect(made, (), [])
    assert "Annotation-free" in page(free) and "annotation-free" in card(free)
    path = made.metrics / "fmbseg" / "coco_stuff.json"
    supervision = asdict(Supervision(STAGE_1, corrected_images=2, corrected_pixels=100))
    write_result(read_result(path) | {SUPERVISION: supervision}, path)
    found = collect(made, (), [])
    assert "Annotation-free" not in page(found) and "no annotation was read" not in card(found)
    assert "annotation-free" not in card(found).split("---")[1]
    assert "2 pictures corrected by people" in page(found)


class Recorded(Tracker):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def report(self, config: object, paths: object, files: object) -> None:
        """See `Tracker.report`."""
        self.files += [path.name for path in files]  # type: ignore[attr-defined]


def test_page_and_card_are_logged(made: Paths, make_config: MakeConfig) -> None:
    tracker = Recorded()
    run("report", make_config(), made, tracker)
    assert tracker.files == [PAGE, CARD]


def test_the_best_of_each_column_is_marked() -> None:
    rows = (("a", "", "1.0", "2.0"), ("b", "", "3.0", ""), ("c", "", "3.0", "1.5"))
    found = best_cells(Table(("m", "w", "x", "y"), rows, texts=2))
    assert found == {(1, 2), (2, 2), (0, 3)}
