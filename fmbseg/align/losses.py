"""Losses of the alignment, by name; T-SupCon pulls patches to each other and to text anchors.

A loss is a function (z, labels, text, temperature, weights) -> scalar, with the arguments of
`tsupcon`; `LOSSES` has it under its name in `align.loss`.

Equations (1)-(4) of the method's stage 2. With unit vectors z_i (patches) and t_k (texts),
y_i the label of patch i, N_k the number of patches with label k, M labelled patches and K texts:

    L            = 1 / (M + K) * ( sum_k l_t(t_k) + sum_i l_im(z_i) )                     (1)
    l_t(t_k)     = 1 / N_k * sum_{i: y_i = k} l_t(z_i, t_k)                               (2)
    l_t(z_i,t_y) = - z_i.t_y + log( sum_k exp(z_i.t_k) + sum_{j != i} exp(z_i.z_j) )      (3)
    l_im(z_i)    = 1 / N_{y_i} * sum_{l: y_l = y_i} ( - z_i.z_l + log sum_{j != i} exp(z_i.z_j) )
                                                                                          (4)

No text is in (4): alone (`supcon`) it groups patches and ties no group to the words of its class,
so a segmenter trained with it guesses. The paper's ablation has 24.61 mIoU under that name, and
does not say how words come into it.

Patches with weights w_i (ours, for labels that a person has corrected) count w_i times in the sums
over patches and in N_k and M. The log-sums stay as they are: what a patch is compared with is there
once.

Beside them, for the ablation, stand the two losses that most heads are trained with:
`cross_entropy` over all classes and `infonce` within a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fmbseg.config import LossName
from fmbseg.data.labels import UNLABELLED

Loss = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]

# Parts of (1) by name: whether (4) is in it, whether (2) is.
_TERMS = {"tsupcon": (True, True), "supcon": (True, False), "text": (False, True)}
# Similarities held at once: 8 MB on a CPU, where larger blocks gain no speed.
_BLOCK_ELEMENTS = {"cpu": 1 << 21}
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 26


def tsupcon(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    term: str = "tsupcon",
) -> Tensor:
    """The T-SupCon loss of a batch of patches, equations (1)-(4).

    Inputs are taken as they are, never normalised; the temperature divides every dot product, 1
    gives the equations as printed. Patches labelled 255 appear nowhere: neither in a sum nor in
    the count M. K counts every text row; a class without patches adds 0. The sum over l in (4)
    includes l = i. With nothing labelled the loss is 0 and its gradients are zeros; with a single
    labelled patch, whose log-sum in (4) is empty, that log-sum is dropped.

    Memory grows with M, not with M squared: similarities are made in blocks of rows, and their
    gradients in the same pass. The loss can be differentiated once.

    >>> z = torch.eye(4)[[0, 0, 1]]
    >>> text = torch.eye(4)[:2]
    >>> near, far = (tsupcon(z, torch.tensor(y), text).item() for y in ([0, 0, 1], [1, 1, 0]))
    >>> near < far
    True
    >>> some = tsupcon(z, torch.tensor([0, 0, 255]), text)  # 255 appears nowhere
    >>> torch.equal(some, tsupcon(z[:2], torch.tensor([0, 0]), text))
    True

    Args:
        z: [M, D] patch embeddings, floating point.
        labels: [M] integers, the text row of each patch, or 255 for none.
        text: [K, D] text anchors, floating point.
        temperature: greater than 0.
        weights: [M] of the patches, greater than 0; None: 1 each.
        term: "tsupcon" = (1); "supcon" = sum_i l_im / (M + K), (4) alone; "text" =
            sum_k l_t / (M + K), (2) alone. The first is the sum of the other two.

    Returns:
        The loss, a scalar: float64 when z or text is, else float32 (also for half precision
        inputs, and under autocast).

    Raises:
        ValueError: the shapes do not fit, a label is neither 255 nor a row of `text`, the
            temperature or a weight is not positive, or the term is unknown.
    """
    if term not in _TERMS:
        raise ValueError(f"term must be one of {', '.join(_TERMS)}, got {term!r}")
    z, labels, text, weights = _labelled(z, labels, text, temperature, weights)
    if not labels.numel():
        return z.sum() + text[:0].sum()
    differentiate = torch.is_grad_enabled()
    scale = 1.0 / temperature
    loss: Tensor = _TSupCon.apply(z, labels, text, weights, scale, _TERMS[term], differentiate)
    return loss


def cross_entropy(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over all classes, the mean over the labelled patches.

        L = 1 / M * sum_i ( - z_i.t_{y_i} + log sum_k exp(z_i.t_k) )

    Of unit vectors the logits are cosines over the temperature. Arguments, result and errors as
    `tsupcon`, and as there vectors are not normalised and 255 appears nowhere.
    """
    z, labels, text, weights = _labelled(z, labels, text, temperature, weights)
    if not labels.numel():
        return z.sum() + text[:0].sum()
    with torch.autocast(device_type=z.device.type, enabled=False):
        each = functional.cross_entropy(z @ text.T / temperature, labels, reduction="none")
    return (weights * each).sum() / weights.sum()


