"""Where everything of one workspace lies; no other module spells these paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Folders of a workspace.

    What DVC versions lies under `data/` and `metrics/`. Partial work lies under `.fmbseg/`,
    because DVC deletes declared outs before it runs a stage.
    """

    root: Path = Path(".")

    @property
    def work(self) -> Path:
        """Partial work and caches, keyed by content; queued experiments share the project's."""
        return project_folder(self.root) / ".fmbseg"

    @property
    def shards(self) -> Path:
        """Shards of unfinished and finished stages, by stage and content key."""
        return self.work / "shards"

    @property
    def encodings(self) -> Path:
        """CLIP and SAM encodings shared by the stages (a cache with a budget)."""
        return self.work / "encodings"

    @property
    def benchmark_encodings(self) -> Path:
        """The same of the benchmarks' images: some benchmarks share their pictures."""
        return self.work / "benchmark-encodings"

    @property
    def feature_store(self) -> Path:
        """Encoder patch features as shards, by content key; too large for DVC."""
        return self.work / "features"

    @property
    def training(self) -> Path:
        """States from which a killed training goes on, by content key."""
        return self.work / "align"

    @property
    def performance(self) -> Path:
        """Throughput and memory of stages, by content key."""
        return self.work / "performance"

    @property
    def manifests(self) -> Path:
        """What is known of images and annotations whose files have not changed."""
        return self.work / "manifests"

    @property
    def drawn_scenes(self) -> Path:
        """Scenes while they are drawn, by content key."""
        return self.work / "scenes"

    @property
    def data(self) -> Path:
        """Everything the pipeline makes except metrics."""
        return self.root / "data"

    @property
    def scenes(self) -> Path:
        """Synthetic scenes in the benchmarks' own layouts."""
        return self.data / "scenes"

    @property
    def pseudo(self) -> Path:
        """Outs of stage 1."""
        return self.data / "pseudo"

    @property
    def detect(self) -> Path:
        """1.1 Detection: which classes are in each image, and their query points."""
        return self.pseudo / "detect"

    @property
    def query(self) -> Path:
        """1.1 Querying: one mask a detected class."""
        return self.pseudo / "query"

    @property
    def masks(self) -> Path:
        """1.2: SAM's automatic masks."""
        return self.pseudo / "masks"

    @property
    def label(self) -> Path:
        """1.2 Classification: label maps, and the table of all masks with their classes."""
        return self.pseudo / "label"

    @property
    def features(self) -> Path:
        """Manifest of the encoder's patch features (the shards are in `feature_store`)."""
        return self.data / "features"

    @property
    def align(self) -> Path:
        """Stage 2: the trained alignment head."""
        return self.data / "align"

    @property
    def oracle(self) -> Path:
        """The same head trained on ground truth."""
        return self.data / "oracle"

    @property
    def plots(self) -> Path:
        """Tables and pictures that `dvc plots` shows."""
        return self.data / "plots"

    @property
    def metrics(self) -> Path:
        """`<method>/<benchmark>.json`."""
        return self.root / "metrics"


def project_folder(root: Path) -> Path:
    """The project a workspace belongs to: itself, or what DVC copied it from.

    DVC runs queued experiments in copies below `.dvc/tmp/exps`, which hold no caches and are
    removed at the end.
    """
    for parent in root.resolve().parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return root
