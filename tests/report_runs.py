"""Run directories made of bits that a test chooses, without a model."""

import base64
import json

import numpy as np

from statshift.report.content import Fold

COMMON = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
BENCHMARK = [("clean", 0), *((shift, severity) for shift in COMMON for severity in range(1, 6))]
IMAGES = 160
LAYERS = {"kind": "layers", "samples": 32, "evaluated_on": "the other images"}


def draw(conditions, accuracy, images=IMAGES, seed=0):
    """Return by condition random bits; images differ in how hard they are, which all conditions share."""
    generator = np.random.default_rng(seed)
    hard = generator.uniform(-0.15, 0.15, images)
    wanted = accuracy if callable(accuracy) else lambda shift, severity: accuracy - 0.05 * (severity - 1)
    return {one: generator.random(images) < np.clip(wanted(*one) + hard, 0, 1) for one in conditions}


def better(bits, share, seed=1):
    """Return bits of which a share of the wrong ones are right."""
    generator = np.random.default_rng(seed)
    return {one: right | (generator.random(len(right)) < share) for one, right in bits.items()}


def worse(bits, share, seed=2):
    """Return bits of which a share of the right ones are wrong."""
    generator = np.random.default_rng(seed)
    return {one: right & (generator.random(len(right)) >= share) for one, right in bits.items()}


def counts(right):
    """Return what a row counts, over ten classes in turn, all confidences 0.5."""
    classes = np.bincount(np.arange(len(right))[right] % 10, minlength=10).tolist()
    bins = [0] * 15
    return {
        "images": len(right),
        "correct": int(right.sum()),
        "correct_top5": len(right),
        "cross_entropy_sum": 1.0,
        "class_correct": classes,
        "calibration": {
            "counts": [*bins[:-1], len(right)],
            "correct": [*bins[:-1], int(right.sum())],
            "confidence_sums": [0.0] * 14 + [len(right) / 2],
        },
        "bits": base64.b64encode(np.packbits(right).tobytes()).decode(),
    }