def infonce(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """InfoNCE within a batch, from patch to text and from text to patch, as CLIP is trained.

    With B the classes that occur in the batch,

        L   = 1/2 * ( 1 / M * sum_i a_i + 1 / |B| * sum_{k in B} b_k )
        a_i = - z_i.t_{y_i} + log sum_{k in B} exp(z_i.t_k)
        b_k = 1 / N_k * sum_{i: y_i = k} ( - z_i.t_k
                                           + log( exp(z_i.t_k) + sum_{j: y_j != k} exp(z_j.t_k) ) )

    so other patches of a class are no negatives of its text. Arguments, result and errors as
    `tsupcon`; with a single class in the batch nothing is compared and the loss is 0.
    """
    z, labels, text, weights = _labelled(z, labels, text, temperature, weights)
    if not labels.numel():
        return z.sum() + text[:0].sum()
    present = torch.bincount(labels).nonzero()[:, 0]
    own = torch.searchsorted(present, labels)
    counts = weights.new_zeros(len(present)).index_add_(0, own, weights)
    with torch.autocast(device_type=z.device.type, enabled=False):
        logits = z @ text[present].T / temperature  # [M, |B|]
    to_text = functional.cross_entropy(logits, own, reduction="none")
    is_own = own[:, None] == torch.arange(len(present), device=own.device)
    # The least number, not -inf: where a class has no negatives, gradients would be no numbers.
    others = logits.masked_fill(is_own, torch.finfo(logits.dtype).min).logsumexp(dim=0)
    positive = logits.gather(1, own[:, None])[:, 0]
    to_patch = torch.logaddexp(positive, others[own]) - positive
    patches = (weights * to_text).sum() / weights.sum()
    return (patches + (weights / counts[own] * to_patch).sum() / len(present)) / 2


LOSSES: Mapping[LossName, Loss] = {
    "tsupcon": tsupcon,
    "supcon": partial(tsupcon, term="supcon"),
    "text": partial(tsupcon, term="text"),
    "cross_entropy": cross_entropy,
    "infonce": infonce,
}
assert tuple(LOSSES) == get_args(LossName)


def _labelled(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What enters a loss: the labelled patches, the texts and the patches' weights, checked.

    Returns:
        z [M, D], labels [M] int64, text [K, D] and weights [M], on z's device, in float64 when z or
        text is, else float32.
    """
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


class _TSupCon(torch.autograd.Function):
    """The loss with its gradients made in the forward pass.

    Once a row of similarities is there, the derivative of the loss by each of them is known, so
    keeping them (M x M) or making them again in the backward pass would both be waste.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        labels: Tensor,
        text: Tensor,
        weights: Tensor,
        scale: float,
        term: tuple[bool, bool],
        differentiate: bool,
    ) -> Tensor:
        wanted = differentiate and (ctx.needs_input_grad[0] or ctx.needs_input_grad[2])
        with torch.autocast(device_type=z.device.type, enabled=False):
            loss, gradients = _evaluate(z, labels, text, weights, scale, term, wanted)
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_z, by_text = ctx.saved_tensors
        return (
            grad * by_z if ctx.needs_input_grad[0] else None,
            None,
            grad * by_text if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
            None,
        )


def _evaluate(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    weights: Tensor,
    scale: float,
    term: tuple[bool, bool],
    differentiate: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Loss, and its gradients by z and text; every patch is labelled, M >= 1.

    `scale` is 1 / temperature.

    With s_ij = z_i.z_j and r_ik = z_i.t_k, both over the temperature, and

        b_i = log sum_{j != i} exp(s_ij),    e_i = log( sum_k exp(r_ik) + exp(b_i) ),

    the sums of (2) and (4) are, v_i being w_i / N_{y_i} and the mean, weighted by w_l, over the
    patches l of class y_i,

        sum_i v_i * (e_i - r_{i,y_i})  +  sum_i w_i * (b_i - mean_l s_il).

    The first terms of both depend on b_i, and b_i on each s_ij, so what a row of similarities adds
    to the gradients is known as soon as the row is there:

        d/db_i = v_i * exp(b_i - e_i) + w_i,   db_i/ds_ij = exp(s_ij - b_i) for j != i,
        d/dr_ik = v_i * exp(r_ik - e_i)        (and -v_i more for k = y_i).

    s_ij is of z_i and of z_j: a block of rows adds to its own rows of the gradient and to all. The
    means need no similarities: sum_il w_i w_l z_i.z_l / N is |weighted sum of the class|^2 / N for
    each class, whose derivative by z_i is 2 w_i times the class's mean.
    """
    patch_count, text_count = len(z), len(text)
    counts = z.new_zeros(text_count).index_add_(0, labels, weights)
    share = weights / counts[labels]  # [M], v_i
    own = weights[:, None]
    # The positives of (4) meet only through their class's sum: no M x M matrix is needed there.
    sums = torch.zeros_like(text).index_add_(0, labels, z * own)
    means = sums / torch.where(counts > 0, counts, 1.0)[:, None]
    scaled, scaled_text = z * scale, text * scale
    pair, anchor = term

    loss = z.new_zeros(())
    by_z, by_text = torch.zeros_like(z), torch.zeros_like(text)
    if pair:
        loss -= (own * scaled * means[labels]).sum()
        by_z -= 2.0 * scale * own * means[labels]
    if anchor:
        loss -= (share * (scaled * text[labels]).sum(dim=1)).sum()
        by_z -= share[:, None] * scaled_text[labels]
        by_text -= scale * means

    limit = _BLOCK_ELEMENTS.get(z.device.type, _BLOCK_ELEMENTS_ACCELERATOR)
    rows = min(max(1, limit // patch_count), patch_count)
    # One buffer for all blocks; the last one may be smaller.
    buffer = z.new_empty(rows * patch_count)
    for start in range(0, patch_count, rows):
        block = slice(start, min(start + rows, patch_count))
        height = block.stop - block.start
        similarity = buffer[: height * patch_count].view(height, patch_count)
        # b_i = log sum_{j != i} exp(z_i.z_j): -inf, an empty sum, for a single patch.
        others = z.new_full((height,), -torch.inf)
        total = z.new_ones(height)
        if patch_count > 1:
            torch.mm(scaled[block], z.T, out=similarity)
            similarity.diagonal(start).fill_(-torch.inf)
            peak = similarity.amax(dim=1)
            similarity.sub_(peak[:, None]).exp_()
            total = similarity.sum(dim=1)
            others = peak + total.log()
        weight = z.new_zeros(height)  # dL / db_i
        if pair and patch_count > 1:
            loss += (weights[block] * others).sum()
            weight += weights[block]
        if anchor:
            logits = scaled[block] @ text.T
            everything = torch.logaddexp(torch.logsumexp(logits, dim=1), others)
            loss += (share[block] * everything).sum()
            weight += share[block] * (others - everything).exp()
            if differentiate:
                slope = (logits - everything[:, None]).exp_() * share[block, None]
                by_z[block].addmm_(slope, scaled_text)
                by_text.addmm_(slope.T, scaled[block])
        if differentiate and patch_count > 1:
            similarity.mul_((weight / total)[:, None])  # dL / d(z_i.z_j / temperature)
            by_z[block].addmm_(similarity, scaled)
            by_z.addmm_(similarity.T, scaled[block])

    norm = 1.0 / (weights.sum() + text_count)
    return loss * norm, (by_z * norm, by_text * norm) if differentiate else None
