"""Training of the alignment head: AdamW, warm-up and cosine, resumable at every epoch (stage 2).

The same configuration on the same machine gives the same bytes, whether a training was killed in
between or not: the state on disk holds weights, optimiser and the generator of the data order.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmbseg.align.controls import drawn_images
from fmbseg.align.feature_store import StoredFeatures
from fmbseg.align.heads import AlignmentHead, seeded_head
from fmbseg.align.losses import LOSSES
from fmbseg.align.numbers import named, require_contrast, unfit_features
from fmbseg.align.record import HeadConfig
from fmbseg.config import AlignSection
from fmbseg.data.labels import UNLABELLED
from fmbseg.errors import ConfigError, DataError, StoreError
from fmbseg.machine.device import DeviceChoice
from fmbseg.machine.progress import Progress
from fmbseg.store.atomic import read_checked, write_checked

OnMetrics = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Target:
    """What patches are drawn to: their labels in one vocabulary, and its text.

    Attributes:
        labels: of each image [h, w] class indices, 255 = unlabelled.
        text: [K, D] unit text anchors t_k, frozen.
        weights: of each image's patches, beside those of the others in a batch; None: all alike.
    """

    labels: Sequence[npt.NDArray[np.integer]]
    text: Tensor
    weights: Sequence[float] | None = None

    def __contains__(self, image: int) -> bool:
        """Whether an image has a labelled patch."""
        return bool((self.labels[image] != UNLABELLED).any())


@dataclass(frozen=True)
class _Drawn:
    """What of a batch enters the loss in one vocabulary.

    Attributes:
        patches: [S] their numbers in the batch, ascending.
        labels: [S].
        labelled: how many of them have one.
        weights: [S]; None: all alike.
    """

    patches: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    labelled: int
    weights: npt.NDArray[np.float32] | None


STATE = "state.pt"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """One row of the training curve.

    Attributes:
        epoch: counted from 1.
        loss: mean over the epoch's steps.
        lr: learning rate of its last step.
    """

    epoch: int
    loss: float
    lr: float


@dataclass(frozen=True)
class TrainedHead:
    """The result of a training.

    Attributes:
        head: on the CPU, in evaluation mode.
        curve: one record an epoch.
        resumed: epochs that an earlier, interrupted run had done.
    """

    head: AlignmentHead
    curve: tuple[EpochRecord, ...]
    resumed: int


def train_head(
    features: StoredFeatures,
    targets: Sequence[Target],
    section: AlignSection,
    seed: int,
    checkpoint_dir: Path,
    progress: Progress,
    on_metrics: OnMetrics | None = None,
    device: DeviceChoice | None = None,
) -> TrainedHead:
    """Train a head so that patches lie at the text of their label (equations 1-4).

    With several vocabularies a patch has a label in each, and the head a projection for each, so
    that no two names compete that are never asked together, such as `grass` and `terrain`. Equation
    (1) then counts the patches and the texts of all: L = sum_v (M_v + K_v) L_v / sum_v (M_v + K_v)
    for M_v labelled patches and K_v texts of vocabulary v.

    After every epoch the state goes to `checkpoint_dir`; a later call with the same directory goes
    on from there. The directory must therefore belong to these very inputs (a content key).

    Args:
        features: patch features of n images.
        targets: one a vocabulary; images without a labelled patch in any are left out.
        section: head, loss and optimiser.
        seed: of the initial weights and of the data order.
        checkpoint_dir: for the state.
        progress: advanced by steps.
        on_metrics: called with (epoch, {"loss", "lr"}) after each epoch done now.
        device: None: the CPU in float32.

    Raises:
        ConfigError: the head does not fit the features, or loss or weights are no longer finite;
            the pictures of the batch are named.
        DataError: no patch is labelled at all, or features of named pictures are not finite.
    """
    used = [i for i in range(len(features)) if any(i in target for target in targets)]
    require_contrast([target.labels for target in targets], used, features.image_ids)
    used = drawn_images(used, section.image_share, seed)
    device = device or DeviceChoice(torch.device("cpu"), torch.float32)
    dim = targets[0].text.shape[1]
    config = HeadConfig(
        section.head, features.dim, dim, section.attention_heads, projections=len(targets)
    )
    run = _Run(config, section, seed, device, steps=math.ceil(len(used) / section.batch_images))
    resumed = run.restore(checkpoint_dir / STATE)
    targets = [replace(t, text=t.text.to(device.device, torch.float32)) for t in targets]
    with progress.task("align", section.epochs * run.steps) as task:
        task.advance(resumed * run.steps)
        for epoch in range(resumed + 1, section.epochs + 1):
            losses, batches = [], []
            for members in run.batches(used):
                losses.append(run.step(features, targets, members))
                batches.append(members)
                task.advance()
            each = torch.stack(losses).cpu()
            if not (bool(each.isfinite().all()) and run.is_finite):
                raise _not_finite(features, used, batches, each, epoch)
            record = EpochRecord(epoch, float(each.mean()), run.learning_rate)
            run.curve.append(record)
            run.save(checkpoint_dir / STATE)
            if on_metrics is not None:
                on_metrics(epoch, {"loss": record.loss, "lr": record.lr})
    return TrainedHead(run.head.cpu().eval(), tuple(run.curve), resumed)


def _not_finite(
    features: StoredFeatures,
    used: Sequence[int],
    batches: Sequence[Sequence[int]],
    losses: Tensor,
    epoch: int,
) -> DataError | ConfigError:
    """What is said where losses [n] of an epoch's batches, or the weights after it, are NaN."""
    if unfit := unfit_features(features, used):
        return DataError(
            f"features of {named(features.image_ids, unfit)} hold NaN or infinity: run `fmbseg run "
            "features` again with --set run.dtype=float32, or with another encoder"
        )
    first = next((n for n, loss in enumerate(losses.tolist()) if not math.isfinite(loss)), -1)
    said = f"the loss is {float(losses[first])}" if first >= 0 else "weights are NaN"
    return ConfigError(
        f"{said} in epoch {epoch}, in the batch of {named(features.image_ids, batches[first])}: "
        "lower align.learning_rate or raise align.temperature"
    )


