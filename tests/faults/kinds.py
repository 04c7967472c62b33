"""The kinds of faults, each a function (workspace, rounds) -> what was tried, what went wrong."""

from __future__ import annotations

import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmbseg.align.checkpoint import load_checkpoint
from fmbseg.data.corrections import read_corrections
from fmbseg.errors import FmbsegError
from fmbseg.evaluate.results import read_result
from fmbseg.store.atomic import read_checked, read_listing, write_checked
from fmbseg.store.shards import MANIFEST, published_digest
from tests.faults import hostile
from tests.faults.flips import flips
from tests.faults.forks import call, start
from tests.faults.small import STAGES, leftovers, outs


@dataclass
class Figures:
    """What one kind of fault gave.

    Attributes:
        tried: how often.
        problems: what went wrong, by what was tried.
        more: figures besides.
    """

    tried: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, problem: str | None) -> None:
        """Count one try."""
        self.tried += 1
        if problem is not None:
            self.problems[name] = problem


def kills(finished: Path, rounds: int) -> Figures:
    """A stage killed at a random moment and started again gives the same bytes, and leaves nothing.

    Rounds go through the stages in turn; each begins with the outs of the stages before.
    """
    figures, chance = Figures(more={"in the middle": 0}), random.Random(0)
    expected, seconds = outs(finished), dict.fromkeys(STAGES, 2.0)
    for number in range(rounds):
        stage = STAGES[number % len(STAGES)]
        with _copy(finished) as root:
            _unmake(root, stage)
            fork = start(("run", stage), root)
            time.sleep(chance.uniform(0, seconds[stage]))
            fork.kill()
            killed = fork.wait()
            figures.more["in the middle"] += killed.code < 0
            if killed.code >= 0:  # it had ended before: sooner the next time
                seconds[stage] = killed.seconds * 0.9
            again = call(("run", stage), root)
            figures.add(f"{stage}, round {number}", _difference(root, expected) or again.problem)
    return figures


def races(finished: Path, rounds: int) -> Figures:
    """Two processes at once on one workspace: both end well, and the bytes are those of one."""
    figures, chance = Figures(), random.Random(0)
    expected = outs(finished)
    label = ("corrections", "import", "png", "data/pseudo/label/labels", "--out", "data/mended")
    predict = ("predict", "coco/images", "--classes", "dog, sky", "--out", "predicted")
    pairs: list[tuple[Sequence[str], Sequence[str]]] = [
        *((("run", stage), ("run", stage)) for stage in STAGES),
        (("run", "query"), ("run", "masks")),
        (predict, predict),
        (label, label),
        (("run", "align"), predict),
    ]
    for number in range(rounds):
        pair = pairs[number % len(pairs)]
        with _copy(finished) as root:
            for line in pair:
                if line[0] == "run":
                    _unmake(root, line[1])
            forks = []
            for line in pair:
                forks.append(start(line, root))
                time.sleep(chance.uniform(0, 0.3))
            ends = [fork.wait() for fork in forks]
            wrong = [end.problem or (end.said.strip()[-300:] if end.code else None) for end in ends]
            # A reader may come while the head is made anew, and is told so.
            if pair[0] != pair[1] and pair[1] == predict and ends[1].code == 2:
                wrong[1] = ends[1].problem
            problem = next(filter(None, wrong), None) or _difference(root, expected)
            figures.add(f"{' '.join(pair[0][:2])} beside {' '.join(pair[1][:2])}", problem)
    return figures


LIMITS: Mapping[str, tuple[int, Sequence[int]]] = {
    "file size": (resource.RLIMIT_FSIZE, (0, 100, 4_000, 20_000)),
    "open files": (resource.RLIMIT_NOFILE, (8, 16, 32)),
    "memory": (resource.RLIMIT_AS, (3_500_000_000, 4_000_000_000, 4_500_000_000)),
}


def limits(finished: Path, rounds: int) -> Figures:
    """Limits of the system: one line and no damage; without the limit the same bytes as always."""
    figures, expected = Figures(more={"stopped": 0}), outs(finished)
    tries = [
        (name, kind, most, stage)
        for stage in STAGES
        for name, (kind, values) in LIMITS.items()
        for most in values
    ]
    random.Random(0).shuffle(tries)
    for number in range(rounds):
        name, kind, most, stage = tries[number % len(tries)]
        with _copy(finished) as root:
            _unmake(root, stage)
            stopped = call(("run", stage), root, {kind: most})
            figures.more["stopped"] += stopped.code != 0
            again = call(("run", stage), root)
            problem = stopped.problem or again.problem or _difference(root, expected)
            figures.add(f"{stage} with {name} of {most}", problem)
    return figures


