"""Names that hold terminal escapes and control characters, on their way to where people read."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fmbseg.errors import ConfigError, is_control, one_line, plain
from fmbseg.evaluate.results import write_result
from fmbseg.machine.plain_text import PlainFormatter, PlainText
from fmbseg.machine.progress import LineProgress, console_progress
from fmbseg.report.page import page_template
from fmbseg.review.sheet import escape
from fmbseg.tracking.run_content import class_table

# Clears the screen, sets the window's title, and writes the rest from right to left.
EVIL = "a\x1b[2J\x1b]0;mine\x07b\x9b31m\u202ec\x00\udcff\r"
STEERING = [character for character in map(chr, range(0x11000)) if is_control(character)]


def harmless(text: str) -> bool:
    return not any(is_control(each) for each in text if each not in "\n\t")


def test_every_steering_character_is_escaped_and_no_other_is() -> None:
    for each in STEERING:
        assert harmless(plain(each)), hex(ord(each))
        assert (plain(each) == each) == (each in "\n\t")
    kept = "".join(each for each in map(chr, range(0x11000)) if each not in STEERING)
    assert plain(kept) == kept


def test_an_errors_line_is_one_line() -> None:
    said = one_line(ConfigError(f"{EVIL}\nsecond\tline"))
    assert harmless(said) and "\n" not in said and "\t" not in said
    assert one_line(ConfigError("")) == "ConfigError"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("http://ann:geheim@host:1/api is away", "http://ann:***@host:1/api is away"),
        ("postgresql+asyncpg://:geheim@host/x", "postgresql+asyncpg://:***@host/x"),
        ("http://host:4200/a@b", "http://host:4200/a@b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("user@host: a:b", "user@host: a:b"),
    ],
)
def test_no_password_of_an_address_is_said(text: str, wanted: str) -> None:
    assert one_line(text) == plain(text) == wanted


def test_what_is_printed_and_logged_steers_no_terminal() -> None:
    raw = io.BytesIO()
    stream = PlainText(io.TextIOWrapper(raw, encoding="ascii"))
    print(EVIL, "dög", file=stream, flush=True)
    text = raw.getvalue().decode("ascii")
    assert harmless(text) and text.endswith(r"d\xf6g" + "\n")

    record = logging.LogRecord("fmbseg", logging.WARNING, "", 0, "%s is odd", (EVIL,), None)
    assert harmless(PlainFormatter("fmbseg: %(message)s").format(record))


def test_progress_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.StringIO()
    with LineProgress(lines, interval=0).task(EVIL, 1) as task:
        task.advance()
    assert harmless(lines.getvalue())

    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "fmbseg.machine.progress.Console",
        lambda file: Console(file=file, force_terminal=True, width=200),
    )
    with console_progress(screen).task(f"{EVIL}[red]x", 1) as task:
        task.advance()
    shown = screen.getvalue()
    # The bar has escapes of its own; none of the name's is among them, and no markup is taken.
    assert "\x1b[2J" not in shown and "\x07" not in shown and "[red]x" in shown


def test_pages_and_tables_show_them_escaped(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p title='{{ name }}'>{{ name }}</p>")
    text = page_template(tmp_path).render(name=f"<b>{EVIL}</b>")
    assert harmless(text) and "<b>" not in text
    assert harmless(escape(f"<i>'\"{EVIL}")) and "<" not in escape("<i>")
    assert harmless(class_table({"per_class_iou": {EVIL: 1.0}}))


def test_a_result_of_others_steers_no_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "metrics" / "other"
    folder.mkdir(parents=True)
    result = {"benchmark": "voc\x1b[2J21", "method": "x\x1b]0;mine\x07", "miou": 12.3}
    write_result(result | {"images": 3, "protocol": {}}, folder / "voc21.json")
    command = [sys.executable, "-m", "fmbseg", "table"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True)
    assert harmless(done.stdout + done.stderr) and "voc" in done.stdout + done.stderr
