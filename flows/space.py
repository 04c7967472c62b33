"""What a search may change, in a line a parameter: `align.learning_rate=0.001..0.02 log`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmbseg.config import Config, override_config
from fmbseg.errors import ConfigError

if TYPE_CHECKING:
    import optuna

SECTION = "align"
"""The section that is searched: labels and features are the same in all trials."""
SPACE = (
    "align.learning_rate=0.001..0.02 log",
    "align.temperature=0.05..0.5 log",
    "align.weight_decay=0.001..0.3 log",
    "align.patches_per_class=1..8",
    "align.purity=0.3..0.8",
)
_RANGE = re.compile(r"^(?P<low>[^.|\s]*\.?[^.|\s]*)\.\.(?P<high>\S+?)(?P<log>\s+log)?$")


@dataclass(frozen=True)
class Dimension:
    """One parameter.

    Attributes:
        name: `section.key`.
        choices: what it may be; none: a number.
        low: the least number.
        high: the greatest.
        log: whether it is drawn by ratios.
        whole: whether only whole numbers are.
    """

    name: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def suggest(self, trial: optuna.Trial) -> str | float:
        """A value for a trial."""
        if self.choices:
            return str(trial.suggest_categorical(self.name, self.choices))
        if self.whole:
            return int(trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(self.name, self.low, self.high, log=self.log))

    def holds(self, value: object) -> bool:
        """Whether a value is one of those that may be drawn."""
        if self.choices:
            return str(value) in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high


def dimensions(space: Sequence[str]) -> list[Dimension]:
    """A search space of its lines.

    Raises:
        ConfigError: none is given, one is given twice, or a line is no range or choice of a
            parameter of the section align.
    """
    found = [_dimension(line) for line in space]
    if not found or len({each.name for each in found}) < len(found):
        raise ConfigError("space: name at least one parameter, and none of them twice")
    return found


def _dimension(line: str) -> Dimension:
    name, separator, text = (part.strip() for part in line.partition("="))
    if not separator or not name.startswith(f"{SECTION}."):
        raise ConfigError(
            f"space {line!r}: write {SECTION}.KEY=low..high or {SECTION}.KEY=one|other; trials "
            "share labels and features, so other sections are not searched"
        )
    if match := _RANGE.match(text):
        found = _range(name, match, line)
        ends: tuple[object, ...] = (found.low, found.high)
        ends = tuple(map(int, (found.low, found.high))) if found.whole else ends
    else:
        choices = tuple(part.strip() for part in text.split("|"))
        if len(choices) < 2 or not all(choices):
            raise ConfigError(f"space {line!r}: give two choices (one|other) or low..high")
        found, ends = Dimension(name, choices), choices
    for end in ends:  # a trial must not be the first to find out
        override_config(Config(), [f"{name}={end}"])
    return found


def _range(name: str, match: re.Match[str], line: str) -> Dimension:
    try:
        low, high = float(match["low"]), float(match["high"])
    except ValueError as error:
        raise ConfigError(f"space {line!r}: {error}") from error
    log = match["log"] is not None
    if low >= high or (log and low <= 0):
        raise ConfigError(f"space {line!r}: low must be below high, and above 0 where it is log")
    whole = all(re.fullmatch(r"[+-]?\d+", match[end]) for end in ("low", "high"))
    return Dimension(name, (), low, high, log, whole)