def flipped(finished: Path, rounds: int) -> Figures:
    """A byte changed in each kind of file: refused, or it says the same; never something else."""
    figures = Figures(more={"files": 0, "refused": 0})
    with _copy(finished) as root:
        for name, (path, read) in _readers(root).items():
            figures.more["files"] += 1
            sound = read()
            for place in flips(path, rounds):
                try:
                    problem = None if read() == sound else "read as something else"
                except FmbsegError:
                    problem = None
                    figures.more["refused"] += 1
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                figures.add(f"{name}, byte {place}", problem)
    return figures


def hostile_inputs(finished: Path, rounds: int) -> Figures:
    """All hostile files and texts, or an even choice of so many; and a thousand pictures."""
    cases = list(hostile.cases())
    figures = Figures(more={"known": len(cases), "slowest, s": 0.0, "most memory, MB": 0.0})
    step = max(1, len(cases) // rounds)
    for case in cases[::step]:
        outcome, problem = hostile.run_case(case, finished)
        _largest(figures.more, outcome.seconds, outcome.peak_mb)
        figures.add(case.name, problem)
    if step == 1:
        outcome, problem = hostile.thousand(finished)
        figures.add("1,000 pictures of which 20 are bad", problem)
        figures.more["1,000 pictures, s"] = round(outcome.seconds, 1)
    return figures


Kind = Callable[[Path, int], Figures]
KINDS: Mapping[str, Kind] = {
    "kill": kills,
    "race": races,
    "limit": limits,
    "flip": flipped,
    "hostile": hostile_inputs,
}
ROUNDS = {"kill": 50, "race": 24, "limit": 80, "flip": 200, "hostile": 10_000}


@contextmanager
def _copy(finished: Path) -> Iterator[Path]:
    """A copy of a finished workspace, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="fmbseg-faults-") as folder:
        root = Path(folder) / "work"
        shutil.copytree(finished, root)
        yield root


def _unmake(root: Path, stage: str) -> None:
    """Remove what a stage has made, shards included."""
    places = [root / "data" / stage, root / "data" / "pseudo" / stage]
    places += [root / "metrics"] if stage == "evaluate" else []
    store = root / ".fmbseg"
    named = {"features": "features", "align": "training", "evaluate": "evaluate-fmbseg"}
    places += [store / named.get(stage, stage), store / "shards" / named.get(stage, stage)]
    places += [store / "shards" / stage]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def _difference(root: Path, expected: Mapping[str, bytes]) -> str | None:
    """How a workspace differs from one that nothing happened to; None: it does not."""
    found = {k: v for k, v in outs(root).items() if not k.startswith("data/mended")}
    names = sorted(found.keys() | expected.keys())
    if differing := [name for name in names if found.get(name) != expected.get(name)]:
        return f"other bytes in {', '.join(differing[:3])}"
    if left := leftovers(root):
        return f"left over: {', '.join(left[:3])}"
    return None


def _readers(root: Path) -> dict[str, tuple[Path, Callable[[], Any]]]:
    """Each kind of file, and what reads it: equal where it says the same."""
    align, label = root / "data" / "align", root / "data" / "pseudo" / "label"
    state, corrected = root / "state", root / "data" / "corrections"
    write_checked(state, bytes(range(256)) * 20)
    (corrected / "labels").mkdir(parents=True)

    def head() -> Any:
        found = load_checkpoint(align)
        return found.sha256, found.info

    result = root / "metrics" / "fmbseg" / "coco_stuff.json"
    readers: dict[str, tuple[Path, Callable[[], Any]]] = {
        "checkpoint.json": (align / "checkpoint.json", head),
        "head.safetensors": (align / "head.safetensors", head),
        "a manifest": (label / MANIFEST, lambda: (published_digest(label), _listed(label))),
        "a result": (result, lambda: read_result(result)),
        "a training's state": (state, lambda: read_checked(state)),
    }
    for stage in ("detect", "query", "masks", "label", "features"):
        place = root / "data" / ("" if stage == "features" else "pseudo") / stage
        for path in sorted(
            each for each in place.rglob("*") if each.suffix in (".parquet", ".png")
        ):
            if path.suffix not in (".png",) or "png" not in readers:
                name = "png" if path.suffix == ".png" else f"{stage}'s {path.name}"
                readers[name] = (path, lambda place=place: _sound(place))
    assert read_corrections(corrected) is None
    return readers


def _listed(place: Path) -> Any:
    found = read_listing(place, MANIFEST)
    return None if found is None else dict(found)


def _sound(place: Path) -> str:
    """Digest of an out that is as it was published."""
    from fmbseg.store.shards import is_published, published_key

    key = published_key(place)
    if key is None or not is_published(place, key):
        raise FmbsegError(f"{place} is damaged")
    return key


def _largest(more: dict[str, Any], seconds: float, peak: float) -> None:
    more["slowest, s"] = round(max(more["slowest, s"], seconds), 1)
    more["most memory, MB"] = round(max(more["most memory, MB"], peak))


def in_turn(names: Sequence[str]) -> Iterator[tuple[str, Kind]]:
    """Kinds by name, in the order of `KINDS`."""
    return ((name, kind) for name, kind in KINDS.items() if name in names)
