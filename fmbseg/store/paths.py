"""Where everything of one workspace lies; no other module spells these paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Paths:
    """Folders of a workspace.

    What DVC versions lies under `data/` and `metrics/`. Partial work lies under `.fmbseg/`,
    because DVC deletes declared outs before it runs a stage.

    Attributes:
        root: the workspace.
        work: partial work and caches, keyed by content; queued experiments share the project's.
        shards: of unfinished and finished stages, by stage and content key.
        encodings: CLIP's and SAM's, shared by the stages (a cache with a budget).
        benchmark_encodings: the same of the benchmarks' images: some share their pictures.
        feature_store: encoder patch features as shards, by content key; too large for DVC.
        training: states from which a killed training goes on, by content key.
        performance: throughput and memory of stages, by content key.
        manifests: what is known of images and annotations whose files have not changed.
        drawn_scenes: scenes while they are drawn, by content key.
        development: scenes on which parameters are chosen, by how many of a layout.
        search: trials of searches, and Optuna's database of them.
        data: everything the pipeline makes except metrics.
        scenes: synthetic scenes in the benchmarks' own layouts.
        pseudo: outs of stage 1.
        detect: 1.1 Detection: which classes are in each image, and their query points.
        query: 1.1 Querying: one mask a detected class.
        masks: 1.2: SAM's automatic masks.
        label: 1.2 Classification: label maps, and the table of all masks with their classes.
        corrections: label maps that people have corrected.
        features: manifest of the encoder's patch features (the shards are in `feature_store`).
        align: stage 2: the trained alignment head.
        oracle: the same head trained on ground truth.
        plots: tables and pictures that `dvc plots` shows.
        figures: the paper's figures of the run.
        report: one page with everything, and the head's card.
        study_workspace: where variants of studies run, a workspace that shares this one's caches
            and corrections.
        metrics: `<method>/<benchmark>.json`.
        ablations: results of studies, `<study>/<variant>/<seed>/<benchmark>.json`, and their page.
        table_1: `<seed>/<benchmark>.json`, and the table.
        followed: names what DVC follows as corrections: their folder, or itself.
    """

    def __init__(self, root: Path = Path(".")) -> None:
        self.root = root
        self.work = project_folder(root) / ".fmbseg"
        studied = _studied_project(root)
        self.shards = self.work / "shards"
        self.encodings = self.work / "encodings"
        self.benchmark_encodings = self.work / "benchmark-encodings"
        self.feature_store = self.work / "features"
        self.training = self.work / "align"
        self.performance = self.work / "performance"
        self.manifests = self.work / "manifests"
        self.drawn_scenes = self.work / "scenes"
        self.development = self.work / "development"
        self.search = self.work / "search"
        self.data = root / "data"
        self.scenes = self.data / "scenes"
        self.pseudo = self.data / "pseudo"
        self.detect = self.pseudo / "detect"
        self.query = self.pseudo / "query"
        self.masks = self.pseudo / "masks"
        self.label = self.pseudo / "label"
        self.corrections = (studied or root) / "data" / "corrections"
        self.features = self.data / "features"
        self.align = self.data / "align"
        self.oracle = self.data / "oracle"
        self.plots = self.data / "plots"
        self.figures = self.data / "figures"
        self.report = self.data / "report"
        self.study_workspace = self.work / "studies" / "workspace"
        self.metrics = root / "metrics"
        self.ablations = self.metrics / "ablations"
        self.table_1 = self.metrics / "table1"
        self.followed = (studied or root) / "corrections.yaml"

    def written(self) -> Iterator[Path]:
        """Folders in which files or folders of a stage are written under a name for the while."""
        yield from (self.performance, self.manifests, self.data, self.pseudo)
        for folder, depth in (
            (self.shards, "*/*"),
            (self.feature_store, "*"),
            (self.training, "*"),
            (self.drawn_scenes, "*"),
            (self.data, "*"),
            (self.metrics, "*"),
        ):
            yield from (path for path in folder.glob(depth) if path.is_dir())


def project_folder(root: Path) -> Path:
    """The project a workspace belongs to: itself, what DVC copied it from, or whose studies it has.

    DVC runs queued experiments in copies below `.dvc/tmp/exps`, which hold no caches and are
    removed at the end.
    """
    for parent in root.resolve().parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return _studied_project(root) or root


def _studied_project(root: Path) -> Path | None:
    """The project whose studies run in a workspace; None: it is no such workspace."""
    place = root.resolve()
    return place.parents[2] if place.parts[-3:] == (".fmbseg", "studies", "workspace") else None
