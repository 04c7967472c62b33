"""A trained map of CLIP's texts into the frozen encoder's space (Talk2DINO).

Barsellotti et al., ICCV 2025 (arXiv 2411.19331): two affine maps with a tanh between them, trained
by a symmetric contrastive loss of pictures and their captions, where a picture is as similar to a
text as the best of its parts. Here a picture's parts are its regions in the bank, and its words are
the classes that stage 1.1 found in it: nobody wrote a caption.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from fmbseg.align.record import RECORD
from fmbseg.config import Config, Talk2DinoSection
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import CheckpointError, DataError
from fmbseg.evaluate.bank import MODELS, models_of, read_bank, require_models
from fmbseg.machine.progress import Progress
from fmbseg.models.clip import load_clip
from fmbseg.pseudo.tables import DETECTIONS
from fmbseg.stage.stage import Stage
from fmbseg.store.shards import ShardStore, StageReport

MAP = "map.safetensors"
CURVE = "curve.csv"


class TextMap(nn.Module):
    """psi(t) = W_b tanh(W_a t + b_a) + b_b, from D to C channels and on to C."""

    def __init__(self, text_dim: int, encoder_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(text_dim, encoder_dim)
        self.second = nn.Linear(encoder_dim, encoder_dim)

    def forward(self, text: Tensor) -> Tensor:
        """Texts [..., D] -> [..., C] float32, unit."""
        mapped: Tensor = self.second(torch.tanh(self.first(text)))
        return F.normalize(mapped, dim=-1)


def best_regions(texts: Tensor, regions: Tensor, owners: Tensor, images: int) -> Tensor:
    """How similar pictures are to texts: by the best of their regions.

    Args:
        texts: [K, C] unit.
        regions: [R, C] unit.
        owners: [R] int64, the picture of each region; each of `images` has one at least.
        images: B.

    Returns:
        [B, K] cosines.
    """
    cosine = regions @ texts.T
    found = cosine.new_full((images, len(texts)), float("-inf"))
    return found.scatter_reduce(0, owners[:, None].expand_as(cosine), cosine, "amax")


def contrast(similarity: Tensor, shown: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of pictures that show several classes each.

    With P_i the classes of picture i and P_k the pictures of class k,

        L = 1/2 mean_i ( - mean_{k in P_i} log( exp(s_ik / T) / sum_l exp(s_il / T) ) )
          + 1/2 mean_k ( - mean_{i in P_k} log( exp(s_ik / T) / sum_j exp(s_jk / T) ) )

    over the pictures and classes that have any; the classes are those that some picture of the
    batch shows, as in a batch of captions. With one class a picture, each another, this is the
    published loss.

    Args:
        similarity: [B, K] cosines s.
        shown: [B, K] bool.
        temperature: T.

    Returns:
        Scalar; 0 where no picture shows anything.
    """
    pictures, classes = shown.any(dim=1), shown.any(dim=0)
    logits = similarity[pictures][:, classes] / temperature
    shown = shown[pictures][:, classes]
    if not shown.numel():
        return similarity.sum() * 0

    def one_way(logits: Tensor, shown: Tensor) -> Tensor:
        chances = logits.log_softmax(dim=1).masked_fill(~shown, 0)
        return -(chances.sum(dim=1) / shown.sum(dim=1)).mean()

    return (one_way(logits, shown) + one_way(logits.T, shown.T)) / 2


