"""The stage table: what each stage needs, makes and depends on, and how it is run.

`dvc.yaml` is the same table in DVC's words; a test holds the two together. A stage with
`each_benchmark` is written `evaluate@voc21` for one benchmark, as DVC names it; without a
benchmark it runs all of `evaluate.benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fmbseg.config import Config
from fmbseg.errors import ConfigError
from fmbseg.paths import Paths
from fmbseg.progress import Progress
from fmbseg.store import StageReport
from fmbseg.tracking import Tracker


@dataclass(frozen=True)
class Workplace:
    """Everything a stage function is handed.

    Attributes:
        benchmarks: names out of `evaluate.benchmarks` that the stage scores.
    """

    config: Config
    paths: Paths
    progress: Progress
    tracker: Tracker
    benchmarks: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: as in `fmbseg run NAME` and in dvc.yaml.
        summary: one line.
        params: sections (or section.key) of params.yaml that its result depends on.
        inputs: what it reads, relative to the workspace. `${section.key}` is filled in from
            params.yaml, `${item...}` and `${key}` from the benchmark.
        sources: modules and package data, relative to the package, that make its result.
        outputs: what it makes, relative to the workspace.
        function: runs it.
        each_benchmark: whether it runs once a benchmark.
    """

    name: str
    summary: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[[Workplace], StageReport]
    each_benchmark: bool = False


# The stage modules import torch; `fmbseg --help` must not. So each is imported when it runs.


def _scenes(work: Workplace) -> StageReport:
    from fmbseg.data.scene_layouts import scenes

    return scenes(work.config, work.paths, work.progress)


def _detect(work: Workplace) -> StageReport:
    from fmbseg.pseudo.stages import detect

    return detect(work.config, work.paths, work.progress)


def _query(work: Workplace) -> StageReport:
    from fmbseg.pseudo.stages import query

    return query(work.config, work.paths, work.progress)


def _masks(work: Workplace) -> StageReport:
    from fmbseg.pseudo.stages import masks

    return masks(work.config, work.paths, work.progress)


def _label(work: Workplace) -> StageReport:
    from fmbseg.pseudo.stages import label

    return label(work.config, work.paths, work.progress)


def _features(work: Workplace) -> StageReport:
    from fmbseg.align.features import features

    return features(work.config, work.paths, work.progress)


def _align(work: Workplace) -> StageReport:
    from fmbseg.align.stages import align

    with work.tracker.training(work.config, "fmbseg", work.paths.align) as on_metrics:
        return align(work.config, work.paths, work.progress, on_metrics)


def _evaluate(work: Workplace) -> StageReport:
    return _score(work, ("fmbseg",))


def _baselines(work: Workplace) -> StageReport:
    return _score(work, ("maskclip", "pseudo"))


def _oracle(work: Workplace) -> StageReport:
    from fmbseg.align.stages import train_oracle

    with work.tracker.training(work.config, "oracle", work.paths.oracle) as on_metrics:
        report = train_oracle(work.config, work.paths, work.progress, on_metrics)
    _score(work, ("oracle",))
    return report


def _score(work: Workplace, methods: Sequence[str]) -> StageReport:
    from fmbseg.evaluate.stages import evaluate
    from fmbseg.view.example import example_overlay

    for method in methods:
        report = evaluate(
            work.config, work.paths, work.progress, method=method, benchmarks=work.benchmarks
        )
        picture = partial(example_overlay, work.config, work.paths) if method == "fmbseg" else None
        work.tracker.evaluation(work.config, work.paths, method, work.benchmarks, picture)
    return report


_RUN = ("run.dtype", "run.threads")
_PSEUDO = ("clip", "detection", "label", "masks", "query", "sam")
_ALIGN = ("align", "clip.model", "clip.templates", "features", "run.seed", *_RUN)
_PROTOCOL = (
    "evaluate.background_rule",
    "evaluate.background_score",
    "evaluate.background_threshold",
    "evaluate.batch_size",
    "evaluate.logit_scale",
    "evaluate.protocol",
    "evaluate.short_side",
)
_ONE_BENCHMARK = ("evaluate.benchmarks.${key}", *_PROTOCOL)
# Folders, because a stage that is called again for nothing finds its shards and takes a second.
_STAGE_1 = ("data", "models", "pseudo")
_STAGE_2 = ("align", "data", "models")
_SCORING = ("align", "data", "evaluate", "models", "predict.py")

