"""The table of what is claimed of speed and memory: `python -m benchmarks [CLAIM...]`.

Writes build/benchmarks.json and build/benchmarks.md; exit code 1: a claim does not hold.
Results of claims that are not tried this time stay in the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.claims import CLAIMS
from benchmarks.comparing import compare

BUILD = Path("build")


def main() -> int:
    """Try claims, print and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "claims", nargs="*", metavar="CLAIM", help=f"{', '.join(CLAIMS)}; none: all"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if unknown := [name for name in given.claims if name not in CLAIMS]:
        parser.error(f"unknown claim {unknown[0]!r}: use one of {', '.join(CLAIMS)}")
    BUILD.mkdir(exist_ok=True)
    place = BUILD / "benchmarks.json"
    known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    missed = False
    for name in given.claims or CLAIMS:
        print(f"{name}: {CLAIMS[name].says}", file=sys.stderr)
        found = compare(CLAIMS[name], given.device, given.threads)
        missed |= not found.holds
        known[f"{name} {given.device}"] = asdict(found) | {"holds": found.holds}
        # After each one: the large ones take long.
        place.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    text = table(known.values())
    (BUILD / "benchmarks.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return int(missed)


def table(findings: Iterable[Mapping[str, Any]]) -> str:
    """Findings as a Markdown table, a row a claim."""
    head = ["claim", "device", "ours, s", "other, s", "ratio (quartiles)", "claimed", "memory, MB"]
    lines = [[*head, "results"], ["---"] * (len(head) + 1)]
    for each in findings:
        low, high = each["quartiles"]
        least = f">= {each['least']:g}" + ("" if each["holds"] else ", **missed**")
        if each["least_memory"] is not None:
            least += f"; memory 1/{each['least_memory']:g}"
        lines.append(
            [
                each["says"],
                each["device"],
                f"{each['ours']:.3g}",
                f"{each['other']:.3g}",
                f"{each['ratio']:.2f} ({low:.2f} to {high:.2f})",
                least,
                f"{each['memory_ours']:.0f} and {each['memory_other']:.0f}",
                each["result"],
            ]
        )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
