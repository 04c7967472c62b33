"""The code changed one place at a time; tests must notice. Which they did, as a table.

python -m tests.mutation                               # all mutants: an hour or so
python -m tests.mutation --parts store --sample 100    # of each file of a part at most so many
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Before anything imports the libraries that read them: threads do not survive a fork.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

from tests.mutation import running
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.targets import TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
WANTED = 85.0  # percent of a part's mutants
PARTS = tuple(dict.fromkeys(target.part for target in TARGETS))


@dataclass(frozen=True)
class Result:
    """What came of a mutant.

    Attributes:
        file: that was changed.
        digest: of the file, before.
        tests: digest of the test files.
        name: the mutant's.
        end: "killed", "time" (killed as well: the tests took too long) or "survived".
        by: the test that failed; of a survivor how many ran.
    """

    file: str
    digest: str
    tests: str
    name: str
    end: str
    by: str


def digest(files: Sequence[Path]) -> str:
    """Of what files hold."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def known(path: Path) -> dict[tuple[str, str, str], Result]:
    """Results of earlier runs by file, its digest and the mutant's name."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return {(each.file, each.digest, each.name): each for each in results}


def chosen(target: Target, sample: int | None, seed: int) -> tuple[int, list[Mutant]]:
    """How many mutants a file has, and those to try: always the same of one seed."""
    file = ROOT / target.file
    found = list(mutants(file.read_text(encoding="utf-8"), str(file), target.only))
    if sample is None or sample >= len(found):
        return len(found), found
    some = random.Random(f"{seed} {target.file}").sample(range(len(found)), sample)
    return len(found), [found[index] for index in sorted(some)]


def tried(
    target: Target, some: Sequence[Mutant], tests: running.Tests, out: Path
) -> Iterator[Result]:
    """Results of mutants, as they come; `out` keeps them.

    Of earlier runs a kill holds while the file is the same, a survivor while the tests are too.
    """
    file = ROOT / target.file
    marks = digest([file]), digest([ROOT / name for name in target.tests])
    before, clean = known(out), None
    for mutant in some:
        result = before.get((target.file, marks[0], mutant.name))
        if result is None or (result.end == "survived" and result.tests != marks[1]):
            clean = clean or tests.clean(file, target.tests)
            result = Result(
                target.file, *marks, mutant.name, *outcome(target, mutant, tests, clean)
            )
            with out.open("a") as stream:
                stream.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
        yield result


def outcome(
    target: Target, mutant: Mutant, tests: running.Tests, clean: running.Clean
) -> tuple[str, str]:
    """How a mutant ends, and by what."""
    names = clean.noticing(mutant.lines)
    limit = 10 + 5 * sum(clean.seconds[name] for name in names)
    end = tests.mutated(target.module, mutant.code, names, limit)
    if end.code is None:
        return "time", f"{limit:.0f} s"
    if end.code == 0:
        return "survived", f"{len(names)} tests"
    return "killed", str(end.told.get("failed", f"exit code {end.code}"))


def measured(
    targets: Sequence[Target], sample: int | None, seed: int, tests: running.Tests, out: Path
) -> str:
    """Try mutants of each file, and write a table and the survivors; parts below what is wanted."""
    rows = ["| part | file | mutants | tried | killed | survived | seconds | % |"]
    rows.append("|---|---|---:|---:|---:|---:|---:|---:|")
    left: list[str] = []
    killed: dict[str, list[bool]] = {}
    for target in targets:
        begin = time.monotonic()
        total, some = chosen(target, sample, seed)
        results = list(tried(target, some, tests, out / "results.jsonl"))
        dead = [result.end != "survived" for result in results]
        killed.setdefault(target.part, []).extend(dead)
        rows.append(
            f"| {target.part} | `{target.file}` | {total} | {len(dead)} | {sum(dead)} | "
            f"{len(dead) - sum(dead)} | {time.monotonic() - begin:.0f} | {share(dead):.0f} |"
        )
        print(rows[-1], flush=True)
        left += [f"{target.file}:{r.name} ({r.by})" for r in results if r.end == "survived"]
    rows += [
        f"| {part} | | | {len(d)} | {sum(d)} | | | {share(d):.1f} |" for part, d in killed.items()
    ]
    (out / "survivors.txt").write_text("\n".join(left) + "\n")
    (out / "mutation.md").write_text("\n".join(rows) + "\n")
    print(*left, *rows, sep="\n")
    return ", ".join(part for part, dead in killed.items() if share(dead) < WANTED)


def share(dead: Sequence[bool]) -> float:
    """Percent."""
    return 100 * sum(dead) / max(1, len(dead))


def main() -> None:
    """Ends with 1 where a part has too many survivors."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of a file; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--out", type=Path, default=Path("build/mutation"), metavar="DIR")
    given = parser.parse_args()
    parts = given.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    targets = [target for target in TARGETS if target.part in parts]
    low: list[str] = []
    files = list(dict.fromkeys(name for target in targets for name in target.tests))
    running.collected(
        files,
        lambda tests: low.append(measured(targets, given.sample, given.seed, tests, given.out)),
    )
    if low != [""]:
        sys.exit(f"less than {WANTED:.0f} % killed: {', '.join(low)}")


if __name__ == "__main__":
    main()
