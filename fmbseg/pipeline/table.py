"""The stage table: what each stage needs, makes and depends on, and which function runs it.

`dvc.yaml` is the same table in DVC's words; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fmbseg.config import Config
from fmbseg.machine.progress import Progress, silent_progress
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths
from fmbseg.store.shards import ShardedWork, StageReport, StageState
from fmbseg.tracking.tracker import Tracker


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
        state: its content key as inputs and parameters are now, and whether the result is there.
        each_benchmark: whether it runs once a benchmark.
        shards: its shards, where several machines may share them out.
        track: logs the result that is there; None: nothing of it is logged.
    """

    name: str
    summary: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[[Workplace], StageReport]
    state: Callable[[Workplace], StageState]
    each_benchmark: bool = False
    shards: Callable[[Workplace], ShardedWork[Any]] | None = None
    track: Callable[[Workplace], None] | None = None


# The stage modules import torch; `fmbseg --help` must not. So each is imported when it runs.


def _scenes(work: Workplace) -> StageReport:
    from fmbseg.data.scene_files import scenes

    return scenes(work.config, work.paths, work.progress)


def _scenes_state(work: Workplace) -> StageState:
    from fmbseg.data.scene_files import scenes_state

    return scenes_state(work.config, work.paths)


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


def _pseudo_state(name: str, work: Workplace) -> StageState:
    from fmbseg.pseudo.stages import state

    return state(name, work.config, work.paths, work.progress)


def _pseudo_shards(name: str, work: Workplace) -> ShardedWork[Any]:
    from fmbseg.pseudo.stages import shards

    return shards(name, work.config, work.paths, work.progress)


def _features(work: Workplace) -> StageReport:
    from fmbseg.align.features import features

    return features(work.config, work.paths, work.progress)


def _features_state(work: Workplace) -> StageState:
    from fmbseg.align.features import features_state

    return features_state(work.config, work.paths, work.progress)


def _features_shards(work: Workplace) -> ShardedWork[Any]:
    from fmbseg.align.features import features_shards

    return features_shards(work.config, work.paths, work.progress)


def _align(work: Workplace) -> StageReport:
    from fmbseg.align.stages import align

    def key() -> str:
        return _align_state(replace(work, progress=silent_progress())).key

    with work.tracker.training(work.config, "fmbseg", work.paths.align, key) as on_metrics:
        return align(work.config, work.paths, work.progress, on_metrics)


def _track_align(work: Workplace) -> None:
    work.tracker.trained(work.config, "fmbseg", work.paths.align)


def _align_state(work: Workplace) -> StageState:
    from fmbseg.align.stages import align_state

    return align_state(work.config, work.paths, work.progress)


_SCORED = {"evaluate": ("fmbseg",), "baselines": ("maskclip", "pseudo"), "oracle": ("oracle",)}


def _evaluate(work: Workplace) -> StageReport:
    return _score(work, "evaluate")


def _evaluate_state(work: Workplace) -> StageState:
    return _joined(_scores(work, "evaluate"))


def _baselines(work: Workplace) -> StageReport:
    return _score(work, "baselines")


def _baselines_state(work: Workplace) -> StageState:
    return _joined(_scores(work, "baselines"))


def _oracle(work: Workplace) -> StageReport:
    from fmbseg.align.stages import oracle_state, train_oracle

    def key() -> str:
        return oracle_state(work.config, work.paths, silent_progress()).key

    with work.tracker.training(work.config, "oracle", work.paths.oracle, key) as on_metrics:
        trained = train_oracle(work.config, work.paths, work.progress, on_metrics)
    scored = _score(work, "oracle")
    return replace(
        trained,
        computed=trained.computed + scored.computed,
        taken_over=trained.taken_over + scored.taken_over,
    )


def _oracle_state(work: Workplace) -> StageState:
    from fmbseg.align.stages import oracle_state

    # The scores' own keys are known when the head is trained, this one before it.
    training = oracle_state(work.config, work.paths, work.progress)
    key = json_digest([training.key, work.config.evaluate.model_dump()])
    done = training.published and all(state.published for state in _scores(work, "oracle"))
    return StageState(key, done)


def _score(work: Workplace, stage: str) -> StageReport:
    from fmbseg.evaluate.stages import evaluate

    reports = []
    for method in _SCORED[stage]:
        reports.append(
            evaluate(
                work.config, work.paths, work.progress, method=method, benchmarks=work.benchmarks
            )
        )
        _track_scores(work, method)
    keys = [report.key for report in reports]
    return StageReport(
        stage,
        keys[0] if len(keys) == 1 else json_digest(keys),
        computed=sum(report.computed for report in reports),
        taken_over=sum(report.taken_over for report in reports),
        images=sum(report.images for report in reports),
    )


