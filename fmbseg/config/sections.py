"""The sections of `params.yaml`: a parameter's type, bounds, default, and what it means.

Every threshold of the pipeline lives here, one section a stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fmbseg.config.names import (
    BackgroundRule,
    BenchmarkName,
    Dense,
    DeviceName,
    HeadName,
    LossName,
    ProtocolName,
    RefineName,
    SceneLayoutName,
    Templates,
)
from fmbseg.errors import is_control

# Bounds beyond which a number is a slip of the hand: what it asks for would not end, or not fit.
_SEED = 2**32 - 1
_MANY = 1_000_000
_IMAGES = 1_000_000_000
_PIXELS = 4096
_BATCH = 65_536


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        str_max_length=4096,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        if isinstance(value, str) and any(map(is_control, value)):
            raise ValueError("holds a control character, or bytes that are not UTF-8")
        return value


class RunSection(Section):
    """What holds for every stage; threads are part of every content key (sums depend on them)."""

    preset: str = "tiny"
    seed: int = Field(0, ge=0, le=_SEED)
    threads: int = Field(2, ge=1, le=256)
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    shard_size: int = Field(256, ge=1, le=_MANY, description="images a shard")
    cache_gb: float = Field(
        2.0, ge=0, le=_MANY, description="disk budget of the encoding cache, GB"
    )
    strict: bool = Field(False, description="a picture that cannot be read ends the run")
    pack_labels: bool = Field(
        False, description="label maps are published in ZIP files of about 256 pictures"
    )


class SceneLayout(Section):
    """How many scenes one layout gets."""

    train: int = Field(0, ge=0, le=_MANY)
    val: int = Field(0, ge=0, le=_MANY)


class ScenesSection(Section):
    """Synthetic scenes, written in the benchmarks' own layouts under `root`/<layout folder>."""

    seed: int = Field(0, ge=0, le=_SEED)
    layouts: dict[SceneLayoutName, SceneLayout] = Field(default_factory=dict)


