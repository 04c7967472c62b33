"""What mkdocs adds to the pages that lie in docs/: references made from the code, equations.

`make docs` builds the site. A page that is made here is in no file: it cannot be out of date.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
import yaml
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from fmbseg import cli
from fmbseg.config import Config, Section
from fmbseg.presets import preset

ROOT = Path(__file__).parents[1]
# Files of the repository's root that are pages too.
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
}
NOTEBOOK = "examples/tour.ipynb"
PRESETS = ("tiny", "base", "paper")
_HOME = "https://github.com/fmbseg/fmbseg/blob/main"
_MATH = re.compile(r"(?ms)^```math\n(.*?)^```$")
_INLINE = re.compile(r"\$`([^`]+)`\$")
_LINK = re.compile(r"(\]\()(?!https?://|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of something else."""
    made = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in PAGES.items()}
    made |= {"commands.md": commands(), "configuration.md": configuration()}
    text, pictures = notebook()
    made["tour.md"] = text
    for name, content in pictures.items():
        files.append(File.generated(config, name, content=content))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Equations become MathML, and links to files that are no pages lead to the repository."""
    sources = PAGES | {"tour.md": NOTEBOOK}
    own = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {f"docs/{name}": name for name in files.src_uris} | {v: k for k, v in sources.items()}

    def link(match: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(own), match[2]))
        if place in pages:
            return match[1] + posixpath.relpath(pages[place], posixpath.dirname(page.file.src_uri))
        return f"{match[1]}{_HOME}/{place}" if (ROOT / place).exists() else match[0]

    text = _MATH.sub(lambda m: convert(m[1].strip(), display="block"), markdown)
    text = _INLINE.sub(lambda m: convert(m[1]), text)
    return _LINK.sub(link, text)


def notebook() -> tuple[str, dict[str, bytes]]:
    """The tour as a page, with what its cells have printed, and its pictures by their names."""
    parts, pictures = [], {}
    for cell in json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"images/tour-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the cell above shows]({name})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def commands() -> str:
    """Every command with its help, from the command line itself."""
    lines = ["# Commands", "", "As `--help` has them. " + " ".join(cli.__doc__.split("\n\n")[1:])]
    command = typer.main.get_command(cli.app)
    for name, each in _flat("fmbseg", command):
        lines += ["", f"## {name}", "", _prose(each.help or ""), ""]
        rows = [_option(parameter) for parameter in each.params if parameter.name != "help"]
        if rows:
            lines += ["| option | means |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Every parameter with its bounds, its values in the presets, and what it means."""
    lines = ["# Configuration", "", (ROOT / "params.yaml").read_text().partition("\n\n")[0]]
    lines[2] = re.sub(r"(?m)^# ?", "", lines[2])
    values = {name: preset(name) for name in PRESETS}
    said = comments()
    for section, field in Config.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            continue
        lines += ["", f"## {section}", "", _prose(kind.__doc__ or ""), ""]
        lines += [
            f"| parameter | {' | '.join(PRESETS)} | means |",
            "|---" * (2 + len(PRESETS)) + "|",
        ]
        for name, parameter in kind.model_fields.items():
            own = [
                values[each]
                .get(section, {})
                .get(name, parameter.get_default(call_default_factory=True))
                for each in PRESETS
            ]
            shown = [f"`{_short(value)}`" for value in own]
            means = said.get((section, name)) or parameter.description or ""
            lines.append(
                f"| `{name}` | {' | '.join(shown)} | {_cell(means + _bounds(parameter))} |"
            )
    return "\n".join(lines) + "\n"


def comments() -> Mapping[tuple[str, str], str]:
    """(section, key) -> what params.yaml says beside it, over all its lines."""
    found: dict[tuple[str, str], str] = {}
    section = key = ""
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):", line):
            section, key = match[1], ""
        elif match := re.match(r"  (\w+):[^#]*(?:#\s*(.*))?$", line):
            key = match[1]
            found[section, key] = match[2] or ""
        elif key and (match := re.match(r"\s+#\s*(.*)$", line)):
            found[section, key] += f" {match[1]}"
        else:
            key = ""
    return found


def _flat(name: str, command: Any) -> Iterable[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, each in command.commands.items():
        yield from _flat(f"{name} {word}", each)


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts if name.startswith("-"))
    shown = names or f"`{(parameter.metavar or parameter.name).upper()}`"
    if names and parameter.metavar:
        shown += f" `{parameter.metavar.replace('|', ' or ')}`"
    default = parameter.default
    known = default not in (None, False, ()) and not callable(default) and names
    means = (getattr(parameter, "help", None) or "") + (f" Default: `{default}`." if known else "")
    return f"| {_cell(shown)} | {_cell(means)} |"


def _bounds(parameter: Any) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [
        f"{text} {getattr(rule, name)}"
        for rule in parameter.metadata
        for name, text in signs.items()
        if getattr(rule, name, None) is not None
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _short(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...")
    text = text.strip()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _prose(text: str) -> str:
    return "\n\n".join(" ".join(part.split()).replace("<", "&lt;") for part in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
