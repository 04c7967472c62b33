"""A page in a browser as people have it, and what it did that it should not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# As people have them: at a desk, in the dark, on a phone.
SHAPES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "color_scheme": "light"},
}


@dataclass
class Heard:
    """What a page did that it should not.

    Attributes:
        wrong: errors of its scripts and of the console.
        outside: addresses elsewhere that it asked for.
    """

    wrong: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def watched(page: Any, own: str) -> Heard:
    """Listens to a page that may ask for addresses that begin with `own` alone."""
    heard = Heard()
    page.on("pageerror", lambda error: heard.wrong.append(str(error)))
    page.on("console", lambda m: heard.wrong.append(m.text) if m.type == "error" else None)

    def asked(request: Any) -> None:
        if not request.url.startswith((own, "data:", "blob:")):
            heard.outside.append(request.url)

    page.on("request", asked)
    return heard