class DataSection(Section):
    """The images that are pseudo-labelled and trained on. Only images are read, no annotation."""

    name: str = "coco_stuff"
    root: str = "data/scenes/coco_stuff164k"
    split: str = "train2017"
    vocabulary: str | tuple[str, ...] | None = Field(
        None, description="name or YAML path, or several of them; None: the data set's own"
    )
    labels: str | None = Field(
        None, description="folder of label PNGs that align trains on; None: those of stage 1"
    )
    limit: int | None = Field(None, ge=1, le=_IMAGES)

    @field_validator("vocabulary")
    @classmethod
    def _some_words(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("name at least one vocabulary, and none of them twice")
        return value


class ClipSection(Section):
    """CLIP: sliding windows over the image resized to `short_side`, all in pixels."""

    model: str = "tiny-clip"
    short_side: int = Field(128, ge=8, le=_PIXELS)
    window: int = Field(64, ge=8, le=_PIXELS)
    stride: int = Field(32, ge=1, le=_PIXELS)
    dense: Dense = "value"
    templates: Templates = "single"
    batch_size: int = Field(64, ge=1, le=_BATCH)


class DetectionSection(Section):
    """Stage 1.1, detection: which classes are in the image."""

    rule: Literal["votes", "similarity", "patches"] = "votes"
    min_votes: int = Field(1, ge=1, le=_MANY)
    min_vote_similarity: float = Field(
        -1.0, ge=-1, le=1, description="a crop whose best similarity is lower does not vote"
    )
    min_similarity: float = Field(
        0.25, ge=-1, le=1, description="for the rules similarity and patches"
    )
    same_words: float | None = Field(
        None, gt=0, le=1, description="words as similar as this count for the first class alone"
    )


class QuerySection(Section):
    """Stage 1.1, querying: points a detected class, all in one SAM prompt."""

    points: int = Field(5, ge=1, le=64)


class SamSection(Section):
    """SAM: one encoding an image; prompts decoded in batches."""

    model: str = "tiny-sam"
    batch_size: int = Field(64, ge=1, le=_BATCH, description="prompts a decoder call")


class MasksSection(Section):
    """Stage 1.2: SAM's automatic masks, filtered by size and predicted IoU, duplicates removed."""

    points_per_side: int = Field(12, ge=1, le=128)
    sampler: Literal["grid", "object-aware"] = Field(
        "grid", description="object-aware: a quarter of the points, then those in no certain mask"
    )
    certain_iou: float = Field(
        0.8, ge=0, le=1, description="predicted IoU of a certain mask, for the sampler object-aware"
    )
    min_predicted_iou: float = Field(0.7, ge=0, le=1)
    min_stability: float = Field(0.8, ge=0, le=1)
    stability_offset: float = Field(1.0, ge=0, le=100)
    max_box_iou: float = Field(0.7, gt=0, le=1, description="box NMS threshold for duplicates")
    min_area: float = Field(0.002, ge=0, le=1, description="share of the image")
    max_area: float = Field(0.95, gt=0, le=1, description="share of the image")

    @model_validator(mode="after")
    def _areas_in_order(self) -> MasksSection:
        if self.min_area >= self.max_area:
            raise ValueError("min_area must be below max_area")
        return self


class LabelSection(Section):
    """Classification of masks and composition into one label map."""

    use_queries: bool = True
    use_masks: bool = True
    min_similarity: float = Field(-1.0, ge=-1, le=1, description="masks below stay unlabelled")

    @model_validator(mode="after")
    def _some_source(self) -> LabelSection:
        if not (self.use_queries or self.use_masks):
            raise ValueError("use_queries and use_masks are both off: nothing would be labelled")
        return self


class FeaturesSection(Section):
    """The frozen encoder whose patch features are aligned; image resized to `short_side`."""

    encoder: str = "tiny-encoder"
    short_side: int = Field(128, ge=8, le=_PIXELS)
    batch_size: int = Field(16, ge=1, le=_BATCH)


class AlignSection(Section):
    """Stage 2: the alignment head and its training (T-SupCon, equations 1-4)."""

    head: HeadName = "transformer"
    loss: LossName = "tsupcon"
    temperature: float = Field(0.1, ge=1e-4, le=1e4)
    purity: float = Field(0.5, ge=0, le=1, description="least share of a patch one label covers")
    patches_per_class: int = Field(
        0,
        ge=0,
        le=_MANY,
        description="labelled patches of one class in a batch, drawn at random; 0: all",
    )
    correction_weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="of the patches of pictures that a person has corrected, in loss and draw",
    )
    epochs: int = Field(20, ge=1, le=100_000)
    batch_images: int = Field(8, ge=1, le=_BATCH)
    learning_rate: float = Field(1e-3, gt=0, le=100)
    weight_decay: float = Field(0.05, ge=0, le=100)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    attention_heads: int = Field(4, ge=1, le=256)
    label_noise: float = Field(
        0.0, ge=0, le=1, description="for studies: share of the labels' regions made wrong"
    )
    image_share: float = Field(
        1.0, gt=0, le=1, description="for studies: of the images, drawn; as many steps as with all"
    )
    unseen_names: float = Field(
        0.0, ge=0, lt=1, description="for studies: share of the names, drawn, not trained with"
    )


class RetrievalSection(Section):
    """The peer `retrieval`: what a patch is by its nearest regions in the training pictures."""

    neighbours: int = Field(256, ge=1, le=_MANY, description="regions that a patch retrieves")
    temperature: float = Field(0.05, ge=1e-4, le=1e4, description="of their cosines' softmax")


class Talk2DinoSection(Section):
    """The peer `talk2dino`: a map of texts into the encoder's space, and its training."""

    temperature: float = Field(0.07, ge=1e-4, le=1e4)
    epochs: int = Field(100, ge=1, le=100_000)
    batch_images: int = Field(128, ge=1, le=_BATCH)
    learning_rate: float = Field(1e-3, gt=0, le=100)
    weight_decay: float = Field(0.01, ge=0, le=100)


