"""Refinements at test time, against plain loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fmbseg.evaluate.methods import METHODS
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.evaluate.refine import REFINEMENTS
from fmbseg.evaluate.refine.jbu import joint_bilateral
from fmbseg.evaluate.refine.pamr import pamr
from fmbseg.evaluate.refine.propagate import propagate
from fmbseg.evaluate.regions import paint, vote
from fmbseg.machine.device import choose_device
from fmbseg.pseudo.encodings import MaskEncodings, pixels_digest
from fmbseg.store.paths import Paths
from tests.evaluate.test_predictors import PLAIN, WITH_BACKGROUND, labelled, pictures
from tests.workspace import MakeConfig

Array = npt.NDArray[np.float64]


def test_small_masks_lie_over_large_ones() -> None:
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :2, :2] = True
    masks[1, :3] = True
    masks[2, 1, 1:3] = True
    assert paint(masks).tolist() == [[1, 1, 2, 2], [1, 3, 3, 2], [2, 2, 2, 2], [0, 0, 0, 0]]
    assert not paint(np.zeros((0, 2, 3), dtype=bool)).any()


def test_a_region_takes_the_label_of_most_of_its_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, 7, 255], (12, 9))
    regions = rng.integers(0, 5, (12, 9))
    expected = labels.copy()
    for region in range(1, 5):
        inside = labels[regions == region].tolist()
        expected[regions == region] = min(set(inside), key=lambda c: (-inside.count(c), c))
    assert (vote(labels, regions) == expected).all()
    assert (expected != labels).any()


def plain_pamr(colours: Array, values: Array, dilations: list[int], iterations: int) -> Array:
    """Pixel by pixel; the border's own pixels go on beyond it."""
    _, height, width = colours.shape

    def near(y: int, x: int) -> list[tuple[int, int]]:
        return [
            (min(max(y + d * a, 0), height - 1), min(max(x + d * b, 0), width - 1))
            for d in dilations
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            if (a, b) != (0, 0)
        ]

    weights = {}
    for y in range(height):
        for x in range(width):
            places = near(y, x)
            seen = [colours[:, v, u] for v, u in places] + [colours[:, y, x]] * len(dilations)
            spread = np.std(seen, axis=0, ddof=1)
            scores = [
                -np.mean(np.abs(colours[:, y, x] - colours[:, v, u]) / (1e-8 + 0.1 * spread))
                for v, u in places
            ]
            raised = np.exp(np.array(scores) - max(scores))
            weights[y, x] = raised / raised.sum()
    for _ in range(iterations):
        moved = np.zeros_like(values)
        for (y, x), own in weights.items():
            for weight, (v, u) in zip(own, near(y, x), strict=True):
                moved[:, y, x] += weight * values[:, v, u]
        values = moved
    return values


def test_pamr_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    colours = rng.uniform(size=(3, 7, 9))
    values = rng.normal(size=(2, 7, 9))
    found = pamr(torch.from_numpy(colours), torch.from_numpy(values), (1, 3), 2)
    np.testing.assert_allclose(found.numpy(), plain_pamr(colours, values, [1, 3], 2), atol=1e-9)


def test_pamr_stops_at_an_edge() -> None:
    colours = torch.zeros(3, 16, 16)
    colours[:, :, 8:] = 1.0
    values = torch.zeros(1, 16, 16)
    values[..., 10:] = 1.0  # two columns short of the edge
    found = pamr(colours, values, (1, 2), 20)
    assert found[0, :, 8:].min() > 0.75 and found[0, :, :8].max() < 0.05


def plain_joint_bilateral(colours: Array, values: Array, radius: int) -> Array:
    """Pixel by pixel; the grid divides the picture."""
    (_, height, width), (count, rows, columns) = colours.shape, values.shape
    tall, wide = height // rows, width // columns
    found = np.zeros((count, height, width))
    for y in range(height):
        for x in range(width):
            above, left = (y + 0.5) / tall - 0.5, (x + 0.5) / wide - 0.5
            total, norm = np.zeros(count), 0.0
            for v in range(rows):
                for u in range(columns):
                    if abs(v - round(above)) > radius or abs(u - round(left)) > radius:
                        continue
                    cell = colours[:, v * tall : (v + 1) * tall, u * wide : (u + 1) * wide]
                    near = np.exp(-((above - v) ** 2 + (left - u) ** 2) / (2 * 0.7**2))
                    other = ((colours[:, y, x] - cell.mean(axis=(1, 2))) ** 2).sum()
                    weight = near * np.exp(-other / (2 * 0.3**2))
                    total, norm = total + weight * values[:, v, u], norm + weight
            found[:, y, x] = total / norm
    return found