def rows_of(bits, protocol="source", draw=0, left_out=(), source=None):
    rows = []
    for (shift, severity), right in bits.items():
        kept = np.setdiff1d(np.arange(len(right)), left_out)
        row = {"protocol": protocol, "shift": shift, "severity": severity, "draw": draw} | counts(right[kept])
        if source is not None:
            adapted = sorted(int(one) for one in left_out)
            row |= {"adapted_on": adapted, "left_out": adapted, "class_images": [len(kept) // 10 + 1] * 10}
            row["paired_source"] = counts(source[shift, severity][kept])
        rows.append(row)
    return rows


def record_of(images=IMAGES, **changes):
    record = {
        "model": {
            "spec": "cifar:resnet20",
            "arguments": {},
            "weights_hash": "aaaa",
            "made_by": None,
            "norms": {"BatchNorm2d, eps 1e-05": 19},
            "preprocessing": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        },
        "data": {
            "spec": "npz:test.npz",
            "images": images,
            "shape": [3, 32, 32],
            "indices_hash": f"i{images}",
            "labels_hash": f"l{images}",
            "content_hash": "c",
            "classes": 10,
            "class_counts": [images // 10] * 10,
            "preprocessing": {"resize": None, "crop": None},
            "counts": {"skipped": 0},
        },
        "corruption": {
            "table": "cifar",
            "quantise": True,
            "reencode": False,
            "frost": "photographs f",
            "at": "benchmark",
        },
        "alexnet": "cifar10",
        "shifts": ["clean", *COMMON],
        "functions": {},
        "severities": [1, 2, 3, 4, 5],
        "protocols": {"source": {}},
        "seed": 0,
        "dtype": "float32",
        "environment": {"versions": {"statshift": "0.1.0", "torch": "2.15.0"}, "device": "x86_64"},
    }
    for section, change in changes.items():
        old = record.get(section)
        record[section] = old | change if isinstance(old, dict) and isinstance(change, dict) else change
    return record


def write_run(path, record, rows, **files):
    """Write a run directory; `files` are further JSON files by stem."""
    path.mkdir(parents=True)
    (path / "record.json").write_text(json.dumps(record))
    (path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (path / "timings.jsonl").write_text("".join(f"{json.dumps({'seconds': 0.5})}\n" for _ in rows))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def adapted_run(path, bits, protocols, left_out=tuple(range(0, 64, 2)), draws=1, record=None, **files):
    """Write a run with the source's bits and those of protocols, held out at `left_out` shifted by the draw."""
    rows = rows_of(bits)
    for name, own in protocols.items():
        for number in range(draws):
            places = [one + number for one in left_out]
            rows += rows_of(own, name, number, places, bits)
    described = {"source": {}} | dict.fromkeys(protocols, LAYERS)
    record = (record or record_of(len(next(iter(bits.values()))))) | {"protocols": described}
    return write_run(path, record, rows, **files)


def blocks_of(page):
    """Return by name all blocks, folds and those in them."""
    outer = [block for section in page.sections for block in section.blocks]
    inner = [block for fold in outer if isinstance(fold, Fold) for block in fold.blocks]
    return {block.name: block for block in [*outer, *inner]}


def column(table, label):
    place = [one.label for one in table.columns].index(label)
    return [row[place] for row in table.rows]


STREAM = {"kind": "continual", "spec": "continual", "batch": 16, "bins": 20, "clean_last": True}
SEVERAL = ("continual", "gradual", "mixed")
"""Kinds of stream that go through all conditions in one passage."""


def stream_of_bits(conditions, images, kind="continual", seed=0, bins=20):
    """Return by condition the bin (N,) of each image: of a passage through all, clean images last, or of its own."""
    generator, places = np.random.default_rng(seed), {}
    if kind not in SEVERAL:
        return {one: generator.permutation(images) * bins // images for one in conditions}
    ordered = sorted(conditions, key=lambda one: one[0] == "clean")
    turns = np.arange(len(ordered) * images)
    if kind == "mixed":
        shifted = (len(ordered) - any(one[0] == "clean" for one in ordered)) * images
        turns[:shifted] = generator.permutation(shifted)
    for number, one in enumerate(ordered):
        places[one] = turns[number * images : (number + 1) * images] * bins // len(turns)
    return places


def stream_rows(bits, source, protocol, places, draw=0, bins=20):
    """Return a protocol's rows of a stream, counted image by image."""
    rows = []
    for row in rows_of(bits, protocol, draw, source=source):
        one = row["shift"], row["severity"]
        sums = [[0, 0, 0] for _ in range(bins)]
        for place, right, before in zip(places[one], bits[one], source[one], strict=True):
            sums[place] = [sums[place][0] + 1, sums[place][1] + int(right), sums[place][2] + int(before)]
        along = [[place, *values] for place, values in enumerate(sums) if values[0]]
        rows.append({name: row[name] for name in row if name not in ("adapted_on", "left_out")} | {"along": along})
    return rows


def stream_run(path, bits, protocols, kind="continual", draws=1, record=None, **stream):
    """Write a run of a stream: the source's bits, and those of protocols by name."""
    conditions, images = list(bits), len(next(iter(bits.values())))
    rows = rows_of(bits)
    for name, own in protocols.items():
        for number in range(draws):
            rows += stream_rows(own, bits, name, stream_of_bits(conditions, images, kind, number), number)
    several = kind in SEVERAL
    order = sorted(conditions, key=lambda one: one[0] == "clean")
    told = STREAM | {"kind": kind, "spec": kind, "clean_last": several and ("clean", 0) in conditions}
    told |= {"order": [list(one) for one in order]} if several else {}
    described = {name: {"kind": "stream", "samples": 16, "evaluated_on": "all images"} for name in protocols}
    record = (record or record_of(images)) | {"protocols": {"source": {}} | described, "stream": told | stream}
    return write_run(path, record, rows)