class BenchmarkRoot(Section):
    """Where one benchmark lies, and which split is scored."""

    root: str
    split: str
    limit: int | None = Field(None, ge=1, le=_IMAGES)


class InferenceSection(Section):
    """How a head is asked: the protocol and the background rule. A checkpoint carries it."""

    protocol: ProtocolName = "fmbseg"
    short_side: int = Field(128, ge=8, le=_PIXELS, description="of the protocol fmbseg")
    shifts: int = Field(
        1, ge=1, le=8, description="n: the picture moved n x n times by parts of a patch"
    )
    min_region: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a picture; classes with no region so large are not in it",
    )
    same_words: float | None = Field(
        None,
        gt=0,
        le=1,
        description="as detection.same_words, of vocabularies that stage 1 labelled in",
    )
    background_rule: BackgroundRule | None = Field(None, description="None: the protocol's own")
    background_score: float = Field(0.2, ge=-1, le=1, description="cosine, for the rule constant")
    logit_scale: float = Field(40.0, gt=0, le=1e4)
    background_threshold: float = Field(
        0.1, ge=0, le=1, description="where a vocabulary has a background: below it, background"
    )

    def differences(self, other: InferenceSection) -> list[str]:
        """Names of the fields in which another section has another value."""
        names = InferenceSection.model_fields
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def said(self, names: Iterable[str]) -> str:
        """Some of its fields as `--set` takes them."""
        found = ((name, getattr(self, name)) for name in names)
        return ", ".join(f"evaluate.{name}={'null' if v is None else v}" for name, v in found)


# What is asked of the aligned encoder alone.
OF_HEADS = ("shifts", "min_region", "same_words")


class EvaluateSection(InferenceSection):
    """Scoring: benchmarks, and how the methods that compare patches with words are asked.

    The benchmarks' names enter names of stages, of files and of runs.
    """

    benchmarks: dict[BenchmarkName, BenchmarkRoot] = Field(default_factory=dict)
    batch_size: int = Field(8, ge=1, le=_BATCH)
    refine: RefineName = Field("none", description="of label maps, when they are scored")

    @property
    def inference(self) -> InferenceSection:
        """What a checkpoint carries of it."""
        return InferenceSection(**self.model_dump(include=set(InferenceSection.model_fields)))

    @property
    def of_others(self) -> InferenceSection:
        """How methods without a head are asked: as they are published."""
        own = {name: InferenceSection.model_fields[name].default for name in OF_HEADS}
        return self.inference.model_copy(update=own)


class TrackingSection(Section):
    """MLflow."""

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"
    experiment: str = "fmbseg"
    model: str = Field("fmbseg", min_length=1, description="name in the model registry")
    champion_benchmark: str = Field(
        "voc21", description="a head that beats the champion's mIoU here becomes the champion"
    )


class Config(Section):
    """All sections of params.yaml."""

    run: RunSection = RunSection()
    scenes: ScenesSection = ScenesSection()
    data: DataSection = DataSection()
    clip: ClipSection = ClipSection()
    detection: DetectionSection = DetectionSection()
    query: QuerySection = QuerySection()
    sam: SamSection = SamSection()
    masks: MasksSection = MasksSection()
    label: LabelSection = LabelSection()
    features: FeaturesSection = FeaturesSection()
    align: AlignSection = AlignSection()
    retrieval: RetrievalSection = RetrievalSection()
    talk2dino: Talk2DinoSection = Talk2DinoSection()
    evaluate: EvaluateSection = EvaluateSection()
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _stride_within_window(self) -> Config:
        if self.clip.stride > self.clip.window:
            raise ValueError("clip.stride is larger than clip.window: pixels would be skipped")
        return self