@dataclass(frozen=True)
class Pictures:
    """N pictures as their regions show them.

    Attributes:
        regions: [R, C] float16 unit, those of a picture after each other.
        starts: [N + 1], where the regions of each begin, and of the last end; none has no region.
    """

    regions: npt.NDArray[np.float16]
    starts: npt.NDArray[np.int64]

    def some(self, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Regions [r, C] float32 of some pictures, and [r] which of them each is of."""
        spans = [(self.starts[i], self.starts[i + 1]) for i in members]
        parts = [self.regions[start:stop] for start, stop in spans]
        owners = np.repeat(np.arange(len(spans)), [stop - start for start, stop in spans])
        return torch.from_numpy(np.concatenate(parts)).float(), torch.from_numpy(owners)


@dataclass(frozen=True)
class Words:
    """What pictures show in one vocabulary.

    Attributes:
        text: [K, D] unit, of CLIP.
        shown: [N, K] bool.
    """

    text: Tensor
    shown: Tensor


def train_text_map(
    pictures: Pictures,
    vocabularies: Sequence[Words],
    section: Talk2DinoSection,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[TextMap, list[float]]:
    """Train a map on pictures and the classes they show.

    Of several vocabularies the mean of their losses is taken: no two names compete that are never
    asked together.

    Args:
        pictures: with their regions.
        vocabularies: one or several.
        section: of the training.
        seed: of the initial weights and of the order of the pictures.
        device: where it computes, in float32.
        progress: advanced by steps.

    Returns:
        The map, on the CPU; and the mean loss of each epoch.

    Raises:
        DataError: no picture shows anything.
    """
    anything = torch.stack([words.shown.any(dim=1) for words in vocabularies]).any(dim=0)
    used = anything.nonzero().flatten().tolist()
    if not used:
        raise DataError("stage 1.1 found no class in any picture: look at `fmbseg run detect`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_map = TextMap(vocabularies[0].text.shape[1], pictures.regions.shape[1]).to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        text_map.parameters(), section.learning_rate, weight_decay=section.weight_decay
    )
    size, curve = section.batch_images, []
    with progress.task("talk2dino", section.epochs * -(-len(used) // size)) as task:
        for _ in range(section.epochs):
            order = [used[i] for i in torch.randperm(len(used), generator=generator).tolist()]
            losses = []
            for start in range(0, len(order), size):
                members = order[start : start + size]
                regions, owners = (part.to(device) for part in pictures.some(members))
                terms = []
                for words in vocabularies:
                    mapped = text_map(words.text.to(device))
                    similarity = best_regions(mapped, regions, owners, len(members))
                    shown = words.shown[members].to(device)
                    terms.append(contrast(similarity, shown, section.temperature))
                loss = torch.stack(terms).mean()
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                losses.append(loss.item())
                task.advance()
            curve.append(sum(losses) / len(losses))
    return text_map.cpu().eval().requires_grad_(False), curve


class Talk2Dino(Stage):
    """Train the map on the regions of the bank and the classes of stage 1.1.

    Out: `map.safetensors`, `checkpoint.json` and `curve.csv` (epoch, loss). The report counts
    epochs. It takes seconds for hundreds of pictures, and begins anew when it was killed.
    """

    def run(self) -> StageReport:
        """See `Stage.run`.

        Raises:
            DataError: no picture shows anything.
            WeightsError: the weights of CLIP are missing or damaged.
        """
        epochs = self.work.config.talk2dino.epochs
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=epochs)
        store = ShardStore(self.work.paths.shards, self.row.name, self.key)
        computed = 0 if store.has(0) else epochs
        if computed:
            with store.write(0) as folder:
                self._train(folder)
        store.publish(self.place, count=1, manifest={})
        return StageReport(self.row.name, self.key, computed, epochs - computed)

    def _train(self, folder: Path) -> None:
        config = self.work.config
        bank = read_bank(self.require("bank"), config)
        names, starts = np.unique(bank.image_ids, return_index=True)
        order = np.argsort(starts)
        names, starts = names[order], np.append(starts[order], len(bank.image_ids))
        clip = load_clip(
            config.clip.model, self.device.device, text_cache=self.work.paths.encodings
        )
        shown = _shown(self.require("detect") / DETECTIONS, names.tolist(), self.work.vocabularies)
        words = [
            Words(clip.text_embeddings(each, each.templates or config.clip.templates).anchors, seen)
            for each, seen in zip(self.work.vocabularies, shown, strict=True)
        ]
        section = config.talk2dino
        text_map, curve = train_text_map(
            Pictures(bank.encoder, starts),
            words,
            section,
            config.run.seed,
            self.device.device,
            self.work.progress,
        )
        data = save({name: value.contiguous() for name, value in text_map.state_dict().items()})
        record = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "text_dim": text_map.first.in_features,
            "encoder_dim": text_map.first.out_features,
            MODELS: models_of(config),
            "vocabularies": [each.name for each in self.work.vocabularies],
            "training": {**section.model_dump(), "seed": config.run.seed},
        }
        (folder / MAP).write_bytes(data)
        text = json.dumps(record, indent=1, sort_keys=True)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        with (folder / CURVE).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["epoch", "loss"])
            writer.writerows((epoch, repr(loss)) for epoch, loss in enumerate(curve, start=1))


def _shown(
    detections: Path, image_ids: Sequence[str], vocabularies: Sequence[Vocabulary]
) -> list[Tensor]:
    """Of each vocabulary [N, K] bool, which classes were detected in which pictures."""
    places = {name: index for index, name in enumerate(image_ids)}
    numbers = {words.name: number for number, words in enumerate(vocabularies)}
    found = [torch.zeros(len(places), len(words), dtype=torch.bool) for words in vocabularies]
    columns = ["image_id", "vocabulary", "class_index"]
    for row in pq.read_table(detections, columns=columns).to_pylist():
        if row["image_id"] in places:
            place = places[row["image_id"]], row["class_index"]
            found[numbers[row["vocabulary"]]][place] = True
    return found


@dataclass(frozen=True)
class TrainedMap:
    """A trained map with its record.

    Attributes:
        text_map: on the CPU, without gradients.
        sha256: of its weights, hex.
        vocabularies: names of those it was trained with.
    """

    text_map: TextMap
    sha256: str
    vocabularies: tuple[str, ...]


def load_text_map(folder: Path, config: Config) -> TrainedMap:
    """Read what the stage talk2dino has trained.

    Args:
        folder: its out.
        config: whose models are to be the map's.

    Raises:
        CheckpointError: it is not there, or damaged.
        StoreError: it was trained with other models.
        WeightsError: the weights of a model are missing.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        data = (folder / MAP).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != record["sha256"]:
            raise ValueError("another sha256")
        text_map = TextMap(record["text_dim"], record["encoder_dim"])
        text_map.load_state_dict(load(data))
        names = tuple(map(str, record["vocabularies"]))
        models = record[MODELS]
    except (KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no map of texts that is sound: run `fmbseg run talk2dino`"
        ) from error
    require_models(folder, models, config, "talk2dino")
    return TrainedMap(text_map.eval().requires_grad_(False), sha256, names)
