"""What the report shows, collected from the results on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmbseg.align.checkpoint import load_record
from fmbseg.align.record import RECORD, supervision_of
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.evaluate.plots import ENDS, OVERLAYS
from fmbseg.evaluate.published import COLUMNS, PEER_COLUMNS, PEERS, PEERS_NOTE, PUBLISHED, Row
from fmbseg.evaluate.report import build_report
from fmbseg.evaluate.results import Result, current_results
from fmbseg.evaluate.table import corrected_notes
from fmbseg.figures import FIGURES
from fmbseg.pseudo.summary import read_summary
from fmbseg.report.pictures import Picture, picture
from fmbseg.store.paths import Paths

HEAD_METHOD = "fmbseg"
_EXAMPLES = "{}: the best, the middling and the worst of the first pictures, by their own IoU"


@dataclass(frozen=True)
class Table:
    """Rows of text below heads; the first `texts` columns are words, the others numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


@dataclass(frozen=True)
class ClassScore:
    """IoU of one class in percent, by method; None: nothing was counted."""

    name: str
    iou: Mapping[str, float | None]


@dataclass(frozen=True)
class Benchmark:
    """What is shown of one benchmark.

    Attributes:
        name: of the benchmark.
        title: its column in the published table.
        miou: of each method, percent.
        images: how many were scored.
        first: classes by the trained head's IoU, the best first; the best and worst ends.
        folded: those between.
        names: mean IoU over names that the head was trained with, over others; None: not known.
        examples: a good, a middling and a bad picture; None: none was drawn.
        order: methods, that of the trained head first.
    """

    name: str
    title: str
    miou: Mapping[str, float]
    images: int
    first: tuple[ClassScore, ...]
    folded: tuple[ClassScore, ...]
    names: Mapping[str, Any] | None
    examples: Picture | None
    order: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """The whole report.

    Attributes:
        title: what was trained.
        free: whether the head has seen no label of a person, as far as its record says.
        facts: name and value of what it was made with.
        measured: mIoU of the methods of this run.
        published: rows of other systems, as printed by their authors, by what they may use.
        notes: what a reader of the tables must know.
        benchmarks: one by one.
        labels: lines about stage 1's labels.
        figures: with their captions.
        times: what stages took on this machine; None: it is not said.
        ablations: title and table of each study that has results here.
    """

    title: str
    free: bool
    facts: tuple[tuple[str, str], ...]
    measured: Table
    published: tuple[tuple[str, Table], ...]
    notes: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...]
    labels: tuple[str, ...] = ()
    figures: tuple[Picture, ...] = ()
    times: Table | None = None
    ablations: tuple[tuple[str, Table], ...] = ()


def collect(paths: Paths, words: Sequence[Vocabulary], facts: Sequence[tuple[str, str]]) -> Content:
    """Everything that lies in a workspace; what was not made yet is left out.

    Args:
        paths: the workspace.
        words: vocabularies of the training.
        facts: name and value of what the run was made with.

    Raises:
        DataError: there are no results, or a file among them is damaged.
    """
    report = build_report(paths.metrics)
    results = current_results(paths.metrics)
    own = tuple(row for row in report.rows if row.source != PUBLISHED)
    columns = tuple(name for name in report.benchmarks if any(name in row.miou for row in own))
    return Content(
        title=f"{HEAD_METHOD}: {', '.join(each.name for each in words)}",
        free=not corrected_notes(results),
        facts=(*facts, *head_facts(paths.align)),
        measured=_measured(own, columns),
        published=(("FMbSeg's Table 1", _table_1(report.rows)), *_peers()),
        notes=(*report.notes, PEERS_NOTE),
        benchmarks=tuple(_benchmark(name, results, paths.plots) for name in columns),
        labels=_labels(paths.label, words),
        figures=tuple(_figures(paths.figures)),
    )


def head_facts(folder: Path) -> list[tuple[str, str]]:
    """What a head was trained with, by its record; none: there is no head.

    Raises:
        CheckpointError: it is damaged.
    """
    if not (folder / RECORD).is_file():
        return []
    head = load_record(folder)
    info, training = head.info, head.info.training
    supervision = supervision_of(training)
    return [
        ("labels", "not recorded" if supervision is None else supervision.words),
        ("head", f"{training.get('head')}, loss {training.get('loss')}"),
        ("trained on the names of", ", ".join(words.name for words in info.vocabularies)),
        *(
            (part, f"{model.name} (sha256 {model.sha256[:12]})")
            for part, model in (("encoder", info.encoder), ("CLIP", info.clip))
        ),
        ("asked by", f"protocol {info.inference.protocol}, short side {info.inference.short_side}"),
        ("sha256 of the head", head.sha256),
    ]


def _measured(rows: Sequence[Row], columns: tuple[str, ...]) -> Table:
    body = []
    for row in rows:
        values = [row.miou.get(name, "") for name in columns]
        known = [float(value) for value in values if value]
        mean = f"{sum(known) / len(known):.2f}" if len(known) == len(columns) else ""
        body.append((row.method, row.basis, *values, mean))
    return Table(("method", "protocol and weights", *columns, "mean"), tuple(body), texts=2)


def _table_1(rows: Sequence[Row]) -> Table:
    body = tuple(
        (row.method, row.basis, *(row.miou.get(name, "") for name in COLUMNS))
        for row in rows
        if row.source == PUBLISHED
    )
    return Table(("method", "training data", *COLUMNS.values()), body, texts=2)


def _peers() -> list[tuple[str, Table]]:
    return [
        (
            group.title,
            Table(
                ("method", "weights and data", "source", *PEER_COLUMNS.values()),
                tuple(
                    (row.method, row.basis, row.source, *(row.miou[name] for name in PEER_COLUMNS))
                    for row in group.rows
                ),
                texts=3,
            ),
        )
        for group in PEERS
    ]


def _benchmark(name: str, results: Sequence[Result], plots: Path) -> Benchmark:
    found = {str(each["method"]): each for each in results if each["benchmark"] == name}
    own = found.get(HEAD_METHOD) or next(iter(found.values()))
    scored = {key: value for key, value in own["per_class_iou"].items() if value is not None}
    order = sorted(scored, key=lambda key: -scored[key])
    classes = [
        ClassScore(key, {method: each["per_class_iou"].get(key) for method, each in found.items()})
        for key in order
    ]
    few = len(classes) <= 2 * ENDS
    examples = plots / OVERLAYS / f"{name}.png"
    return Benchmark(
        name=name,
        title=COLUMNS.get(name, name),
        miou={method: each["miou"] for method, each in found.items() if each["miou"] is not None},
        images=int(own["images"]),
        first=tuple(classes if few else (*classes[:ENDS], *classes[-ENDS:])),
        folded=() if few else tuple(classes[ENDS:-ENDS]),
        names=own.get("names"),
        examples=picture(examples, _EXAMPLES.format(name)) if examples.is_file() else None,
        order=tuple(sorted(found, key=lambda method: method != HEAD_METHOD)),
    )


def _labels(folder: Path, words: Sequence[Vocabulary]) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(line for each in words for line in read_summary(folder, each).lines(each))


def _figures(folder: Path) -> list[Picture]:
    found = [(folder / f"{row.name}.png", row.caption) for row in FIGURES.values()]
    return [picture(path, caption) for path, caption in found if path.is_file()]
