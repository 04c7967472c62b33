"""Losses of the alignment, by name; T-SupCon pulls patches to each other and to text anchors.

A loss is a function (z, labels, text, temperature, weights) -> scalar, with the arguments, result
and errors of `tsupcon`; `LOSSES` has it under its name in `align.loss`. What is given to the
equations here are the labelled patches, which `over_labelled` picks for all of them.

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
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from fmbseg.align.blockwise import blockwise_tsupcon
from fmbseg.align.labelled import over_labelled
from fmbseg.config import LossName

Loss = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], Tensor]

# Parts of (1) by name: whether (4) is in it, whether (2) is.
_TERMS = {"tsupcon": (True, True), "supcon": (True, False), "text": (False, True)}


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
    equation = partial(blockwise_tsupcon, term=_TERMS[term])
    return over_labelled(equation, z, labels, text, temperature, weights)


def cross_entropy(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor
) -> Tensor:
    """Cross-entropy over all classes, the mean over the labelled patches.

        L = 1 / M * sum_i ( - z_i.t_{y_i} + log sum_k exp(z_i.t_k) )

    Of unit vectors the logits are cosines over the temperature; as in `tsupcon` vectors are not
    normalised. Arguments as `over_labelled` hands them on; `LOSSES` has what takes any batch.
    """
    with torch.autocast(device_type=z.device.type, enabled=False):
        each = functional.cross_entropy(z @ text.T / temperature, labels, reduction="none")
    return (weights * each).sum() / weights.sum()


def infonce(z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: Tensor) -> Tensor:
    """InfoNCE within a batch, from patch to text and from text to patch, as CLIP is trained.

    With B the classes that occur in the batch,

        L   = 1/2 * ( 1 / M * sum_i a_i + 1 / |B| * sum_{k in B} b_k )
        a_i = - z_i.t_{y_i} + log sum_{k in B} exp(z_i.t_k)
        b_k = 1 / N_k * sum_{i: y_i = k} ( - z_i.t_k
                                           + log( exp(z_i.t_k) + sum_{j: y_j != k} exp(z_j.t_k) ) )

    so other patches of a class are no negatives of its text. Arguments as `cross_entropy`; with a
    single class in the batch nothing is compared and the loss is 0.
    """
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
    "cross_entropy": partial(over_labelled, cross_entropy),
    "infonce": partial(over_labelled, infonce),
}
assert tuple(LOSSES) == get_args(LossName)