_TABLE = (
    Stage(
        name="scenes",
        summary="draw synthetic scenes with exact ground truth, in the benchmarks' layouts",
        params=("scenes",),
        inputs=(),
        sources=(
            "data/layouts.py",
            "data/scene_classes.py",
            "data/scene_layouts.py",
            "data/scenes.py",
            "data/textures.py",
            "data/vocabularies",
        ),
        outputs=("data/scenes",),
        function=_scenes,
    ),
    Stage(
        name="detect",
        summary="1.1 which classes are in each image, and their query points (CLIP)",
        params=("clip", "data", "detection", "query", *_RUN),
        inputs=("${data.root}",),
        sources=_STAGE_1,
        outputs=("data/pseudo/detect",),
        function=_detect,
    ),
    Stage(
        name="query",
        summary="1.1 one mask for each detected class (SAM)",
        params=("data", *_RUN, "sam"),
        inputs=("${data.root}", "data/pseudo/detect"),
        sources=_STAGE_1,
        outputs=("data/pseudo/query",),
        function=_query,
    ),
    Stage(
        name="masks",
        summary="1.2 automatic masks (SAM)",
        params=("data", "masks", *_RUN, "sam"),
        inputs=("${data.root}",),
        sources=_STAGE_1,
        outputs=("data/pseudo/masks",),
        function=_masks,
    ),
    Stage(
        name="label",
        summary="1.2 classify the masks and compose label maps",
        params=("clip", "data", "label", *_RUN),
        inputs=("${data.root}", "data/pseudo/detect", "data/pseudo/masks", "data/pseudo/query"),
        sources=_STAGE_1,
        outputs=("data/pseudo/label",),
        function=_label,
    ),
    Stage(
        name="features",
        summary="patch features of the frozen encoder, cached once",
        params=("data", "features", *_RUN),
        inputs=("${data.root}",),
        sources=("align/features.py", "data", "models"),
        outputs=("data/features",),
        function=_features,
    ),
    Stage(
        name="align",
        summary="2 train the alignment head on the pseudo labels (T-SupCon)",
        params=(*_ALIGN, "data"),
        inputs=("${data.root}", "data/features", "data/pseudo/label"),
        sources=_STAGE_2,
        outputs=("data/align",),
        function=_align,
    ),
    Stage(
        name="evaluate",
        summary="score the trained segmenter on each benchmark",
        params=(*_ONE_BENCHMARK, *_RUN),
        inputs=("${item.root}", "data/align"),
        sources=_SCORING,
        outputs=("metrics/fmbseg/${key}.json",),
        function=_evaluate,
        each_benchmark=True,
    ),
    Stage(
        name="baselines",
        summary="score dense CLIP (maskclip) and stage 1's own labels (pseudo)",
        params=(*_PSEUDO, *_ONE_BENCHMARK, *_RUN),
        inputs=("${item.root}",),
        sources=(*_SCORING, "pseudo"),
        outputs=("metrics/maskclip/${key}.json", "metrics/pseudo/${key}.json"),
        function=_baselines,
        each_benchmark=True,
    ),
    Stage(
        name="oracle",
        summary="the same head trained on ground truth: the ceiling; trains and scores",
        params=(*_ALIGN, "data", "evaluate"),
        inputs=("${data.root}", "data/features", "data/scenes"),
        sources=_SCORING,
        outputs=("data/oracle", "metrics/oracle"),
        function=_oracle,
    ),
)
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in _TABLE}


def find_stage(name: str, config: Config) -> tuple[Stage, tuple[str, ...]]:
    """A stage by its name, and the benchmarks it is to run on (none: it scores none).

    Args:
        name: `detect`, `evaluate` (all benchmarks) or `evaluate@voc21` (one).
        config: whose `evaluate.benchmarks` are looked up.

    Raises:
        ConfigError: no such stage, no such benchmark, or a stage that takes no benchmark.
    """
    base, at, benchmark = name.partition("@")
    if base not in STAGES:
        raise ConfigError(f"unknown stage {base!r}: use one of {', '.join(STAGES)}")
    stage = STAGES[base]
    if stage.each_benchmark and not config.evaluate.benchmarks:
        raise ConfigError(f"{base!r} has nothing to score: evaluate.benchmarks is empty")
    if not at:
        return stage, tuple(config.evaluate.benchmarks)
    if not stage.each_benchmark:
        raise ConfigError(f"stage {base!r} is not run by benchmark: write {base!r} alone")
    if benchmark not in config.evaluate.benchmarks:
        known = ", ".join(config.evaluate.benchmarks) or "none"
        raise ConfigError(
            f"unknown benchmark {benchmark!r}: evaluate.benchmarks in params.yaml has {known}"
        )
    return stage, (benchmark,)


def run_stage(
    name: str,
    config: Config,
    paths: Paths,
    progress: Progress,
    tracker: Tracker | None = None,
) -> StageReport:
    """Run one stage, `evaluate@voc21` form included; what is already there is taken over.

    Raises:
        ConfigError: see `find_stage`.
        FmbsegError: an input or the weights of a model are missing or damaged.
    """
    stage, benchmarks = find_stage(name, config)
    work = Workplace(config, paths, progress, tracker or Tracker(), benchmarks)
    return stage.function(work)
