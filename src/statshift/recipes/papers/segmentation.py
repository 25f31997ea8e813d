"""Segmentation under shift: the experiments on AdvBN from scene to scene, and CamVid from day to dusk.

Figures are published ones only where our copies of the papers print them: those of the submission's Tables 5 and 6 are
not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from statshift.data.scenes import CONDITIONS
from statshift.hardening.from_scratch import IBN_NET
from statshift.hardening.methods.advbn import AdvBN
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.recipes.configuration import Recipe
from statshift.recipes.domains import DomainRecipe
from statshift.recipes.networks import Network
from statshift.recipes.papers.advbn import one_layer
from statshift.recipes.parts import DataPart
from statshift.recipes.sources import Figures, fraction
from statshift.shifts.attacks import FeatureAttack

SEGMENTED_AT = ("conv2_3",)
STEM = "maxpool"
"""Where MoEx, which trains what is behind its cut, leaves most to train."""

START = replace(IBN_NET, window=(713, 713))
"""The start, 80 epochs by IBN-Net's protocol, on windows as large as PSPNet's."""

TUNED = replace(START, epochs=30, learning_rate=0.001)
"""Fine-tuning, 30 epochs; the papers do not print its rate: a tenth of the start's is ours."""

NEW_YORK = tuple(f"new-york-{condition}" for condition in CONDITIONS)
HIGHWAY = tuple(f"highway-{condition}" for condition in CONDITIONS)

CAMVID = (0.41190, 0.42513, 0.43267), (0.27413, 0.28505, 0.28284)
"""Mean and deviation of CamVid's training frames, as ESPNet's authors have them."""

TABLE_3 = {
    "new-york-spring": """
baseline 52.7 49.5 49.7 65.9 48.2 18.6 21.0 16.9 21.6 15.3
pixel-at 54.6 50.7 50.2 65.8 49.7 21.2 28.0 20.4 26.3 21.4
advprop 52.3 48.9 48.0 71.9 48.2 18.9 22.0 13.8 24.3 17.5
moex 54.7 53.2 51.8 71.1 49.0 21.3 24.3 19.4 27.6 18.7
advbn 57.5 55.1 55.4 66.5 52.7 23.8 26.6 25.9 29.8 23.5
""",
    "highway-dawn": """
baseline 32.6 29.0 25.4 24.2 24.8 64.2 55.5 53.1 59.0 49.2
pixel-at 33.5 30.7 27.9 27.5 26.7 64.0 56.4 54.0 59.5 50.3
advprop 30.8 24.1 20.3 23.2 21.4 64.6 53.5 47.2 59.0 47.6
moex 32.0 27.5 27.6 29.6 26.7 64.6 57.2 57.0 61.0 51.1
advbn 34.0 31.6 29.6 30.7 29.1 64.5 57.2 56.4 61.2 53.2
""",
}
"""By what is trained on, mIoU on the five New York-like cities and the five highways."""

_OPEN = (
    "Window (713 px), scale and aspect of the start are ours, since IBN-Net's paper does not print them, and so is the "
    "rate of fine-tuning, 0.001."
)
_FRAMES = "Which frames the authors drew is not published: ours are drawn with seed 0."


def synthia_new_york(training: TrainingOptions | None = None, at: Sequence[str] = SEGMENTED_AT) -> Recipe:
    """Five ways to train on New York-like City in spring, measured on ten of SYNTHIA's sequences."""
    return _table_3("synthia-new-york", "new-york-spring", training, at)


def synthia_highway(training: TrainingOptions | None = None, at: Sequence[str] = SEGMENTED_AT) -> Recipe:
    """Five ways to train on Highway at dawn, measured on ten of SYNTHIA's sequences."""
    return _table_3("synthia-highway", "highway-dawn", training, at)


def opposite_new_york(training: TrainingOptions | None = None, at: Sequence[str] = SEGMENTED_AT) -> Recipe:
    """AdvBN on New York-like City in spring, measured on the highways."""
    return _table_6("synthia-new-york-opposite", "new-york-spring", HIGHWAY, training, at)


def opposite_highway(training: TrainingOptions | None = None, at: Sequence[str] = SEGMENTED_AT) -> Recipe:
    """AdvBN on Highway at dawn, measured on the New York-like cities."""
    return _table_6("synthia-highway-opposite", "highway-dawn", NEW_YORK, training, at)


def cityscapes_gta5(training: TrainingOptions | None = None, at: Sequence[str] = SEGMENTED_AT) -> Recipe:
    """AdvBN on Cityscapes, measured on GTA5."""
    return _of_the_submission(
        "cityscapes-gta5",
        "segmentation by AdvBN from Cityscapes to GTA5",
        {"submission": "Table 5"},
        training,
        at,
        classes=19,
        trained_on=DataPart(split="train"),
        domains={"cityscapes": DataPart(split="val"), "gta5": DataPart("validation", split="val")},
        wants="Cityscapes as cityscapes:DIR, and GTA5 as --validation gta5:DIR",
        note="Our copy prints the gains on GTA5, not the table: 8.2 points of mIoU and 11.3 of pixel accuracy. "
        "Frames are taken at their own size, where IBN-Net's authors make GTA5's 1024 x 563.",
    )


