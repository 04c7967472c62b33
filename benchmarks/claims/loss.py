"""T-SupCon forward and backward, beside the equations written with the full matrix."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.comparing import Claim, Work

CHANNELS, CLASSES, TEMPERATURE = 512, 171, 0.15


def batch(patches: int, device: str) -> tuple[Any, Any, Any]:
    """Unit patches that have a gradient, their labels, unit texts."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(patches, CHANNELS, generator=generator), dim=1)
    text = F.normalize(torch.randn(CLASSES, CHANNELS, generator=generator), dim=1)
    labels = torch.randint(CLASSES, (patches,), generator=generator)
    return z.to(device).requires_grad_(), labels.to(device), text.to(device)


def full_matrix(z: Any, labels: Any, text: Any, temperature: float) -> Any:
    """Equations (1)-(4) as they stand, every similarity at once."""
    import torch
    from torch.nn import functional as F

    count = torch.bincount(labels, minlength=len(text)).to(z)
    among, towards = z @ z.T / temperature, z @ text.T / temperature
    others = among.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    same = F.one_hot(labels, len(text)).to(z)
    same = (same @ same.T) / count[labels]
    images = torch.logsumexp(others, dim=1) - (same * among).sum(dim=1)
    own = towards.gather(1, labels[:, None])[:, 0]
    texts = (torch.logsumexp(torch.cat([towards, others], dim=1), dim=1) - own) / count[labels]
    return (images.sum() + texts.sum()) / (len(z) + len(text))


def prepare(device: str, patches: int) -> tuple[Work, Work]:
    """Loss and gradient of both."""
    from fmbseg.align.losses import tsupcon

    z, labels, text = batch(patches, device)

    def run(loss: Any) -> Any:
        z.grad = None
        value = loss(z, labels, text, TEMPERATURE)
        value.backward()
        return float(value), z.grad.clone()

    return partial(run, tsupcon), partial(run, full_matrix)


def same(ours: Any, other: Any) -> str:
    """Losses beside each other, and the largest difference of a gradient."""
    apart = float((ours[1] - other[1]).abs().max() / other[1].abs().max())
    return f"loss {ours[0]:.6f} and {other[0]:.6f}, gradients within {apart:.0e} of the largest"


CLAIMS = (
    Claim(
        "t-supcon",
        "T-SupCon and its gradient, 16,384 patches of 512 channels, beside the full matrix",
        1.5,
        partial(prepare, patches=16384),
        same,
        rounds=3,
        least_memory=8.0,
    ),
    Claim(
        "t-supcon-4096",
        "the same with 4,096 patches, for a quick look",
        1.5,
        partial(prepare, patches=4096),
        same,
    ),
)
