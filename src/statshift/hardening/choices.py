"""What can be named where a network is trained, and the numbers of the shortest training, known without torch."""

from typing import Any

AUGMENTATIONS = ("none", "crop", "standard", "autoaugment", "fast-autoaugment", "augmix", "cutmix")
OPTIMIZERS = ("sgd", "adam", "adagrad")
SCHEDULES = ("step", "one-cycle", "constant", "cosine", "poly")

ONE_CYCLE: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.02,
    "schedule": "one-cycle",
    "nesterov": True,
    "weight_decay": 5e-4,
    "augment": "standard",
}
"""A tenth of the papers' epochs, by one cycle of the learning rate to twice theirs; networks without norm bear it."""
