"""The tasks that ship, told without importing them."""

from statshift._core.registry import Entry, registry

TASKS = registry(
    Entry(
        "classification",
        "classification",
        "one class an image: top-1 and top-5 accuracy, cross-entropy, calibration",
        "statshift.tasks.classification:Classification",
        "Classification",
    ),
    Entry(
        "subset",
        "classification",
        "classification among the classes that a data set has: the logits of all others are masked",
        "statshift.tasks.subset:ClassSubset",
        "Classification among a subset of the classes",
        ("classes",),
    ),
    Entry(
        "segmentation",
        "segmentation",
        "a class for each pixel: mIoU, pixel accuracy, IoU by class",
        "statshift.tasks.segmentation:Segmentation",
        "Segmentation",
        ("ignore_index",),
    ),
)
"""The tasks by name; those of one class an image first."""
