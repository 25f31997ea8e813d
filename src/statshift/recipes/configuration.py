"""What a recipe is: by label, what to train and how, and what the authors found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statshift.corruptions import SEVERITIES
from statshift.hardening import HardenOptions

Figures = Mapping[str, float]
BASE = "base"
"""The label of the model as it was before."""

COLUMNS = {"clean": "clean", "mce": "mCE", "instagram": "Instagram", "sketch": "Sketch", "style": "Stylized"}
"""What the tables on AdvBN give: top-1 accuracy on ImageNet and its variants, and mCE on ImageNet-C."""


@dataclass(frozen=True)
class Network:
    """What `build` makes with random weights: `spec` and the `arguments` of the model."""

    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What to train, and what the authors found.

    Attributes:
        name: as in `RECIPES`.
        title: what it compares.
        source: paper, table or section.
        options: how to train, by label.
        published: by label, the figures in [0,1]; None where the authors have some that our copy of the paper does not
            print. A label that is not here is none of theirs, and one that is not in `options` is not trained. The keys
            are those of `COLUMNS`, or where networks train from random weights "clean", an attack, "corrupted" (the
            mean over corruptions) and "mce".
        note: in what ours and theirs differ, or what the paper leaves open.
        begins_with: labels whose training begins with the weights of another label's clean branch.
        networks: by label, what is trained from random weights; empty where a given model is fine-tuned.
        data: a spec, of the images to train and to measure on where none are given; "" is none.
        shifts: by label, what the result is measured under; the clean images and the 15 where nothing is said.
        severities: of these shifts.
        ligs: perturbations with which LIGS is measured, at the end and after each epoch.
        trend: shifts that are measured after each epoch, on a class-balanced 1,000 of the images; empty for none.
        walk: whether the landscape is walked after each epoch.
    """

    name: str
    title: str
    source: str
    options: Mapping[str, HardenOptions] = field(default_factory=dict)
    published: Mapping[str, Figures | None] = field(default_factory=dict)
    note: str = ""
    begins_with: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    data: str = ""
    shifts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    severities: Sequence[int] = SEVERITIES
    ligs: Sequence[str] = ()
    trend: Sequence[str] = ()
    walk: bool = False
