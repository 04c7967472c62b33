"""T-SupCon against the equations written as plain loops, and its documented edge cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fmbseg.align import blockwise
from fmbseg.align.losses import LOSSES, Loss, tsupcon

TERMS = ("tsupcon", "supcon", "text")


def by_equations(
    z: Tensor,
    labels: Tensor,
    text: Tensor,
    temperature: float = 1.0,
    term: str = "tsupcon",
    weights: Tensor | None = None,
) -> Tensor:
    """Equations (1)-(4) symbol by symbol, one dot product at a time, and patches by weight."""
    rows = [i for i in range(len(z)) if int(labels[i]) != 255]
    y = {i: int(labels[i]) for i in rows}
    w = {i: 1.0 if weights is None else float(weights[i]) for i in rows}
    size = {k: sum(w[i] for i in rows if y[i] == k) for k in range(len(text))}

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / temperature

    def patch_sum(i: int) -> list[Tensor]:
        return [dot(z[i], z[j]).exp() for j in rows if j != i]

    anchor = z.new_zeros(())
    for k in range(len(text)):
        for i in rows:
            if y[i] == k:
                terms = [dot(z[i], text[m]).exp() for m in range(len(text))] + patch_sum(i)
                inner = -dot(z[i], text[k]) + torch.stack(terms).sum().log()
                anchor = anchor + w[i] * inner / size[k]
    pair = z.new_zeros(())
    for i in rows:
        others = patch_sum(i)
        log_sum = torch.stack(others).sum().log() if others else z.new_zeros(())
        for m in rows:
            if y[m] == y[i]:
                pair = pair + w[i] * w[m] * (-dot(z[i], z[m]) + log_sum) / size[y[i]]
    total = {"tsupcon": anchor + pair, "supcon": pair, "text": anchor}[term]
    return total / (sum(w.values()) + len(text))


@pytest.mark.parametrize("term", TERMS)
def test_weights_count_patches_in_the_equations(term: str) -> None:
    z, labels, text = batch(unit=True)
    weights = 0.3 + 4 * torch.rand(len(z), generator=torch.Generator().manual_seed(2))
    expected = by_equations(z, labels, text, 0.2, term, weights)
    loss = tsupcon(z, labels, text, 0.2, weights, term)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    exact = weights.double()
    for ours, theirs in zip(
        gradients(tsupcon(z, labels, text, 0.2, exact, term), z, text),
        gradients(by_equations(z, labels, text, 0.2, term, exact), z, text),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ones = torch.ones(len(z))
    assert torch.equal(
        tsupcon(z, labels, text, 0.2, ones, term), tsupcon(z, labels, text, 0.2, None, term)
    )
    with pytest.raises(ValueError, match="weights must be"):
        tsupcon(z, labels, text, 0.2, 0 * ones, term)


def batch(
    patches: int = 13, texts: int = 5, dim: int = 6, seed: int = 0, unit: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Random vectors, labels with some 255, the last text class never used."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(patches, dim, generator=generator, dtype=torch.float64)
    text = torch.randn(texts, dim, generator=generator, dtype=torch.float64)
    if unit:
        z, text = F.normalize(z, dim=1), F.normalize(text, dim=1)
    labels = torch.randint(0, texts - 1, (patches,), generator=generator)
    labels[torch.rand(patches, generator=generator) < 0.25] = 255
    return z.requires_grad_(), labels, text.requires_grad_()


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("unit", [True, False])
def test_equals_equations(term: str, temperature: float, unit: bool) -> None:
    for seed in range(3):
        z, labels, text = batch(seed=seed, unit=unit)
        expected = by_equations(z, labels, text, temperature, term)
        loss = tsupcon(z, labels, text, temperature, term=term)
        assert loss.dtype == torch.float64
        assert loss.shape == ()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(
            gradients(loss, z, text), gradients(expected, z, text), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("term", TERMS)
def test_gradcheck(term: str) -> None:
    z, labels, text = batch(patches=7, texts=3, dim=4)
    assert torch.autograd.gradcheck(lambda a, b: tsupcon(a, labels, b, 0.5, term=term), (z, text))


@pytest.mark.parametrize("elements", [1, 20, 39, 1 << 20])
@pytest.mark.parametrize("term", TERMS)
def test_blocks_change_nothing(term: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(blockwise._BLOCK_ELEMENTS, "cpu", elements)
    z, labels, text = batch(patches=16, seed=4)
    expected = by_equations(z, labels, text, 0.3, term)
    loss = tsupcon(z, labels, text, 0.3, term=term)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(loss, z, text), gradients(expected, z, text), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_each_term_is_a_loss_by_its_name() -> None:
    z, labels, text = batch()
    for name in TERMS:
        found = LOSSES[name](z, labels, text, 0.3, None)  # type: ignore[index]
        assert torch.equal(found, tsupcon(z, labels, text, 0.3, term=name))


def cross_entropy_by_loops(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: list[float]
) -> Tensor:
    total, size = z.new_zeros(()), 0.0
    for i in range(len(z)):
        if int(labels[i]) == 255:
            continue
        logits = [(z[i] * t).sum() / temperature for t in text]
        inner = -logits[int(labels[i])] + torch.stack([x.exp() for x in logits]).sum().log()
        total, size = total + weights[i] * inner, size + weights[i]
    return total / size


def infonce_by_loops(
    z: Tensor, labels: Tensor, text: Tensor, temperature: float, weights: list[float]
) -> Tensor:
    rows = [i for i in range(len(z)) if int(labels[i]) != 255]
    y = {i: int(labels[i]) for i in rows}
    present = sorted(set(y.values()))

    def exp(i: int, k: int) -> Tensor:
        return ((z[i] * text[k]).sum() / temperature).exp()

    patches = z.new_zeros(())
    for i in rows:
        a = -exp(i, y[i]).log() + torch.stack([exp(i, k) for k in present]).sum().log()
        patches = patches + weights[i] * a
    patches = patches / sum(weights[i] for i in rows)
    texts = z.new_zeros(())
    for k in present:
        own = [i for i in rows if y[i] == k]
        for i in own:
            compared = [exp(i, k)] + [exp(j, k) for j in rows if y[j] != k]
            b = -exp(i, k).log() + torch.stack(compared).sum().log()
            texts = texts + weights[i] * b / sum(weights[j] for j in own)
    return (patches + texts / len(present)) / 2


BESIDE = {"cross_entropy": cross_entropy_by_loops, "infonce": infonce_by_loops}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_losses_beside_equal_plain_loops(name: str, weighted: bool) -> None:
    for seed, temperature in enumerate((1.0, 0.1, 3.0)):
        z, labels, text = batch(seed=seed, unit=seed == 0)
        weights = 0.3 + 4 * torch.rand(len(z), generator=torch.Generator().manual_seed(2)).double()
        given = weights if weighted else None
        listed = weights.tolist() if weighted else [1.0] * len(z)
        expected = BESIDE[name](z, labels, text, temperature, listed)
        loss = LOSSES[name](z, labels, text, temperature, given)  # type: ignore[index]
        assert loss.dtype == torch.float64 and loss.shape == ()
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(
            gradients(loss, z, text), gradients(expected, z, text), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", BESIDE)
def test_edges_of_the_losses_beside(name: str) -> None:
    loss = LOSSES[name]  # type: ignore[index]
    z = torch.full((3, 4), torch.nan, requires_grad=True)
    text = torch.randn(2, 4, requires_grad=True)
    nothing = loss(z, torch.full((3,), 255), text, 1.0, None)
    assert nothing.item() == 0.0
    by_z, by_text = torch.autograd.grad(nothing, (z, text))
    assert bool((by_z == 0).all()) and bool((by_text == 0).all())
    # NaN of an unlabelled patch, and a single class in the batch.
    some = torch.cat([z.detach()[:1], torch.randn(2, 4)]).requires_grad_()
    found = loss(some, torch.tensor([255, 1, 1]), text, 0.01, None)
    assert math.isfinite(found.item())
    for gradient in gradients(found, some, text):
        assert bool(torch.isfinite(gradient).all())
    with pytest.raises(ValueError, match="text has 2 rows"):
        loss(z, torch.tensor([0, 1, 2]), text, 1.0, None)
    half = torch.randn(5, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(half, torch.tensor([0, 1, 0, 1, 1]), text, 0.1, None)
    exact = loss(half.double(), torch.tensor([0, 1, 0, 1, 1]), text.double(), 0.1, None)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(exact.item(), rel=1e-5)


def test_infonce_of_one_class_is_nothing_and_cross_entropy_is_something() -> None:
    z, _, text = batch(patches=4, texts=3)
    labels = torch.ones(4, dtype=torch.int64)
    assert LOSSES["infonce"](z, labels, text).item() == pytest.approx(0.0)
    assert LOSSES["cross_entropy"](z, labels, text).item() > 0.0


def test_tsupcon_is_the_sum_of_its_terms() -> None:
    z, labels, text = batch(patches=40)
    parts = tsupcon(z, labels, text, 0.2, term="supcon") + tsupcon(
        z, labels, text, 0.2, term="text"
    )
    torch.testing.assert_close(tsupcon(z, labels, text, 0.2), parts)


def test_unlabelled_patches_appear_nowhere() -> None:
    z, labels, text = batch(patches=20)
    labelled = labels != 255
    assert 0 < int(labelled.sum()) < 20
    poisoned = torch.where(labelled[:, None], z.detach(), torch.nan).requires_grad_()
    loss = tsupcon(poisoned, labels, text, 0.5)
    torch.testing.assert_close(loss, tsupcon(z[labelled], labels[labelled], text, 0.5))
    (gradient,) = gradients(loss, poisoned)
    assert bool((gradient[~labelled] == 0).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("term", TERMS)
def test_nothing_labelled(term: str) -> None:
    for patches in (0, 3):
        z = torch.full((patches, 4), torch.nan, requires_grad=True)
        text = torch.randn(2, 4, requires_grad=True)
        loss = tsupcon(z, torch.full((patches,), 255), text, term=term)
        assert loss.item() == 0.0
        by_z, by_text = torch.autograd.grad(loss, (z, text))  # raises when not connected
        assert bool((by_z == 0).all()) and bool((by_text == 0).all())


@pytest.mark.parametrize("term", TERMS)
def test_one_labelled_patch(term: str) -> None:
    z, _, text = batch(patches=3)
    labels = torch.tensor([255, 2, 255])
    loss = tsupcon(z, labels, text, 0.7, term=term)
    expected = by_equations(z, labels, text, 0.7, term)
    assert math.isfinite(loss.item())
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(gradients(loss, z, text), gradients(expected, z, text), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_own_pair_in_equation_4_is_a_constant_with_a_gradient() -> None:
    # One patch alone: (4) is -z.z, so the gradient is -2 z over M + K = 2.
    z = torch.tensor([[0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = tsupcon(z, torch.tensor([0]), text, term="supcon")
    torch.testing.assert_close(loss, torch.tensor(-0.5, dtype=torch.float64))
    (gradient,) = gradients(loss, z)
    torch.testing.assert_close(gradient, -z.detach())


def test_every_text_row_counts() -> None:
    z, labels, text = batch(patches=9, texts=3)
    longer = torch.cat([text, text.new_zeros(4, text.shape[1])])
    ratio = tsupcon(z, labels, text, term="supcon") / tsupcon(z, labels, longer, term="supcon")
    count = int((labels != 255).sum())
    assert ratio.item() == pytest.approx((count + 7) / (count + 3))


def test_inputs_are_not_normalised() -> None:
    z, labels, text = batch(unit=True)
    assert tsupcon(2 * z, labels, text, term="supcon") != tsupcon(z, labels, text, term="supcon")
    torch.testing.assert_close(tsupcon(2 * z, labels, 2 * text, 4.0), tsupcon(z, labels, text, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_computes_in_float32(dtype: torch.dtype) -> None:
    z64, labels, text64 = batch(patches=300, texts=20, dim=32, unit=True)
    z = z64.detach().to(dtype).requires_grad_()
    text = text64.detach().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tsupcon(z, labels, text, 0.1)
    assert loss.dtype == torch.float32
    exact = z.detach().double().requires_grad_()
    expected = tsupcon(exact, labels, text.double(), 0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,), (reference,) = gradients(loss, z), gradients(expected, exact)
    assert gradient.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(gradient.double(), reference, rtol=tolerance, atol=tolerance * 0.01)


def test_large_similarities_stay_finite() -> None:
    z, labels, text = batch(patches=30)
    z32 = (z.detach() * 5).float().requires_grad_()
    loss = tsupcon(z32, labels, text.detach().float(), 0.01)
    (gradient,) = gradients(loss, z32)
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(gradient).all())


def test_without_gradients() -> None:
    z, labels, text = batch()
    with torch.no_grad():
        loss = tsupcon(z, labels, text)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(tsupcon(z, labels, text).item())
    frozen = tsupcon(z, labels, text.detach())
    assert gradients(frozen, z)[0].shape == z.shape


def test_gradients_of_one_input_alone() -> None:
    z, labels, text = batch()
    both = gradients(tsupcon(z, labels, text), z, text)
    (of_z,) = gradients(tsupcon(z, labels, text.detach()), z)
    (of_text,) = gradients(tsupcon(z.detach(), labels, text), text)
    assert torch.equal(of_z, both[0]) and torch.equal(of_text, both[1])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_temperature_is_1_where_none_is_given(loss: Loss) -> None:
    z, labels, text = batch()
    assert torch.equal(loss(z, labels, text), loss(z, labels, text, 1.0, None))  # type: ignore[call-arg]


def test_labels_of_any_integer_type() -> None:
    z, labels, text = batch()
    expected = tsupcon(z, labels, text)
    torch.testing.assert_close(tsupcon(z, labels.to(torch.uint8), text), expected)
    torch.testing.assert_close(tsupcon(z, labels.to(torch.int32), text), expected)


@pytest.mark.parametrize("wrong", [5, 254, 256, -1])
def test_label_out_of_range(wrong: int) -> None:
    z, labels, text = batch(texts=5)
    labels[0] = wrong
    with pytest.raises(ValueError, match="text has 5 rows"):
        tsupcon(z, labels, text)


def test_255_is_never_a_class() -> None:
    z, _, _ = batch(patches=4)
    text = torch.randn(300, 6, dtype=torch.float64)
    assert tsupcon(z, torch.tensor([255] * 4), text).item() == 0.0
    assert tsupcon(z, torch.tensor([256] * 4), text).item() > 0.0


def test_refuses_what_does_not_fit() -> None:
    z, labels, text = batch()
    with pytest.raises(ValueError, match=r"\[M, D\]"):
        tsupcon(z, labels, text[:, :3])
    with pytest.raises(ValueError, match="labels must be"):
        tsupcon(z, labels[:-1], text)
    with pytest.raises(ValueError, match="integers"):
        tsupcon(z, labels.float(), text)
    with pytest.raises(ValueError, match="floating point"):
        tsupcon(z, labels, text.long())
    with pytest.raises(ValueError, match="floating point"):
        tsupcon(z.detach().long(), labels, text)
    with pytest.raises(ValueError, match="temperature"):
        tsupcon(z, labels, text, 0.0)
    with pytest.raises(ValueError, match="term"):
        tsupcon(z, labels, text, term="both")


def test_many_patches_need_little_memory() -> None:
    # 8,000 patches: the similarities alone would be 256 MB.
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(8000, 16, generator=generator), dim=1).requires_grad_()
    labels = torch.randint(0, 10, (8000,), generator=generator)
    text = F.normalize(torch.randn(10, 16, generator=generator), dim=1)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        gradients(tsupcon(z, labels, text, 0.1), z)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 32 * 2**20
