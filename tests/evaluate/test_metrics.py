"""The dataset confusion matrix against plain references."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fmbseg.data.vocabulary.grouping import Grouping
from fmbseg.errors import DataError
from fmbseg.evaluate.metrics import ConfusionMatrix, _pairs, mean_of, percent_iou


def reference_iou(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], classes: int, ignore: int
) -> list[float]:
    """IoU in percent from boolean masks, class by class: no confusion matrix involved."""
    result = []
    for k in range(classes):
        intersection = union = 0
        for prediction, target in pairs:
            scored = target != ignore
            p, t = (prediction == k) & scored, (target == k) & scored
            intersection += int((p & t).sum())
            union += int((p | t).sum())
        result.append(100 * intersection / union if union else math.nan)
    return result


def random_pairs(seed: int, classes: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    generator = np.random.default_rng(seed)
    pairs = []
    for _ in range(4):
        shape = tuple(generator.integers(5, 30, size=2))
        target = generator.integers(0, classes, size=shape)
        prediction = np.where(
            generator.random(shape) < 0.6, target, generator.integers(0, classes, size=shape)
        )
        target = np.where(generator.random(shape) < 0.1, 255, target)
        prediction = np.where(generator.random(shape) < 0.1, 255, prediction)
        pairs.append((prediction, target))
    return pairs


@pytest.mark.parametrize("classes", [1, 2, 21, 171])
def test_equals_a_loop_over_classes(classes: int) -> None:
    pairs = random_pairs(classes, classes)
    matrix = ConfusionMatrix(classes)
    for prediction, target in pairs:
        matrix.update(prediction, target)
    expected = reference_iou(pairs, classes, 255)
    np.testing.assert_allclose(matrix.iou(), expected, atol=1e-9)
    assert matrix.miou() == pytest.approx(np.nanmean(expected), abs=1e-9)


def test_camvid_labels_against_a_short_reference(samples: Path) -> None:
    """Real CamVid maps (id 11 = void); the prediction is the neighbouring frame's truth."""
    paths = sorted((samples / "camvid" / "valannot").glob("*.png"))[:8]
    maps = [np.asarray(Image.open(path)).astype(np.int64) for path in paths]
    pairs = list(zip(maps[1:], maps[:-1], strict=True))
    matrix = ConfusionMatrix(11, ignore_index=11)
    for prediction, target in pairs:
        matrix.update(prediction.astype(np.uint8), target.astype(np.uint8))
    expected = reference_iou(pairs, 11, 11)
    np.testing.assert_allclose(matrix.iou(), expected, rtol=0, atol=1e-9)
    assert abs(matrix.miou() - float(np.nanmean(expected))) < 1e-9
    scored = sum(int((t != 11).sum()) for _, t in pairs)
    right = sum(int(((p == t) & (t != 11)).sum()) for p, t in pairs)
    assert abs(matrix.pixel_accuracy() - 100 * right / scored) < 1e-9


def published_metrics(
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], classes: int, ignore: int
) -> dict[str, float | list[float]]:
    """As mmsegmentation's IoUMetric defines them: areas by histogram, summed over the images."""
    areas = torch.zeros(3, classes, dtype=torch.float64)
    for prediction, label in pairs:
        pred, truth = (torch.from_numpy(values[label != ignore]) for values in (prediction, label))
        for row, values in enumerate((pred[pred == truth], pred, truth)):
            counted = torch.histc(values.float(), bins=classes, min=0, max=classes - 1)
            areas[row] += counted.double()
    intersect, predicted, label_area = areas.numpy()
    with np.errstate(invalid="ignore"):
        iou = intersect / (predicted + label_area - intersect)
        accuracy = intersect / label_area
    return {
        "aAcc": 100 * float(intersect.sum() / label_area.sum()),
        "mIoU": 100 * float(np.nanmean(iou)),
        "mAcc": 100 * float(np.nanmean(accuracy)),
        "IoU": (100 * iou).tolist(),
    }


