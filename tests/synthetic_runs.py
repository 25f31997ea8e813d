"""Rows and records without a model: logits drawn at random, with a chosen accuracy."""

import base64

import numpy as np
import torch
from scipy import stats

from statshift.metrics.alexnet import ALEXNET
from statshift.results import make_row
from statshift.tasks.statistics import image_statistics

COMMON = tuple(ALEXNET["imagenet"])
CLASSES = 7


def labels_of(images):
    return torch.arange(images) % CLASSES


def synthetic_row(shift, severity, accuracy=0.6, images=50, seed=0, **named):
    generator = torch.Generator().manual_seed(hash_of(shift, severity, seed))
    labels = labels_of(images)
    logits = torch.randn(images, CLASSES, generator=generator)
    hit = torch.rand(images, generator=generator) < accuracy
    logits[hit, labels[hit]] += 20
    return make_row(image_statistics(logits, labels), labels, CLASSES, shift=shift, severity=severity, **named)


def hash_of(shift, severity, seed):
    return int.from_bytes(f"{shift}/{severity}/{seed}".encode(), "big") % (2**63)


def benchmark_rows(accuracy=0.6, images=50, seed=0, **named):
    """Return clean and the 75 common conditions, harder with severity."""
    rows = [synthetic_row("clean", 0, accuracy + 0.3, images, seed, **named)]
    for shift in COMMON:
        rows += [synthetic_row(shift, s, accuracy - 0.1 * s, images, seed, **named) for s in range(1, 6)]
    return rows


def synthetic_record(**changes):
    record = {
        "statshift": "0.1.0",
        "model": {"spec": "cifar:resnet20", "weights_hash": "aaa", "preprocessing": {"mean": (0.5, 0.5, 0.5)}},
        "data": {"spec": "digits", "images": 50, "indices_hash": "i", "labels_hash": "l", "class_counts": [8, 7]},
        "shifts": ["clean", "fog"],
        "severities": [1, 2],
        "corruption": {"table": "cifar", "quantise": True, "reencode": False, "frost": "procedural"},
        "protocols": {"source": {}},
        "seed": 0,
        "dtype": "float32",
        "environment": {"device": "cpu", "batch_size": 32},
    }
    return record | changes


def per_image(row):
    """Return a row's bits by another road than the library's: text, digit by digit."""
    digits = "".join(f"{byte:08b}" for byte in base64.b64decode(row["bits"]))
    return np.array([digit == "1" for digit in digits[: row["images"]]])


def paired_by_hand(differences):
    """Return interval and p-value (low, high, p) of differences (N,) of the same images, after adding two images.

    One loses and one gains, by as much as images that differ do (root mean square), or by 1 where none differs.
    """
    differing = [d for d in differences if abs(d) > 1e-9]
    added = np.sqrt(sum(d * d for d in differing) / len(differing)) if differing else 1.0
    more = [*differences, added, -added]
    mean = sum(more) / len(more)
    error = np.sqrt(sum((d - mean) ** 2 for d in more)) / len(more)
    half = stats.norm.ppf(0.975) * error
    return max(mean - half, -1), min(mean + half, 1), 2 * stats.norm.sf(abs(mean) / error)
