"""T-SupCon in blocks of rows: memory grows with the patches, not with their square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Similarities held at once: 8 MB on a CPU, where larger blocks gain no speed.
_BLOCK_ELEMENTS = {"cpu": 1 << 21}
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 26


def blockwise_tsupcon(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float,
    weights: Tensor,
    term: tuple[bool, bool] = (True, True),
) -> Tensor:
    """(1) of `fmbseg.align.losses`, with its gradients in the same pass.

    Args:
        z: [M, D], every patch is labelled, M >= 1.
        labels: [M] int64.
        text: [K, D].
        temperature: greater than 0.
        weights: [M] of the patches, greater than 0.
        term: whether (4) is in it, and whether (2) is.
    """
    differentiate = torch.is_grad_enabled()
    scale = 1.0 / temperature
    loss: Tensor = _TSupCon.apply(z, labels, text, weights, scale, term, differentiate)
    return loss


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
