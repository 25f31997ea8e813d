"""The shifts that ship, told without torch.

Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(ICLR 2019), section 3.2 and appendix B, for the corruptions and their families; Mintun et al., "On Interaction Between
Augmentations and Corruptions in Natural Corruption Robustness" (NeurIPS 2021), for those of C-bar.
"""

from collections.abc import Mapping

from statshift._core.registry import Entry, members, registry

_CORRUPTIONS = "statshift.shifts.corruptions"
_BAR = "statshift.shifts.bar"
_IMAGENET_C_BAR, _CIFAR_C_BAR = "imagenet-c-bar", "cifar-c-bar"
_ATTACKS = "statshift.shifts.attacks.catalogue"
_STEPPED = ("epsilon", "steps", "step_size", "target", "random_start")


def _corruption(name: str, kind: str, group: str, summary: str, module: str = "") -> Entry:
    """Return the entry of a corruption of a kind, such as "noise"; the group is "common" or "holdout"."""
    path = f"{_CORRUPTIONS}.{module or kind}:{name}"
    return Entry(name, "corruption", summary, path, groups=(group, kind))


def _bar(name: str, module: str, summary: str, *groups: str) -> Entry:
    """Return the entry of a corruption of C-bar, of the groups given."""
    return Entry(name, "c-bar", summary, f"{_BAR}.{module}:{name}", groups=groups)


def _attack(name: str, attribute: str, summary: str, options: tuple[str, ...] = ("epsilon",)) -> Entry:
    return Entry(name, "attack", summary, f"{_ATTACKS}:{attribute}", options=options)


_EARLY = (
    *("1977", "amaro", "brannan", "earlybird", "gotham-im", "hefe", "hudson", "inkwell", "kelvin", "lofi", "mayfair"),
    *("nashville", "poprocket", "rise", "sierra", "sutro", "toaster", "valencia", "walden", "willow", "xpro2"),
)
"""Filters with the names of early Instagram's."""


def _filters(module: str, summary: str, *names: str) -> list[Entry]:
    """Return the entries of a module's filters; those of early Instagram are a group of their own too."""
    return [
        Entry(
            name,
            "filter",
            summary,
            f"statshift.shifts.filters.{module}:{'_1977' if name == '1977' else name.replace('-', '_')}",
            groups=("filters", "instagram") if name in _EARLY else ("filters",),
        )
        for name in names
    ]


def _set(name: str, family: str, summary: str) -> Entry:
    path = f"statshift.shifts.natural:{name.upper().replace('-', '_')}_SET"
    return Entry(name, family, summary, path, options=("dir",))


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
    _bar("blue_noise_sample", "noise", "Pixels blackened by blue noise.", _IMAGENET_C_BAR, _CIFAR_C_BAR),
    _bar("plasma_noise", "waves", "Coloured plasma.", _IMAGENET_C_BAR),
    _bar("checkerboard_cutout", "covers", "Squares of a turned board greyed.", _IMAGENET_C_BAR, _CIFAR_C_BAR),
    _bar("cocentric_sine_waves", "waves", "Rings about a point.", _IMAGENET_C_BAR),
    _bar("single_frequency_greyscale", "waves", "One sine wave.", _IMAGENET_C_BAR),
    _bar("brownish_noise", "noise", "Noise of low frequencies.", _IMAGENET_C_BAR, _CIFAR_C_BAR),
    _bar("perlin_noise", "waves", "Clouds of Perlin's turbulence.", _IMAGENET_C_BAR),
    _bar("inverse_sparkles", "sparkles", "White but for the rays of one point.", _IMAGENET_C_BAR, _CIFAR_C_BAR),
    _bar("sparkles", "sparkles", "Five points of white rays.", _IMAGENET_C_BAR, _CIFAR_C_BAR),
    _bar("caustic_refraction", "warps", "Through moving water.", _IMAGENET_C_BAR),
    _bar("pinch_and_twirl", "warps", "Disks pinched and turned.", _CIFAR_C_BAR),
    _bar("ripple", "warps", "Rows and columns moved by waves.", _CIFAR_C_BAR),
    _bar("circular_motion_blur", "lenses", "A camera that turns about its axis.", _CIFAR_C_BAR),
    _bar("lines", "covers", "Grey lines across the image.", _CIFAR_C_BAR),
    _bar("transverse_chromatic_abberation", "lenses", "Colours of different sizes.", _CIFAR_C_BAR),
    *_filters(
        *("cssgram", "A photo filter of CSSgram, as pilgram computes it."),
        *("1977", "aden", "brannan", "brooklyn", "clarendon", "earlybird", "gingham", "hudson", "inkwell", "kelvin"),
        *("lark", "lofi", "maven", "mayfair", "moon", "nashville", "perpetua", "reyes", "rise", "slumber", "stinson"),
        *("toaster", "valencia", "walden", "willow", "xpro2"),
    ),
    *_filters("instagram_css", "A photo filter of CSSgram, as pilgram2 computes it.", "aden-pilgram2"),
    *_filters(
        *("instagram_css", "A photo filter of instagram.css, as pilgram2 computes it."),
        *("amaro", "ashby", "charmes", "crema", "dogpatch", "ginza", "hefe", "helena", "juno", "ludwig", "poprocket"),
        *("sierra", "skyline", "sutro"),
    ),
    *_filters(
        *("imagemagick", "A photo filter in the steps of ImageMagick's commands."),
        *("gotham-im", "kelvin-im", "lomo-im", "nashville-im", "toaster-im"),
    ),
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

