"""Alignment heads: shapes, unit length, independence of images, order and seed."""

from __future__ import annotations

import pytest
import torch

from fmbseg.align.heads import HEADS, AlignmentHead, seeded_head
from fmbseg.align.record import HeadConfig
from fmbseg.config import HeadName
from fmbseg.errors import ConfigError


def build_head(kind: HeadName, in_dim: int, out_dim: int, heads: int) -> AlignmentHead:
    return AlignmentHead(HeadConfig(kind, in_dim, out_dim, heads))


@pytest.mark.parametrize("kind", HEADS)
def test_maps_to_unit_vectors_of_any_grid(kind: HeadName) -> None:
    head = build_head(kind, 32, 20, 4)
    for grid in ((3, 5), (7, 2), (1, 1)):
        x = torch.randn(2, *grid, 32)
        z = head(x)
        assert z.shape == (2, *grid, 20)
        assert z.dtype == torch.float32
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, *grid))
        torch.testing.assert_close(head(x.flatten(1, 2)), z.flatten(1, 2))


@pytest.mark.parametrize("kind", HEADS)
def test_images_do_not_see_each_other(kind: HeadName) -> None:
    head = build_head(kind, 16, 8, 2).eval()
    x = torch.randn(3, 4, 4, 16)
    torch.testing.assert_close(head(x)[1:2], head(x[1:2]))


def test_only_the_transformer_looks_around() -> None:
    x = torch.randn(1, 4, 4, 16)
    changed = x.clone()
    changed[0, 0, 0, 0] += 5  # a shift of all channels is lost in the norm
    for kind in HEADS:
        head = build_head(kind, 16, 8, 2).eval()
        elsewhere = (head(x) - head(changed)).abs()[0, 1:].max().item()
        assert (elsewhere > 1e-6) == (kind == "transformer")


def test_the_transformer_has_no_sense_of_place() -> None:
    head = build_head("transformer", 16, 8, 2).eval()
    x = torch.randn(1, 12, 16)
    order = torch.randperm(12)
    torch.testing.assert_close(head(x)[:, order], head(x[:, order]), rtol=1e-4, atol=1e-5)


def test_sizes() -> None:
    def count(kind: HeadName) -> int:
        return sum(p.numel() for p in build_head(kind, 16, 8, 2).parameters())

    assert count("linear") == 16 * 8 + 8
    assert count("mlp") == 16 * 64 + 64 + 64 * 8 + 8
    block = 2 * 32 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16)
    assert count("transformer") == block + 32 + 16 * 8 + 8


def test_half_precision_comes_out_as_unit_float32() -> None:
    head = build_head("transformer", 32, 16, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head(torch.randn(2, 9, 32))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 9))


def test_seed_decides_the_weights_and_nothing_else() -> None:
    config = HeadConfig("transformer", 16, 8, 2)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = seeded_head(config, 1), seeded_head(config, 1), seeded_head(config, 2)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(*(head.projections[0][1].weight for head in (first, other)))  # type: ignore[index]


@pytest.mark.parametrize("kind", HEADS)
def test_projections_share_the_trunk_and_are_trained_apart(kind: HeadName) -> None:
    head = AlignmentHead(HeadConfig(kind, 16, 8, 2, projections=2))
    x = torch.randn(2, 3, 4, 16)
    assert torch.equal(head(x, 0), head(x, 1))  # they begin alike
    torch.testing.assert_close(head.project(head.tokens(x), 1), head(x, 1).flatten(1, 2))
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    before = head(x, 0).detach()
    for parameters in (head.trunk.parameters(), head.projections[0].parameters()):
        for parameter in parameters:
            parameter.requires_grad_(False)
    head(x, 1)[..., 0].sum().backward()
    optimizer.step()
    assert torch.equal(head(x, 0), before)
    assert not torch.equal(head(x, 1), before)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("wanted", [[0, 5, 6, 47, 50, 71], [60], [*range(72)]])
def test_some_patches_get_the_tokens_and_gradients_that_all_get(
    kind: HeadName, wanted: list[int]
) -> None:
    """Pictures of two grids; of some no patch is asked for."""
    torch.manual_seed(0)
    head = build_head(kind, 16, 8, 2).double()
    groups = [torch.randn(2, 4, 6, 16).double(), torch.randn(3, 2, 4, 16).double()]
    index = torch.tensor(wanted)
    towards = torch.randn(len(wanted), 8).double()

    def grown(tokens: torch.Tensor) -> list[torch.Tensor]:
        head.zero_grad()
        (head.projections[0](tokens) * towards).sum().backward()
        return [each.grad.clone() for each in head.parameters() if each.grad is not None]

    every = torch.cat([head.tokens(group).flatten(0, 1) for group in groups])[index]
    some = head.tokens_at(groups, index)
    torch.testing.assert_close(some, every)
    for mine, theirs in zip(grown(some), grown(every), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_some_patches_in_half_precision() -> None:
    head = build_head("transformer", 32, 16, 4)
    x = torch.randn(2, 3, 3, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        some, every = head.tokens_at([x], torch.tensor([1, 9, 17])), head.tokens(x).flatten(0, 1)
    assert some.dtype == every.dtype
    torch.testing.assert_close(some, every[[1, 9, 17]], rtol=0.05, atol=0.05)


def test_refuses_what_cannot_be_built() -> None:
    with pytest.raises(ConfigError, match="attention_heads is 3"):
        build_head("transformer", 16, 8, 3)
    with pytest.raises(ConfigError, match="unknown head"):
        build_head("conv", 16, 8, 4)  # type: ignore[arg-type]
    build_head("linear", 16, 8, 3)
