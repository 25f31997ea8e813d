"""Training on stylised and original images, which AdvBN is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from statshift._core.errors import InputError
from statshift.hardening.options import HardenOptions
from statshift.hardening.training import TrainingOptions
from statshift.recipes.configuration import Recipe
from statshift.recipes.papers.advbn import PAPERS_TRAINING
from statshift.recipes.papers.variants import PRETRAINED, VARIANTS_TABLE
from statshift.recipes.sources import BASE, STYLE_SETS
from statshift.recipes.training import TrainingRecipe


def sin(training: TrainingOptions = PAPERS_TRAINING, at: Sequence[str] = ()) -> Recipe:
    """A model fine-tuned on images and on the same images with others' styles."""
    if at:
        raise InputError(f"Expected no layer for the recipe sin, which trains the whole network, but got {at[0]}.")
    return TrainingRecipe(
        "sin",
        "training on stylised and original images",
        {"advbn": "Table 1"},
        {label: VARIANTS_TABLE[label] for label in (BASE, "sin")},
        "Make the images by `statshift make stylised`, and give --data folders:OUT/stylised,TRAIN. The published model "
        "is Geirhos et al.'s, trained from random weights on paintings' styles and then on ImageNet alone; here the "
        "model given fine-tunes on both at once. Its last column is of Stylized-ImageNet, which is not what is made "
        "here.",
        data_set="ImageNet",
        sets=STYLE_SETS,
        wants="folders:STYLISED,ORIGINAL, two folders with the same classes, and ImageNet's val as folder:DIR",
        options={"sin": HardenOptions("standard", training=replace(training, augment="standard"))},
        model=PRETRAINED,
    )


SIN: dict[str, Callable[..., Recipe]] = {"sin": sin}
"""By name."""