C_BAR = tuple(name for name in members(SHIFTS, "c-bar") if not SHIFTS[name].options)
"""The corruptions of ImageNet-C-bar and CIFAR-10-C-bar, ten each; five are of both."""

FILTERS = members(SHIFTS, "filters")
"""The names of the photo filters."""

INSTAGRAM = members(SHIFTS, "instagram")
"""Those of them that stand for a filter of early Instagram, of which ImageNet-Instagram was made."""

GROUPS = {
    "common": COMMON,
    "holdout": HOLDOUT,
    **{group: members(SHIFTS, group) for group in (_IMAGENET_C_BAR, _CIFAR_C_BAR)},
    "filters": FILTERS,
    "instagram": INSTAGRAM,
}
"""By the name by which a user asks for all of them."""

KINDS = {kind: members(SHIFTS, kind) for kind in ("noise", "blur", "weather", "digital")}
"""The corruptions by kind."""


MEAN_FAMILIES = {
    "corruption": "corruption",
    "holdout": "held-out corruption",
    "own corruption": "own corruption",
    "c-bar": "c-bar",
    "filter": "filter",
    "style": "style",
    "natural": "natural",
    "attack": "attack",
    "own": "own",
}
"""Families that means are over, in order, as a table calls them: corruptions are the benchmark's 15 alone."""

WITHOUT_MEAN = ("natural",)
"""Families without a mean: each member shows other things."""


def mean_family(name: str, family: str) -> str:
    """Return the family whose mean a shift counts in: its own, but of corruptions that are not of the 15 another."""
    if family != "corruption" or name in COMMON:
        return family
    return "holdout" if name in HOLDOUT else "own corruption"


def averaged(families: Mapping[str, str]) -> list[str]:
    """Return the shifts that one mean may be over, of shifts with their families: those of a single family.

    That is the common corruptions, where there are any, else others; none where families stand side by side without
    corruptions.
    """
    there = {name: mean_family(name, family) for name, family in families.items() if family != "clean"}
    corruptions = [family for family in ("corruption", "holdout", "own corruption") if family in there.values()]
    chosen = [*corruptions, *there.values()][:1]
    of_one = [name for name, family in there.items() if family in chosen]
    return of_one if corruptions or len(of_one) == len(there) else []


def family_of(name: str) -> str:
    """Return the family of a shift that ships, whatever its numbers; "own" of any other."""
    entry = SHIFTS.get(name.partition(":")[0])
    return entry.family if entry else "own"
