"""Everything that may go wrong, done on purpose; the figures as a table.

python -m tests.faults                                 # all, which takes an hour or so
python -m tests.faults --kinds kill,flip --rounds 20   # some, so often each
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import forks
from tests.faults.kinds import KINDS, ROUNDS, Figures, in_turn
from tests.faults.small import make_finished


def measure(
    kinds: list[str], rounds: int | None, finished: Path
) -> dict[str, tuple[Figures, float]]:
    """Figures and seconds of each kind, told as they come."""
    found = {}
    for name, kind in in_turn(kinds):
        begin = time.monotonic()
        figures = kind(finished, rounds or ROUNDS[name])
        found[name] = figures, time.monotonic() - begin
        print(f"{name}: {figures.tried} tried, {len(figures.problems)} went wrong", flush=True)
        for what, problem in list(figures.problems.items())[:20]:
            print(f"  {what}: {problem}", flush=True)
    return found


def table(found: dict[str, tuple[Figures, float]]) -> str:
    """The figures in Markdown."""
    lines = ["| kind | tried | wrong | seconds | besides |", "|---|---:|---:|---:|---|"]
    for name, (figures, seconds) in found.items():
        more = ", ".join(f"{what}: {value}" for what, value in figures.more.items())
        wrong = len(figures.problems)
        lines.append(f"| {name} | {figures.tried} | {wrong} | {seconds:.0f} | {more} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Ends with 1 where something went wrong."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="of each kind; default: its own")
    parser.add_argument("--out", type=Path, default=Path("build/faults"), metavar="DIR")
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    if unknown := [name for name in kinds if name not in KINDS]:
        parser.error(f"no such kind: {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    forks.preload()
    with tempfile.TemporaryDirectory(prefix="fmbseg-faults-") as folder:
        make_finished(Path(folder) / "finished")
        found = measure(kinds, given.rounds, Path(folder) / "finished")
    given.out.mkdir(parents=True, exist_ok=True)
    record = {
        name: {
            "tried": figures.tried,
            "problems": figures.problems,
            "seconds": round(seconds, 1),
            **figures.more,
        }
        for name, (figures, seconds) in found.items()
    }
    (given.out / "faults.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (given.out / "faults.md").write_text(table(found))
    print(table(found), end="")
    sys.exit(any(figures.problems for figures, _ in found.values()))


if __name__ == "__main__":
    main()
