"""What enters a loss: the labelled patches of a batch, checked and cast once for all losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fmbseg.data.labels import UNLABELLED

Equation = Callable[[Tensor, Tensor, Tensor, float, Tensor], Tensor]
"""(z, labels, text, temperature, weights) of labelled patches -> scalar; M is 1 or more."""


def over_labelled(
    equation: Equation,
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """A loss of the labelled patches of a batch; without any it is 0, with gradients of zeros.

    Args:
        equation: gets z [M, D], labels [M] int64, text [K, D], the temperature and weights [M], all
            on z's device, in float64 when z or text is, else float32.
        z: as `fmbseg.align.losses.tsupcon`, like those that follow.
        labels: integers, 255 for none.
        text: a row a class.
        temperature: greater than 0.
        weights: of the patches; None: 1 each.

    Raises:
        ValueError: see `fmbseg.align.losses.tsupcon`.
    """
    z, labels, text, weights = _selected(z, labels, text, temperature, weights)
    if not labels.numel():
        return z.sum() + text[:0].sum()
    return equation(z, labels, text, temperature, weights)


def _selected(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, labels, text and weights as `over_labelled` hands them on."""
    _check(z, labels, text, temperature, weights)
    labelled = labels != UNLABELLED
    labels = labels[labelled].to(device=z.device, dtype=torch.int64)
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(text):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but text has "
            f"{len(text)} rows: give a row of text for each label, or {UNLABELLED} for no label"
        )
    dtype = torch.float64 if torch.float64 in (z.dtype, text.dtype) else torch.float32
    # Selected before they are cast or summed, so that no value of an unlabelled patch, not even
    # a NaN, gets into the loss.
    z = z[labelled.to(z.device)].to(dtype)
    if weights is None:
        return z, labels, text.to(dtype), z.new_ones(len(z))
    return z, labels, text.to(dtype), weights[labelled].to(device=z.device, dtype=dtype)


def _check(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor | None
) -> None:
    if z.ndim != 2 or text.ndim != 2 or z.shape[1] != text.shape[1]:
        raise ValueError(
            f"z must be [M, D] and text [K, D], got {list(z.shape)} and {list(text.shape)}"
        )
    if not (z.is_floating_point() and text.is_floating_point()):
        raise ValueError(f"z and text must be floating point, got {z.dtype} and {text.dtype}")
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels must be [{z.shape[0]}] like z, got {list(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if weights is not None and (weights.shape != labels.shape or not bool((weights > 0).all())):
        raise ValueError(f"weights must be [{z.shape[0]}] like z, and greater than 0")
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
