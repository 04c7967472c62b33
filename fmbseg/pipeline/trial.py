"""One trial of a search: a head trained beside the project's own, scored where choices are made.

The project's own outs are read and never written. A trial's head has the content key that the stage
`align` would give it, so what a search has trained, that stage takes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmbseg.align.stages import CURVE
from fmbseg.config import BenchmarkRoot, Config
from fmbseg.data.datasets import load_dataset
from fmbseg.errors import ConfigError
from fmbseg.evaluate.results import read_result
from fmbseg.evaluate.scoring import Candidate, Scoring
from fmbseg.machine.progress import Progress
from fmbseg.pipeline.table import ROWS
from fmbseg.scenes.files import write_scenes
from fmbseg.scenes.layouts import SCENE_LAYOUTS
from fmbseg.stage.stage import stage_class
from fmbseg.stage.workplace import Workplace
from fmbseg.store.paths import Paths
from fmbseg.tracking.self_agreement import measured

METHOD, STAGE = "fmbseg", "align"
AGREEMENT = "agreement"
"""What a trial is judged by where there are no development scenes."""


@dataclass(frozen=True)
class Trial:
    """What came of a trial.

    Attributes:
        scores: mIoU in percent by benchmark, on development scenes; or the head's agreement.
        curve: the training's table of losses.
    """

    scores: Mapping[str, float]
    curve: Path

    @property
    def value(self) -> float:
        """The mean of the scores: more is better."""
        return sum(self.scores.values()) / len(self.scores)


def development_benchmarks(
    config: Config, paths: Paths, wanted: Sequence[str], count: int, progress: Progress
) -> dict[str, BenchmarkRoot]:
    """Where development scenes in the layouts of some benchmarks lie; drawn where they are missing.

    Never the pictures of `evaluate.benchmarks` themselves: what is chosen on them, they cannot
    report.

    Args:
        config: sections scenes and evaluate are read.
        paths: the workspace.
        wanted: names of benchmarks; none: all of those that are scenes.
        count: scenes of each layout.
        progress: where progress is shown.

    Returns:
        By benchmark; none: there are only benchmarks of real pictures.

    Raises:
        ConfigError: a wanted one is unknown, or is not scenes, so that choosing on it would be
            choosing on what is reported.
    """
    layouts = {paths.scenes / each.folder: (name, each) for name, each in SCENE_LAYOUTS.items()}
    entries = config.evaluate.benchmarks
    drawn = {
        name: layouts[paths.root / entry.root]
        for name, entry in entries.items()
        if paths.root / entry.root in layouts
    }
    for name in wanted:
        if name not in entries:
            raise ConfigError(f"unknown benchmark {name!r}: choose of {', '.join(entries)}")
        if name not in drawn:
            raise ConfigError(
                f"{name} in {entries[name].root} is for reports: parameters are chosen on "
                "development scenes alone, which are drawn for benchmarks below "
                f"{Paths().scenes.as_posix()}"
            )
    found = {}
    for name in wanted or drawn:
        layout, record = drawn[name]
        folder = paths.development / str(count) / record.folder
        write_scenes(
            layout,
            folder,
            train=0,
            val=count,
            seed=config.scenes.seed,
            development=True,
            progress=progress,
            processes=config.run.threads,
        )
        place = folder.relative_to(paths.root).as_posix()
        found[name] = BenchmarkRoot(root=place, split=record.splits["val"])
    return found


def run_trial(
    config: Config,
    paths: Paths,
    folder: Path,
    benchmarks: Mapping[str, BenchmarkRoot],
    progress: Progress,
) -> Trial:
    """Train a head into a folder and score it; one that was killed goes on.

    Args:
        config: with the parameters of the trial.
        paths: the workspace, in which the labels and features are made.
        folder: of the trial, in the workspace.
        benchmarks: as `development_benchmarks` gives them; none: the head is judged by how far it
            agrees with itself under flips and scale (`fmbseg.inference.agreement`).
        progress: where progress is shown.

    Raises:
        StoreError: labels or features are missing, or of other parameters.
        ConfigError: the training does not converge.
    """
    head = folder / "head"
    row = replace(ROWS[STAGE], outputs=(head.relative_to(paths.root).as_posix(),))
    work = Workplace({**ROWS, STAGE: row}, config, paths, progress)
    stage_class(row)(row, work).run()
    if not benchmarks:
        agreement, _ = measured(config, head, paths.root)
        return Trial({AGREEMENT: agreement}, head / CURVE)
    candidate = Candidate(METHOD, config, paths, head)
    scores = {}
    for name, entry in benchmarks.items():
        dataset = load_dataset(name, paths.root / entry.root, entry.split)
        target = folder / f"{name}.json"
        Scoring(candidate, dataset, None, dataset.vocabulary, target, progress).run()
        scores[name] = float(read_result(target)["miou"])
    return Trial(scores, head / CURVE)