class _Run:
    """The moving parts of one training."""

    def __init__(
        self,
        config: HeadConfig,
        section: AlignSection,
        seed: int,
        device: DeviceChoice,
        steps: int,
    ) -> None:
        self.steps = steps
        self.curve: list[EpochRecord] = []
        self.learning_rate = 0.0
        self._section = section
        self._device = device
        self._done = 0  # steps
        self._generator = torch.Generator().manual_seed(seed)
        self.head = seeded_head(config, seed).to(device.device).train()
        self._optimizer = torch.optim.AdamW(
            _decayed_groups(self.head, section.weight_decay), lr=section.learning_rate, fused=True
        )

    @property
    def is_finite(self) -> bool:
        """Whether all weights are: a step may spoil them after its loss was made."""
        return all(bool(each.isfinite().all()) for each in self.head.parameters())

    def batches(self, used: Sequence[int]) -> Iterator[list[int]]:
        """The images of each step of one epoch, in a new random order."""
        order = torch.randperm(len(used), generator=self._generator).tolist()
        size = self._section.batch_images
        for start in range(0, len(order), size):
            yield [used[position] for position in order[start : start + size]]

    def step(
        self, features: StoredFeatures, targets: Sequence[Target], members: Sequence[int]
    ) -> Tensor:
        """One step of the optimiser; returns its loss, a scalar still on the device."""
        self.learning_rate = self._section.learning_rate * _schedule(
            self._done, self._section.epochs * self.steps, self._section.warmup
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        # float16 is for inference: its gradients would need scaling.
        mixed = self._device.dtype == torch.bfloat16
        groups = _by_grid(features, members)
        order = [i for part in groups for i in part]
        drawn = [self._draw(target, order) for target in targets]
        # The losses look at these patches alone.
        wanted = np.unique(np.concatenate([each.patches for each in drawn]))
        with torch.autocast(self._device.device.type, dtype=torch.bfloat16, enabled=mixed):
            inputs = [self._loaded(features, part) for part in groups]
            tokens = self.head.tokens_at(inputs, self._placed(wanted))
            losses = [
                self._loss(tokens, wanted, index, target, each)
                for index, (target, each) in enumerate(zip(targets, drawn, strict=True))
            ]
        loss = torch.stack([count * found for found, count in losses]).sum()
        loss = loss / sum(count for _, count in losses)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._done += 1
        return loss.detach()

    def _loaded(self, features: StoredFeatures, images: Sequence[int]) -> Tensor:
        """[n, h, w, C] float32 of images with one grid, on the device."""
        stacked = np.stack([features.load(i) for i in images])
        return torch.from_numpy(stacked).to(self._device.device).float()

    def _placed(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device.device)

    def _draw(self, target: Target, images: Sequence[int]) -> _Drawn:
        """What of some images enters the loss in one vocabulary.

        Weights are relative: scaled to a mean of 1, they leave equation (1) its balance of
        patches and texts, of which there is one a class whatever patches weigh.
        """
        labels = np.concatenate([target.labels[i].ravel() for i in images]).astype(np.int64)
        weights = None if target.weights is None else _of_patches(target, images)
        patches = self._sample(labels, weights)
        labels = labels[patches]
        counted = labels != UNLABELLED
        if weights is not None:
            weights = weights[patches]
            if counted.any():
                weights = weights / weights[counted].mean()
        return _Drawn(patches, labels, int(counted.sum()), weights)

    def _loss(
        self,
        tokens: Tensor,
        wanted: npt.NDArray[np.int64],
        index: int,
        target: Target,
        drawn: _Drawn,
    ) -> tuple[Tensor, int]:
        """The loss of the tokens [S, C] of some patches in one vocabulary, and its M + K."""
        rows = self._placed(np.searchsorted(wanted, drawn.patches))
        loss = LOSSES[self._section.loss](
            self.head.project(tokens[rows], index),
            self._placed(drawn.labels),
            target.text,
            self._section.temperature,
            None if drawn.weights is None else self._placed(drawn.weights),
        )
        return loss, drawn.labelled + len(target.text)

    def _sample(
        self, labels: npt.NDArray[np.int64], weights: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.int64]:
        """Indices of the patches of a batch that enter the loss, ascending.

        Equation 1 weighs every labelled patch alike, so large stuff regions drown small things and
        the text term, of which there is one a class; `patches_per_class` evens that out. The odds
        of a patch are its weight.
        """
        most = self._section.patches_per_class
        if most == 0:
            return np.arange(len(labels))
        if weights is None:
            order = torch.randperm(len(labels), generator=self._generator).numpy()
        else:
            # Of waiting times with rates w_i the first ones are a weighted draw without repeats.
            times = torch.rand(len(labels), generator=self._generator).log().neg().numpy() / weights
            order = np.argsort(times, kind="stable")
        order = order[labels[order] != UNLABELLED]
        by_class = order[np.argsort(labels[order], kind="stable")]
        # How many of its class come before a patch.
        first = np.searchsorted(labels[by_class], labels[by_class])
        return np.sort(by_class[np.arange(len(by_class)) - first < most])

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(
            {
                "head": self.head.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "order": self._generator.get_state(),
                "curve": [(row.epoch, row.loss, row.lr) for row in self.curve],
            },
            buffer,
        )
        write_checked(path, buffer.getvalue())

    def restore(self, path: Path) -> int:
        """Take over a state; returns the epochs it has done, 0 where there is none that is sound.

        A damaged one is said and the training begins anew: its result would be another one.
        """
        try:
            data = read_checked(path)
        except FileNotFoundError:
            return 0
        except StoreError as error:
            _log.warning("%s: the training begins anew", error)
            return 0
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        curve = [EpochRecord(*row) for row in state["curve"]]
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["order"])
        self.curve = curve
        self._done = len(curve) * self.steps
        return len(curve)


def _of_patches(target: Target, images: Sequence[int]) -> npt.NDArray[np.float32]:
    """[M] weight of each patch of some images, in the order of their labels."""
    assert target.weights is not None
    each = [np.full(target.labels[i].size, target.weights[i], dtype=np.float32) for i in images]
    return np.concatenate(each)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate: linear rise over the share `warmup`, then half a cosine to 0."""
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _decayed_groups(head: AlignmentHead, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: on biases and norms it would merely shift their scale."""
    parameters = list(head.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _by_grid(features: StoredFeatures, members: Sequence[int]) -> list[list[int]]:
    """The images of a batch in groups of one grid, for grids of different sizes do not stack."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index in members:
        groups.setdefault(features.grid(index), []).append(index)
    return list(groups.values())
