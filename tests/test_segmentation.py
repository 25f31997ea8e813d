"""The task of label maps: counts, mIoU, intervals and losses against loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from statshift._core.errors import DataWarning, InputError
from statshift.metrics.segmentation import class_iou
from statshift.results.rows import make_row, restrict
from statshift.tasks.figures import score_of
from statshift.tasks.packing import unpacked_picture
from statshift.tasks.row import kept_positions
from statshift.tasks.segmentation import Segmentation

CLASSES = 5
TASK = Segmentation(ignore_index=3)  # which the model has as a class too


@pytest.fixture(scope="module")
def answers():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, CLASSES, 7, 9, generator=generator)
    labels = torch.randint(0, 4, (6, 14, 18), generator=generator)  # class 4 is never a label
    logits[:, 4] -= 100  # and never an answer
    labels[5] = 3  # nothing of the last image counts
    return logits, labels


def loop(logits, labels, images):
    """One confusion matrix, pixel by pixel, and IoU of every class that is one and occurs."""
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    for image in images:
        large = F.interpolate(logits[image][None], size=labels.shape[1:], mode="bilinear", align_corners=False)[0]
        for truth, predicted in zip(labels[image].flatten().tolist(), large.argmax(0).flatten().tolist(), strict=True):
            if truth != TASK.ignore_index:
                matrix[truth, predicted] += 1
    iou = {}
    for one in range(CLASSES):
        union = matrix[one].sum() + matrix[:, one].sum() - matrix[one, one]
        if one != TASK.ignore_index and union:
            iou[one] = matrix[one, one] / union
    accuracy = np.trace(matrix) / max(1, matrix.sum())
    return iou, accuracy


def row_of(logits, labels, **more):
    results = TASK.per_image(logits, labels)
    return make_row(results, np.zeros(len(labels), np.int64), 0, shift="clean", severity=0, task=TASK, **more)


def test_scores_are_those_of_one_confusion_matrix(answers):
    row = row_of(*answers)
    iou, accuracy = loop(*answers, range(6))
    measures = TASK.measures(row)
    assert sorted(iou) == [0, 1, 2]
    assert measures["miou"] == pytest.approx(np.mean(list(iou.values())), abs=1e-12)
    assert measures["error"] == pytest.approx(1 - measures["miou"], abs=1e-12)
    assert measures["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    own = [np.mean(list(loop(*answers, [image])[0].values())) for image in range(5)]
    assert measures["per_image_miou"] == pytest.approx(np.mean(own), abs=1e-12)
    told = TASK.per_class([row], None)
    assert told["absent_classes"] == [3, 4]
    assert told["class_iou"] == [pytest.approx(iou[0]), pytest.approx(iou[1]), pytest.approx(iou[2]), None, None]
    assert told["pixel_accuracy"] == measures["pixel_accuracy"]


def test_a_pixel_predicted_as_the_ignored_class_is_a_miss_of_its_label():
    labels = torch.tensor([[[0, 0, 1, 3]]])
    logits = F.one_hot(torch.tensor([[[0, 3, 1, 0]]]), CLASSES).permute(0, 3, 1, 2).float()
    measures = TASK.measures(row_of(logits, labels))
    assert measures["miou"] == pytest.approx((1 / 2 + 1) / 2)  # the fourth pixel's 0 is no prediction that counts
    assert measures["pixel_accuracy"] == pytest.approx(2 / 3)


def test_a_class_only_predicted_counts_and_one_that_is_absent_does_not():
    counts = np.array([[4.0, 0, 0], [4, 2, 0], [6, 0, 0]])  # true positives, predicted, labelled
    np.testing.assert_allclose(class_iou(*counts), [4 / 6, 0, np.nan])
    assert Segmentation().score(counts.reshape(-1), np.ones(())) == pytest.approx(1 / 3)


def test_rows_over_fewer_images_are_those_of_the_images_alone(answers):
    logits, labels = answers
    held_out = row_of(logits, labels, protocol="replace", adapted_on=np.array([1, 4]), held_out=True)
    iou, accuracy = loop(logits, labels, [0, 2, 3, 5])
    assert TASK.measures(held_out)["miou"] == pytest.approx(np.mean(list(iou.values())), abs=1e-12)
    fewer = restrict(row_of(logits, labels), [1, 4], TASK)
    assert kept_positions(fewer).tolist() == [0, 2, 3, 5]
    assert TASK.measures(fewer) == TASK.measures(held_out)
    assert TASK.measures(fewer)["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_intervals_and_differences_resample_images(answers):
    logits, labels = answers
    first, second = row_of(logits, labels), row_of(-logits, labels)
    paired = TASK.paired([(first, second)])
    assert paired.difference.first == pytest.approx(TASK.measures(first)["miou"], abs=1e-12)
    assert paired.difference.second == pytest.approx(TASK.measures(second)["miou"], abs=1e-12)
    assert paired.difference == TASK.difference(score_of([first]), score_of([second]))
    low, high = TASK.interval(score_of([first]))
    assert low < paired.difference.first < high
    assert TASK.paired([(first, first)]).difference.low == 0


def test_pictures_are_the_predictions(answers):
    logits, labels = answers
    row = row_of(logits, labels, examples=np.array([2]))
    large = F.interpolate(logits[2][None], size=labels.shape[1:], mode="bilinear", align_corners=False)[0].argmax(0)
    np.testing.assert_array_equal(unpacked_picture(row["examples"]["predicted"][0], (14, 18)), large.numpy())


def test_losses_are_means_over_counted_pixels(answers):
    logits, labels = answers
    losses = TASK.losses(logits.double(), labels)
    large = F.interpolate(logits.double(), size=labels.shape[1:], mode="bilinear", align_corners=False)
    for image in range(5):
        counted = [
            -float(large[image, :, y, x].log_softmax(0)[labels[image, y, x]])
            for y in range(14)
            for x in range(18)
            if labels[image, y, x] != 3
        ]
        assert float(losses[image]) == pytest.approx(np.mean(counted), abs=1e-12)
    assert losses[5] == 0


def test_rows_are_refused_that_are_damaged_or_not_finite(answers):
    logits, labels = answers
    row = row_of(logits, labels)
    with pytest.raises(InputError, match="`pixels` of 6 images and 5 classes"):
        TASK.measures({**row, "pixels": row["pixels"][:-8]})
    broken = logits.clone()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite for 1 of 6 images"):
        row_of(broken, labels)
    with pytest.raises(InputError, match=r"logits \(B,K,h,w\).*shape \(6, 5\)"):
        TASK.per_image(logits[..., 0, 0], labels)


def test_a_task_takes_the_ignored_label_of_the_data_and_stays_what_it_is():
    class Own(Segmentation):
        name = "own"

    data = SimpleNamespace(has_maps=True, ignore_index=11, spec="seg:frames")
    assert Own().fitted(data) == Own(11)
    assert Own(11).fitted(data) == Own(11)
    with pytest.warns(DataWarning, match="leaves out pixels labelled 3, but seg:frames those labelled 11, which holds"):
        assert TASK.fitted(data) == Segmentation(11)
