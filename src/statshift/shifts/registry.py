"""The shifts that ship, told without torch.

Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(ICLR 2019), section 3.2 and appendix B, for the corruptions and their families.
"""

from collections.abc import Mapping

from statshift._core.registry import Entry, members, registry

_CORRUPTIONS = "statshift.shifts.corruptions"
_ATTACKS = "statshift.shifts.attacks.catalogue"
_STEPPED = ("epsilon", "steps", "step_size", "target", "random_start")


def _corruption(name: str, kind: str, group: str, summary: str, module: str = "") -> Entry:
    """Return the entry of a corruption of a kind, such as "noise"; the group is "common" or "holdout"."""
    path = f"{_CORRUPTIONS}.{module or kind}:{name}"
    return Entry(name, "corruption", summary, path, groups=(group, kind))


def _attack(name: str, attribute: str, summary: str, options: tuple[str, ...] = ("epsilon",)) -> Entry:
    return Entry(name, "attack", summary, f"{_ATTACKS}:{attribute}", options=options)


def _set(name: str, family: str, summary: str) -> Entry:
    return Entry(name, family, summary, "statshift.shifts.natural:NATURAL", options=("dir",))


SHIFTS = registry(
    Entry("clean", "clean", "The images as they are.", "statshift.shifts.clean:CLEAN_IMAGES"),
    _corruption("gaussian_noise", "noise", "common", "Normal noise, as of dim light."),
    _corruption("shot_noise", "noise", "common", "Poisson noise, as of few photons."),
    _corruption("impulse_noise", "noise", "common", "Salt and pepper, as of broken bits."),
    _corruption("defocus_blur", "blur", "common", "Out of focus."),
    _corruption("glass_blur", "blur", "common", "Through frosted glass."),
    _corruption("motion_blur", "blur", "common", "A camera that moves."),
    _corruption("zoom_blur", "blur", "common", "A camera that nears."),
    _corruption("snow", "weather", "common", "Falling snow."),
    _corruption("frost", "weather", "common", "Ice on the lens, of photographs."),
    _corruption("fog", "weather", "common", "Clouds of the diamond-square algorithm."),
    _corruption("brightness", "weather", "common", "Daylight that varies.", "digital"),
    _corruption("contrast", "digital", "common", "Light that varies."),
    _corruption("elastic_transform", "digital", "common", "Small regions stretched and contracted."),
    _corruption("pixelate", "digital", "common", "Enlarged from a low resolution."),
    _corruption("jpeg_compression", "digital", "common", "Lossy compression."),
    _corruption("speckle_noise", "noise", "holdout", "Normal noise that grows with the light."),
    _corruption("gaussian_blur", "blur", "holdout", "Low-pass filtered."),
    _corruption("spatter", "weather", "holdout", "Water or mud on the lens.", "spatter"),
    _corruption("saturate", "digital", "holdout", "Colours more or less saturated."),
    Entry("stylised", "style", "With another image's style, by AdaIN.", "statshift.shifts.stylised:STYLISED"),
    _set("imagenet", "natural", "Any folder of class folders by WordNet id."),
    _set("imagenet-sketch", "natural", "ImageNet-Sketch (Wang et al., NeurIPS 2019)."),
    _set("imagenet-r", "natural", "ImageNet-R: renditions of 200 classes (Hendrycks et al., ICCV 2021)."),
    _set("imagenet-a", "natural", "ImageNet-A: photographs of 200 classes that a ResNet-50 got wrong (CVPR 2021)."),
    _set("imagenet-v2", "natural", "ImageNet-V2, any of its three versions (Recht et al., ICML 2019)."),
    _set("objectnet", "natural", "ObjectNet: 113 shared classes, unusual poses (Barbu et al., NeurIPS 2019)."),
    _set("imagenet-instagram", "filter", "ImageNet-Instagram: 20 filters (Wu et al., CVPRW 2020)."),
    _set("stylized-imagenet", "style", "Stylized-ImageNet as published (Geirhos et al., ICLR 2019)."),
    _set("imagenet-c-bar", "c-bar", "ImageNet-C-bar as published: 10 corruptions (Mintun et al., NeurIPS 2021)."),
    _attack("fgsm", "FGSM", "One step of the gradient's sign (Goodfellow et al., ICLR 2015)."),
    _attack("pgd-linf", "PGD_LINF", "Projected ascent in the maximum norm (Madry et al., ICLR 2018).", _STEPPED),
    _attack("pgd-l2", "PGD_L2", "Projected ascent in L2 (Madry et al., ICLR 2018).", _STEPPED),
    _attack("cw-linf", "CW_LINF", "The margin's ascent in the maximum norm (Carlini & Wagner, S&P 2017).", _STEPPED),
    _attack("cw-l2", "CW_L2", "The margin's ascent in L2 (Carlini & Wagner, S&P 2017).", _STEPPED),
    _attack("autoattack-linf", "AUTOATTACK_LINF", "The ensemble, in the maximum norm (Croce & Hein, ICML 2020)."),
    _attack("autoattack-l2", "AUTOATTACK_L2", "The ensemble, in L2 (Croce & Hein, ICML 2020)."),
)

CORRUPTIONS = members(SHIFTS, "corruption")
"""The names of the common-corruption benchmark's 19, in its order."""

COMMON = members(SHIFTS, "common")
"""The 15 of them that its means are over."""

HOLDOUT = members(SHIFTS, "holdout")
"""The 4 others."""

ATTACKS = members(SHIFTS, "attack")
"""The names of the attacks, which a spec gives their numbers."""

GROUPS = {"common": COMMON, "holdout": HOLDOUT}
"""By the name by which a user asks for all of them."""

KINDS = {kind: members(SHIFTS, kind) for kind in ("noise", "blur", "weather", "digital")}
"""The corruptions by kind."""


def averaged(families: Mapping[str, str]) -> list[str]:
    """Return the shifts that one mean may be over, of shifts with their families: those of a single family.

    That is the corruptions, where there are any; none where families stand side by side without corruptions.
    """
    there = [name for name, family in families.items() if family != "clean"]
    chosen = "corruption" if "corruption" in families.values() else families[there[0]] if there else ""
    of_one = [name for name in there if families[name] == chosen]
    return of_one if chosen == "corruption" or len(of_one) == len(there) else []


def family_of(name: str) -> str:
    """Return the family of a shift that ships, whatever its numbers; "own" of any other."""
    entry = SHIFTS.get(name.partition(":")[0])
    return entry.family if entry else "own"