@pytest.mark.parametrize("classes", [2, 21, 171])
def test_equals_the_published_definition(classes: int) -> None:
    pairs = random_pairs(classes + 1, classes)
    matrix, on_device = ConfusionMatrix(classes), ConfusionMatrix(classes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for prediction, target in pairs:
        matrix.update(prediction, target)
        on_device.update(torch.from_numpy(prediction).to(device), target)
    expected = published_metrics(pairs, classes, 255)
    assert matrix.pixel_accuracy() == pytest.approx(expected["aAcc"], abs=1e-9)
    assert matrix.mean_accuracy() == pytest.approx(expected["mAcc"], abs=1e-9)
    assert matrix.miou() == pytest.approx(expected["mIoU"], abs=1e-9)
    np.testing.assert_allclose(matrix.iou(), expected["IoU"], rtol=0, atol=1e-9)
    assert (on_device.matrix == matrix.matrix).all()


def test_is_the_dataset_mean_not_a_mean_over_images() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
    matrix.update(np.array([1]), np.array([1]))
    assert matrix.iou().tolist() == [75.0, 50.0]
    assert matrix.miou() == 62.5


def test_ignored_pixels_count_nowhere() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 2, 1]), np.array([0, 255, 255]))
    assert matrix.matrix.sum() == 1
    assert matrix.pixel_accuracy() == 100.0
    assert matrix.miou() == 100.0
    assert np.isnan(matrix.iou()[1:]).all()


def test_unlabelled_prediction_misses_its_target_and_hurts_nobody_else() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 255, -1, 1]), np.array([0, 0, 0, 1]))
    assert matrix.iou()[0] == pytest.approx(100 / 3)
    assert matrix.iou()[1] == 100.0
    assert matrix.pixel_accuracy() == 50.0


def test_miou_present_leaves_out_classes_absent_from_the_truth() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 1]), np.array([0, 0, 0]))
    assert matrix.iou()[1] == 0.0 and math.isnan(matrix.iou()[2])
    assert matrix.miou() == pytest.approx(100 / 3)
    assert matrix.miou_present() == pytest.approx(200 / 3)


def test_a_class_of_one_pixel_is_present() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 0]), np.array([0, 0, 1]))
    assert matrix.miou_present() == pytest.approx((200 / 3 + 0) / 2)
    assert matrix.mean_accuracy() == 50.0


def test_nothing_counted_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert math.isnan(matrix.miou()) and math.isnan(matrix.miou_present())
    assert math.isnan(matrix.pixel_accuracy())
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_any_integer_dtype_gives_the_same_counts(dtype: type[np.integer]) -> None:
    generator = np.random.default_rng(0)
    prediction, target = generator.integers(0, 100, size=(2, 20, 20))
    wide, narrow = ConfusionMatrix(100), ConfusionMatrix(100)
    wide.update(prediction, target)
    narrow.update(prediction.astype(dtype), target.astype(dtype))
    assert (wide.matrix == narrow.matrix).all()


def test_tensors_and_arrays_mix() -> None:
    prediction, target = random_pairs(3, 5)[0]
    arrays, tensors = ConfusionMatrix(5), ConfusionMatrix(5)
    arrays.update(prediction, target)
    tensors.update(torch.from_numpy(prediction), torch.from_numpy(target.astype(np.uint8)))
    assert (arrays.matrix == tensors.matrix).all()


def test_update_does_not_change_its_arguments() -> None:
    prediction, target = np.array([255, 0]), np.array([0, 255])
    ConfusionMatrix(1).update(prediction, target)
    assert prediction.tolist() == [255, 0] and target.tolist() == [0, 255]


def test_merge_equals_counting_in_one() -> None:
    pairs = random_pairs(9, 6)
    whole, first, second = ConfusionMatrix(6), ConfusionMatrix(6), ConfusionMatrix(6)
    for index, (prediction, target) in enumerate(pairs):
        whole.update(prediction, target)
        (first if index % 2 else second).update(prediction, target)
    first.merge(second)
    assert (first.matrix == whole.matrix).all()