def camvid(training: TrainingOptions | None = None, at: Sequence[str] = ("layer1",)) -> Recipe:
    """A small dilated network of one's own from day to dusk: standard, AdvBN and pixel attacks at the same budget."""
    small: dict[str, Any] = {"batch_size": 8, "window": (192, 256), "aspect": 1.0}
    start = training or replace(START, epochs=60, learning_rate=0.05, **small)
    tuned = training or replace(START, epochs=4, learning_rate=0.01, **small)
    layer = one_layer("camvid", at)
    labels = ("start", "standard", "advbn", "pixel-at")
    network = Network("seg:resnet18", {"num_classes": 11, "width": 0.25}, mean=CAMVID[0], std=CAMVID[1])
    return DomainRecipe(
        "camvid",
        "segmentation of CamVid from day to dusk, hardened and rectified",
        note="No paper's: a small network from random weights, on the frames by day alone. "
        "`benchmarks/segmentation_hardening.py` compares more, with three seeds.",
        options={
            "start": HardenOptions("standard", training=start),
            "standard": HardenOptions("standard", layer, tuned),
            "advbn": HardenOptions(_advbn(3, 0.2, 0.5), layer, tuned),
            "pixel-at": HardenOptions("pixel-at", training=tuned),
        },
        networks=dict.fromkeys(labels, network),
        begins_with=dict.fromkeys(labels[1:], labels[0]),
        trained_on=DataPart(split="train-day"),
        domains={split: DataPart(split=split) for split in ("val-day", "test-day", "train-dusk")},
        loads={"ignore_index": 11},
        wants="CamVid's splits as seg:DIR, 11 classes and void",
        protocols=("auto",),
    )


SEGMENTATION: dict[str, Callable[..., Recipe]] = {
    "synthia-new-york": synthia_new_york,
    "synthia-highway": synthia_highway,
    "cityscapes-gta5": cityscapes_gta5,
    "synthia-new-york-opposite": opposite_new_york,
    "synthia-highway-opposite": opposite_highway,
    "camvid": camvid,
}
"""By name: NeurIPS 2021, the submission, and ours."""


def _table_3(name: str, source: str, training: TrainingOptions | None, at: Sequence[str]) -> Recipe:
    layer = one_layer(name, at)
    start, tuned = training or START, training or TUNED
    whole = training or replace(START, epochs=110)
    rows = [line.split() for line in TABLE_3[source].strip().splitlines()]
    return _recipe(
        name,
        f"segmentation from {source} to ten domains",
        {"advbn": "section 5.4, Table 3"},
        {
            "baseline": HardenOptions("standard", training=start),
            "pixel-at": HardenOptions("pixel-at", training=tuned),
            "advprop": HardenOptions("advprop", training=whole),
            "moex": HardenOptions("moex", STEM, whole),
            "advbn": HardenOptions(_advbn(3, 0.2, 0.5), layer, tuned),
        },
        {label: dict(zip((*NEW_YORK, *HIGHWAY), map(fraction, cells), strict=True)) for label, *cells in rows},
        begins_with=dict.fromkeys(("pixel-at", "advbn"), "baseline"),
        note=f"{_FRAMES} {_OPEN} Pixel attacks have the radius and step of 1/255 and 3 steps, as the paper's "
        '"tau = 1, epsilon = 1" is read here. MoEx cuts behind the first convolution, which stays as the file has it.',
        **_sequences(source, (*NEW_YORK, *HIGHWAY)),
    )


def _table_6(
    name: str, source: str, domains: Sequence[str], training: TrainingOptions | None, at: Sequence[str]
) -> Recipe:
    title, table = f"segmentation by AdvBN from {source} to the opposite scene", {"submission": "Table 6"}
    return _of_the_submission(name, title, table, training, at, note=_FRAMES, **_sequences(source, domains))


def _of_the_submission(
    name: str,
    title: str,
    source: Mapping[str, str],
    training: TrainingOptions | None,
    at: Sequence[str],
    *,
    note: str,
    **more: Any,
) -> Recipe:
    """Return what the submission compares: a start, and AdvBN upon it, with the same numbers on all data."""
    tuned = training or replace(TUNED, epochs=20)
    options = {
        "baseline": HardenOptions("standard", training=training or START),
        "advbn": HardenOptions(_advbn(4, 0.15, 0.4), one_layer(name, at), tuned),
    }
    begins_with = {"advbn": "baseline"}
    return _recipe(
        name, title, source, options, dict.fromkeys(options), begins_with=begins_with, note=f"{note} {_OPEN}", **more
    )


def _recipe(
    name: str,
    title: str,
    source: Mapping[str, str],
    options: Mapping[str, HardenOptions],
    published: Mapping[str, Figures | None],
    *,
    classes: int,
    **more: Any,
) -> Recipe:
    """Return a recipe of the papers' network, a dilated ResNet-50 that begins with a backbone of ImageNet's."""
    network = Network("seg:resnet50", {"num_classes": classes}, "backbone")
    networks, files = dict.fromkeys(options, network), {"backbone": ""}
    return DomainRecipe(name, title, source, published, options=options, networks=networks, files=files, **more)


def _sequences(source: str, domains: Sequence[str]) -> dict[str, Any]:
    """Return what is trained and measured on, sequences of SYNTHIA by scene and condition."""
    return {
        "classes": 13,
        "trained_on": DataPart(below=source, split="train"),
        "domains": {domain: DataPart(below=domain, split="test") for domain in domains},
        "wants": "SYNTHIA's video sequences as synthia:DIR",
    }


def _advbn(steps: int, step_size: float, epsilon: float) -> AdvBN:
    return AdvBN(FeatureAttack(steps=steps, step_size=step_size, epsilon=epsilon))
