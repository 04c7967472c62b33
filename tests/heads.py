"""Checkpoints for tests that need a head and not what it has learned."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
from fmbseg.align.heads import seeded_head
from fmbseg.align.record import SUPERVISION, HeadConfig, Supervision
from fmbseg.config import AlignSection, InferenceSection
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.models import tiny
from fmbseg.models.weights import weights_digest

LINEAR = AlignSection(head="linear")


def write_head(
    folder: Path,
    seed: int,
    *vocabularies: str,
    align: AlignSection = LINEAR,
    supervision: Supervision | None = None,
) -> None:
    """A checkpoint of a head with random weights, on the tiny models as they are found.

    Its record fits a configuration with this section `align` and `features.short_side=64`.
    """
    said = {} if supervision is None else {SUPERVISION: asdict(supervision)}
    names = vocabularies or ("coco_stuff",)
    encoder = tiny.architecture("encoder")["model_args"]["embed_dim"]
    space = tiny.architecture("clip")["embed_dim"]
    info = CheckpointInfo(
        encoder=ModelReference("tiny-encoder", weights_digest("tiny-encoder")),
        clip=ModelReference("tiny-clip", weights_digest("tiny-clip")),
        vocabularies=tuple(map(load_vocabulary, names)),
        templates="single",
        short_side=64,
        inference=InferenceSection(short_side=64),
        training={**align.model_dump(), "seed": 0, **said},
        metrics={},
    )
    head = HeadConfig(align.head, encoder, space, align.attention_heads, len(names))
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, seeded_head(head, seed), info)