def test_mistakes_are_named_and_count_nothing() -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(DataError, match="target label 7"):
        matrix.update(np.array([0, 0]), np.array([0, 7]))
    with pytest.raises(DataError, match="shape"):
        matrix.update(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(DataError, match="integer"):
        matrix.update(np.zeros(2), np.zeros(2, int))
    with pytest.raises(DataError, match="merge"):
        matrix.merge(ConfusionMatrix(4))
    with pytest.raises(DataError, match="at least one"):
        ConfusionMatrix(0)
    assert matrix.matrix.sum() == 0


@pytest.mark.parametrize("classes", [100, 255, 256, 300])
def test_values_beyond_a_byte_and_below_nothing(classes: int) -> None:
    """With and without OpenCV's histogram of bytes; every pixel one by one beside it."""
    generator = np.random.default_rng(classes)
    # 255 of them is ignored, or of 256 classes and more one of them.
    target = np.concatenate([generator.integers(0, classes, 400), [0, classes - 1, 255, 255]])
    prediction = generator.integers(-3, 310, target.size)
    prediction[:4] = 255, 256, -1, classes
    ignore = 255 if classes <= 255 else 0
    expected = np.zeros((classes, classes + 1), dtype=np.int64)
    for t, p in zip(target.tolist(), prediction.tolist(), strict=True):
        if t != ignore:
            expected[t, p if 0 <= p < classes else classes] += 1
    for dtype in (np.int16, np.int64):
        matrix = ConfusionMatrix(classes, ignore)
        matrix.update(prediction.astype(dtype), target.astype(dtype))
        assert matrix.matrix.dtype == np.int64
        assert (matrix.matrix == expected).all()


@pytest.mark.parametrize("ignore", [-1, 3, 255, 256, 1000])
def test_any_label_may_be_the_ignored_one(ignore: int) -> None:
    matrix = ConfusionMatrix(5, ignore)
    matrix.update(np.array([0, 1, 4, 4, 2]), np.array([0, 0, 4, ignore, ignore]))
    expected = np.zeros((5, 6), dtype=np.int64)
    expected[0, 0] = expected[0, 1] = expected[4, 4] = 1
    assert (matrix.matrix == expected).all()
    for wrong in (5, 254, -2):
        with pytest.raises(DataError, match=f"target label {wrong} is neither one of 5 classes"):
            matrix.update(np.array([0, 0, 0]), np.array([0, wrong, 1]))
    assert (matrix.matrix == expected).all()


def test_bytes_are_counted_by_a_histogram_and_nothing_else_is() -> None:
    small = np.array([0, 255])
    for truth in (small, small.astype(np.uint8)):
        pairs = _pairs(np.array([7, 255]), truth)
        assert pairs is not None and pairs.dtype == np.int64 and pairs.sum() == 2
        assert pairs[0, 7] == pairs[255, 255] == 1
    for predicted in (np.array([-1, 256]), np.array([1000, -1000])):
        pairs = _pairs(predicted, small)
        assert pairs is not None and pairs[0, 255] == pairs[255, 255] == 1
    for truth in (np.array([0, 256]), np.array([-1, 0]), np.array([], dtype=np.uint8)):
        assert _pairs(np.zeros(truth.shape, dtype=np.uint8), truth) is None


def test_more_pixels_than_single_precision_counts() -> None:
    size = 2**24 + 3
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8))
    assert matrix.matrix.tolist() == [[size, 0, 0], [0, 0, 0]]


def test_a_picture_without_a_pixel_counts_nothing() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((0, 4), dtype=np.uint8), np.zeros((0, 4), dtype=np.int64))
    assert matrix.matrix.sum() == 0


def test_tensors_that_have_gradients_or_are_elsewhere() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1], dtype=torch.int8), torch.tensor([0, 0]))
    assert matrix.matrix.tolist() == [[1, 1, 0], [0, 0, 0]]
    with pytest.raises(DataError, match="prediction must be class indices of an integer dtype"):
        matrix.update(torch.zeros(2, requires_grad=True), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="target must be class indices of an integer dtype"):
        matrix.update(torch.zeros(2, dtype=torch.int64), np.zeros(2, dtype=bool))


def test_confusions_are_the_largest_first_and_never_right_or_empty() -> None:
    matrix = ConfusionMatrix(3)
    matrix.matrix[:] = [[9, 2, 0, 5], [2, 9, 0, 0], [1, 7, 9, 0]]
    kept = matrix.matrix.copy()
    every = [(2, 1, 7), (0, 3, 5), (0, 1, 2), (1, 0, 2), (2, 0, 1)]
    assert matrix.confusions(3) == every[:3]
    assert matrix.confusions(100) == every
    assert (matrix.matrix == kept).all()


def test_groups_count_what_their_classes_do() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 1, 1, 2, 3, 255, 0]), np.array([0, 0, 1, 2, 2, 0, 3]))
    found = matrix.grouped(Grouping(("pet", "sky"), (0, 0, 1, None)))
    assert found.num_classes == 2 and found.ignore_index == 255
    # Three pets are pets, one is nothing; of two pixels of sky one is of the class left out.
    assert found.matrix.tolist() == [[3, 0, 1], [0, 1, 1]]


def test_only_matrices_of_one_kind_are_merged() -> None:
    with pytest.raises(DataError, match=r"\(3, 255\) and \(3, 0\)"):
        ConfusionMatrix(3).merge(ConfusionMatrix(3, ignore_index=0))


def test_percentages_of_counts() -> None:
    found = percent_iou(np.array([1, 0, 0]), np.array([4, 2, 0]))
    assert found[:2].tolist() == [25.0, 0.0] and math.isnan(found[2])
    assert mean_of(np.array([1.0, np.nan, 2.0])) == 1.5
    assert math.isnan(mean_of(np.array([np.nan])))
