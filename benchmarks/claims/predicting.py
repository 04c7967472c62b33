"""A picture labelled by a trained head, beside the peers on the same weights and at the same size.

The head has random weights: what it has learned costs no time. It is asked as the demo asks it, and
so are the peers; words are embedded before, pictures are in memory.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.labelling import scenes
from benchmarks.comparing import Claim, Work

PICTURES, SIZE = 4, (160, 128)


def write_head(folder: Path) -> None:
    """A checkpoint of the demo's kind of head, random weights, asked as params.yaml says."""
    from fmbseg.align.checkpoint import CheckpointInfo, ModelReference, save_checkpoint
    from fmbseg.align.heads import seeded_head
    from fmbseg.align.record import HeadConfig
    from fmbseg.config import load_config
    from fmbseg.data.vocabulary import load_vocabulary
    from fmbseg.models import tiny
    from fmbseg.models.weights import weights_digest

    config = load_config("params.yaml")
    channels = tiny.architecture("encoder")["model_args"]["embed_dim"]
    space = tiny.architecture("clip")["embed_dim"]
    info = CheckpointInfo(
        encoder=ModelReference("tiny-encoder", weights_digest("tiny-encoder")),
        clip=ModelReference("tiny-clip", weights_digest("tiny-clip")),
        vocabularies=(load_vocabulary("voc21"),),
        templates="single",
        short_side=config.features.short_side,
        inference=config.evaluate.inference,
        training={},
        metrics={},
    )
    heads = config.align.attention_heads
    head = seeded_head(HeadConfig(config.align.head, channels, space, heads), 0)
    save_checkpoint(folder, head, info)


def prepare(device: str, peer: str) -> tuple[Work, Work]:
    """The labels and confidences of some pictures by fmbseg, and by a peer."""
    from PIL import Image

    from fmbseg.config import load_config
    from fmbseg.data.vocabulary import load_vocabulary
    from fmbseg.evaluate.methods.predictor import load_predictor
    from fmbseg.predicting.run import answer

    config = load_config("params.yaml", [f"run.device={device}", "run.dtype=float32"])
    place = tempfile.TemporaryDirectory()
    write_head(Path(place.name))
    methods = [load_predictor("fmbseg", config, Path(place.name)), load_predictor(peer, config)]
    words = load_vocabulary("voc21")
    pictures = [Image.fromarray(each) for each in scenes(PICTURES, SIZE)]

    def label(method: Any) -> Any:
        return np.stack([answer(picture, method, words).label for picture in pictures])

    return partial(label, methods[0]), partial(label, methods[1])


def same(ours: Any, other: Any) -> str:
    """Other methods have other labels: their size is what is equal."""
    assert ours.shape == other.shape
    return f"{len(ours)} label maps of {ours.shape[2]} x {ours.shape[1]} px each"


CLAIMS = tuple(
    Claim(
        f"predicting-{peer}",
        f"{PICTURES} scenes labelled by a trained head, beside {peer}",
        least,
        partial(prepare, peer=peer),
        same,
    )
    for peer, least in (("maskclip", 0.75), ("naclip", 0.75), ("proxyclip", 1.0), ("corrclip", 2.0))
)
