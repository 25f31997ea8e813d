"""The methods that ship, told without importing them."""

from collections.abc import Iterable

from statshift._core.registry import Entry, registry

FINE_TUNING, FROM_SCRATCH, EITHER = "fine-tuning", "from random weights", "either"
"""The families: methods that fine-tune a model, that train one from random weights, and that do either."""

_PLACE = "statshift.hardening.methods"

METHODS = registry(
    Entry(
        "advbn",
        FINE_TUNING,
        "Shu et al., NeurIPS 2021",
        f"{_PLACE}.advbn:AdvBN",
        title="AdvBN",
        options=("attack",),
        flags={
            "steps": "6",
            "step-size": "0.2",
            "epsilon": "steps * step size - 0.1",
            "form": "multiplicative",
            "part": "both",
            "no-clamp": "",
            "perturbation": "global",
        },
    ),
    Entry(
        "standard",
        EITHER,
        "fine-tuning on the images alone",
        f"{_PLACE}.standard:Standard",
        title="fine-tuned",
    ),
    Entry(
        "pixel-at",
        FINE_TUNING,
        "PGD on the images (Madry et al., ICLR 2018) with auxiliary norms, as in Shu et al., section 5.1",
        f"{_PLACE}.auxiliary:PixelAT",
        title="pixel-level adversarial training",
        options=("attack",),
        flags={"steps": "3", "step-size": "1/255", "epsilon": "1/255"},
    ),
    Entry(
        "advprop",
        FINE_TUNING,
        "Xie et al., CVPR 2020",
        f"{_PLACE}.auxiliary:AdvProp",
        title="AdvProp",
        options=("attack",),
        flags={"steps": "5", "step-size": "1/255", "epsilon": "4/255"},
    ),
    Entry(
        "moex",
        FINE_TUNING,
        "Li et al., CVPR 2021",
        f"{_PLACE}.moex:MoEx",
        title="MoEx",
        options=("share", "probability"),
    ),
    Entry("cutmix", EITHER, "Yun et al., ICCV 2019", f"{_PLACE}.cutmix:CutMix", title="CutMix"),
    Entry(
        "adversarial",
        EITHER,
        "Madry et al., ICLR 2018: PGD on the images, which alone are trained on, by one set of norms",
        f"{_PLACE}.adversarial:Adversarial",
        title="adversarially trained",
        options=("attack",),
        flags={"steps": "7", "step-size": "0.1", "epsilon": "0.5", "attack": "pgd-l2:0.5:7"},
    ),
    Entry(
        "corrupted",
        FROM_SCRATCH,
        "images under one corruption, the upper bound of Benz et al., WACV 2021, section 6.4",
        f"{_PLACE}.corrupted:Corrupted",
        title="corruption-trained",
        options=("corruption", "severity"),
        flags={"corruption": "NAME:3"},
    ),
    Entry(
        "ligs",
        FROM_SCRATCH,
        "Local Input Gradient Similarity as a regularizer, Benz et al., ICLR 2021 submission, section 4.1",
        f"{_PLACE}.ligs:LigsRegularised",
        title="LIGS-regularised",
        options=("ligs", "weight"),
        flags={"ligs-weight": "1"},
    ),
)
"""The methods by name."""

FINE_TUNED = tuple(name for name, entry in METHODS.items() if entry.family != FROM_SCRATCH)
"""Those that `statshift harden` offers."""

TRAINED = tuple(name for name, entry in METHODS.items() if entry.family != FINE_TUNING)
"""Those that `statshift train` offers."""


def defaults(flag: str, names: Iterable[str]) -> str:
    """Return in words what a flag is by default, by method, as "advbn 6, pixel-at 3"."""
    return ", ".join(f"{name} {METHODS[name].flags[flag]}" for name in names if flag in METHODS[name].flags)
