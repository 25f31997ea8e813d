"""The methods that ship, told without importing them."""

from statshift._core.registry import Entry, registry

FINE_TUNING, FROM_SCRATCH, EITHER = "fine-tuning", "from random weights", "either"
"""The families: methods that fine-tune a model, that train one from random weights, and that do either."""

_PLACE = "statshift.hardening.methods"

METHODS = registry(
    Entry(
        "advbn", FINE_TUNING, "Shu et al., NeurIPS 2021", f"{_PLACE}.advbn:AdvBN", title="AdvBN", options=("attack",)
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
    ),
    Entry(
        "advprop",
        FINE_TUNING,
        "Xie et al., CVPR 2020",
        f"{_PLACE}.auxiliary:AdvProp",
        title="AdvProp",
        options=("attack",),
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
    ),
    Entry(
        "corrupted",
        FROM_SCRATCH,
        "images under one corruption, the upper bound of Benz et al., WACV 2021, section 6.4",
        f"{_PLACE}.corrupted:Corrupted",
        title="corruption-trained",
        options=("corruption", "severity"),
    ),
    Entry(
        "ligs",
        FROM_SCRATCH,
        "Local Input Gradient Similarity as a regularizer, Benz et al., ICLR 2021 submission, section 4.1",
        f"{_PLACE}.ligs:LigsRegularised",
        title="LIGS-regularised",
        options=("ligs", "weight"),
    ),
)
"""The methods by name."""

FINE_TUNED = tuple(name for name, entry in METHODS.items() if entry.family != FROM_SCRATCH)
"""Those that `statshift harden` offers."""

TRAINED = tuple(name for name, entry in METHODS.items() if entry.family != FINE_TUNING)
"""Those that `statshift train` offers."""