def test_joint_bilateral_upsampling_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    colours, values = rng.uniform(size=(3, 12, 15)), rng.normal(size=(2, 4, 5))
    found = joint_bilateral(torch.from_numpy(colours), torch.from_numpy(values), 1, 0.7, 0.3)
    np.testing.assert_allclose(found.numpy(), plain_joint_bilateral(colours, values, 1), atol=1e-9)


def test_joint_bilateral_upsampling_follows_an_edge_and_ends_nowhere_in_nan() -> None:
    colours = torch.zeros(3, 32, 32)
    colours[:, :, 13:] = 1.0  # not where cells of 8 px meet
    values = torch.zeros(1, 4, 4)
    values[..., 2:] = 1.0
    found = joint_bilateral(colours, values)
    assert found[0, :, 13:].min() > 0.6 and found[0, :, :8].max() < 0.4
    torch.manual_seed(0)
    noise = joint_bilateral(100 * torch.rand(3, 16, 16), torch.randn(2, 2, 2), colour=0.01)
    assert noise.isfinite().all()


def test_propagation_is_where_passing_on_ends() -> None:
    """F <- a P F + (1 - a) Y, again and again, written in loops."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(3, 4)), 4, axis=0) + 0.5 * rng.normal(size=(12, 4))
    values = rng.normal(size=(12, 2))
    unit = [row / np.linalg.norm(row) for row in rows]
    cosines = [[max(0.0, float(a @ b)) for b in unit] for a in unit]
    weights = np.zeros((12, 12))
    for i in range(12):
        others = sorted((j for j in range(12) if j != i), key=lambda j: -cosines[i][j])
        for j in others[:3]:
            weights[i, j] = max(weights[i, j], cosines[i][j] ** 2)
            weights[j, i] = max(weights[j, i], cosines[i][j] ** 2)
    spread = values.copy()
    for _ in range(200):
        passed = np.zeros_like(values)
        for i in range(12):
            for j in range(12):
                passed[i] += weights[i, j] / weights[i].sum() * spread[j]
        spread = 0.8 * passed + 0.2 * values
    found = propagate(torch.from_numpy(rows), torch.from_numpy(values), 0.8, 3, 2.0)
    np.testing.assert_allclose(found.numpy(), spread, atol=1e-4)


@pytest.mark.parametrize("refine", REFINEMENTS)
@pytest.mark.parametrize("method", ["fmbseg", "naclip"])
def test_a_method_is_refined_and_says_so(
    method: str, refine: str, workspace: Paths, make_config: MakeConfig
) -> None:
    config = make_config(evaluate={"short_side": 64, "refine": refine, "logit_scale": 1.0})
    plain = load_predictor(method, make_config(evaluate={"short_side": 64}), workspace.align)
    predictor = load_predictor(method, config, workspace.align)
    image = pictures()[1]
    before, after = (labelled(each, image, PLAIN) for each in (plain, predictor))
    assert after.shape == before.shape and set(np.unique(after)) <= {0, 1, 2}
    assert (after != before).any() == (refine != "none")
    protocol = predictor.protocol(PLAIN)
    assert json.loads(json.dumps(protocol)) == protocol and protocol["refine"] == refine
    own = plain.protocol(PLAIN)["weights"]
    more = {
        "none": set(),
        "masks": {"tiny-sam"},
        "pamr": set(),
        "jbu": set(),
        "propagate": {"tiny-encoder"},
    }
    assert set(protocol["weights"]) == set(own) | more[refine]
    (decision,) = predictor.decide([image], WITH_BACKGROUND)
    # After a vote no threshold decides any more.
    assert (decision.threshold is None) == (refine == "masks")


def test_masks_vote_on_the_labels_of_the_method(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(evaluate={"short_side": 64, "refine": "masks"})
    image = pictures()[0]
    masks = MaskEncodings(config, None, choose_device(config.run)).masks_of(
        image, pixels_digest(image)
    )
    before = labelled(load_predictor("maskclip", make_config()), image, PLAIN)
    after = labelled(load_predictor("maskclip", config, None, tmp_path), image, PLAIN)
    assert (after == vote(before, paint(masks.masks))).all()


def test_only_what_refines_depends_on_what_it_needs(make_config: MakeConfig) -> None:
    plain, voted = make_config(), make_config(evaluate={"refine": "masks"})
    for name, method in METHODS.items():
        needs = {"masks", "sam"} <= set(method.depends.params)
        assert needs == (name in {"pseudo", "corrclip"})
        assert method.depends_with(plain) == method.depends
        if method.refined:
            assert {"masks", "sam"} <= set(method.depends_with(voted).params)
        else:
            assert method.depends_with(voted) == method.depends
    assert [name for name, method in METHODS.items() if not method.refined] == [
        "corrclip",
        "pseudo",
    ]
