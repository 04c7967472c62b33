"""pytest's option `--turn`: the slow tests of one landing; the others are counted and named."""

from __future__ import annotations

import pytest

from tests.rotation.turns import chosen, landing, read_plan

_SAID = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turn", metavar="N|auto", help="the slow tests of one landing alone")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.getoption("--turn")
    if asked is None:
        return
    plan = read_plan()
    number = landing(plan) if asked == "auto" else int(asked)
    slow = [item.nodeid for item in items if item.get_closest_marker("slow")]
    some = chosen(slow, number, plan)
    left = [item for item in items if item.nodeid in {*slow} - {*some}]
    # The longest first, so that no process is left alone with them at the end.
    place = {name: index for index, name in enumerate(some)}
    items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: place.get(item.nodeid, -1))
    config.hook.pytest_deselected(items=left)
    turn = f"turn {number % plan['turns']} of {plan['turns']}"
    said = [f"{turn}: {len(some)} of {len(slow)} slow tests"]
    config.stash[_SAID] = said + [f"not in this turn: {item.nodeid}" for item in left]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(_SAID, []):
        terminalreporter.write_line(line)