def _track_scores(work: Workplace, method: str) -> None:
    from fmbseg.view.example import example_overlay

    picture = partial(example_overlay, work.config, work.paths) if method == "fmbseg" else None
    work.tracker.evaluation(work.config, work.paths, method, work.benchmarks, picture)


def _track_stage(stage: str, work: Workplace) -> None:
    for method in _SCORED[stage]:
        _track_scores(work, method)


def _scores(work: Workplace, stage: str) -> list[StageState]:
    from fmbseg.evaluate.stages import scoring_state

    return [
        scoring_state(work.config, work.paths, work.progress, method, benchmark)
        for method in _SCORED[stage]
        for benchmark in work.benchmarks
    ]


def _joined(states: Sequence[StageState]) -> StageState:
    keys = [state.key for state in states]
    key = keys[0] if len(keys) == 1 else json_digest(keys)
    return StageState(key, all(state.published for state in states))


def _plots(work: Workplace) -> StageReport:
    from fmbseg.evaluate.plots import plots

    return plots(work.config, work.paths, work.progress)


def _plots_state(work: Workplace) -> StageState:
    from fmbseg.evaluate.plots import plots_state

    return plots_state(work.config, work.paths)


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
            "data/scene_files.py",
            "data/scene_layouts.py",
            "data/scenes.py",
            "data/textures.py",
            "data/vocabularies",
        ),
        outputs=("data/scenes",),
        function=_scenes,
        state=_scenes_state,
    ),
    Stage(
        name="detect",
        summary="1.1 which classes are in each image, and their query points (CLIP)",
        params=("clip", "data", "detection", "query", *_RUN),
        inputs=("${data.root}",),
        sources=_STAGE_1,
        outputs=("data/pseudo/detect",),
        function=_detect,
        state=partial(_pseudo_state, "detect"),
        shards=partial(_pseudo_shards, "detect"),
    ),
    Stage(
        name="query",
        summary="1.1 one mask for each detected class (SAM)",
        params=("data", *_RUN, "sam"),
        inputs=("${data.root}", "data/pseudo/detect"),
        sources=_STAGE_1,
        outputs=("data/pseudo/query",),
        function=_query,
        state=partial(_pseudo_state, "query"),
        shards=partial(_pseudo_shards, "query"),
    ),
    Stage(
        name="masks",
        summary="1.2 automatic masks (SAM)",
        params=("data", "masks", *_RUN, "sam"),
        inputs=("${data.root}",),
        sources=_STAGE_1,
        outputs=("data/pseudo/masks",),
        function=_masks,
        state=partial(_pseudo_state, "masks"),
        shards=partial(_pseudo_shards, "masks"),
    ),
    Stage(
        name="label",
        summary="1.2 classify the masks and compose label maps",
        params=("clip", "data", "label", *_RUN),
        inputs=("${data.root}", "data/pseudo/detect", "data/pseudo/masks", "data/pseudo/query"),
        sources=_STAGE_1,
        outputs=("data/pseudo/label",),
        function=_label,
        state=partial(_pseudo_state, "label"),
        shards=partial(_pseudo_shards, "label"),
    ),
    Stage(
        name="features",
        summary="patch features of the frozen encoder, cached once",
        # Batches never cross shards: the shards' size decides what is encoded together.
        params=("data", "features", *_RUN, "run.shard_size"),
        inputs=("${data.root}",),
        sources=("align/feature_store.py", "align/features.py", "data", "models"),
        outputs=("data/features",),
        function=_features,
        state=_features_state,
        shards=_features_shards,
    ),
    Stage(
        name="align",
        summary="2 train the alignment head on the pseudo labels (T-SupCon)",
        params=(*_ALIGN, "data"),
        inputs=("${data.root}", "data/features", "data/pseudo/label"),
        sources=_STAGE_2,
        outputs=("data/align",),
        function=_align,
        state=_align_state,
        track=_track_align,
    ),
    Stage(
        name="evaluate",
        summary="score the trained segmenter on each benchmark",
        params=(*_ONE_BENCHMARK, *_RUN),
        inputs=("${item.root}", "data/align"),
        sources=_SCORING,
        outputs=("metrics/fmbseg/${key}.json",),
        function=_evaluate,
        state=_evaluate_state,
        track=partial(_track_stage, "evaluate"),
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
        state=_baselines_state,
        track=partial(_track_stage, "baselines"),
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
        state=_oracle_state,
        track=partial(_track_stage, "oracle"),
    ),
    Stage(
        name="plots",
        summary="what `dvc plots` shows: IoU of each class, confusions, a picture a benchmark",
        params=("evaluate", *_RUN),
        inputs=("data/align", "data/scenes", "metrics/fmbseg"),
        sources=(*_SCORING, "view"),
        outputs=("data/plots",),
        function=_plots,
        state=_plots_state,
    ),
)
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in _TABLE}
