"""Options that mean the same in every command."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from statshift._core.errors import InputError
from statshift.hardening.choices import AUGMENTATIONS
from statshift.measuring.choices import PERTURBATIONS
from statshift.shifts.registry import GROUPS
from statshift.tasks.registry import TASKS


def out(what: str, place: str = "Folder") -> Any:
    """Return the option `--out`, where `what` is written: into a folder, or to a file."""
    return typer.Option(help=f"{place} to write: {what}.", show_default=False)


def shifts(more: str, default: str) -> Any:
    """Return the option `--shifts`."""
    counted = {"common": " (the 15)", "holdout": " (the 4)"}
    groups = ", ".join(group + counted.get(group, "") for group in GROUPS)
    names = f"clean, {groups}, names, py:FILE:NAME"
    return typer.Option(help=f"Shifts, with commas: {names}{more}; default {default}.", show_default=False)


def steps(default: str) -> Any:
    """Return the option `--steps`."""
    return typer.Option(help=f"Steps of the ascent; default {default}.", show_default=False)


def step_size(default: str) -> Any:
    """Return the option `--step-size`."""
    return typer.Option(
        help=f"Length of each step, such as 0.1 or 1/255; default {default}.", metavar=NUMBER, show_default=False
    )


def epsilon(more: str) -> Any:
    """Return the option `--epsilon`."""
    return typer.Option(help=f"Radius, such as 0.25 or 1/255{more}.", metavar=NUMBER, show_default=False)


def attack(more: str, show_default: bool = True) -> Any:
    """Return the option `--attack`."""
    return typer.Option(help=f"The attack, as NAME:EPSILON[:STEPS]{more}.", show_default=show_default)


def method(names: Iterable[str]) -> Any:
    """Return the option `--method`."""
    return typer.Option(help=f"How to train: {', '.join(names)}, or py:FILE:NAME, a method of yours.")


def own(help: str, default: str) -> Any:
    """Return an option of some methods, with the default of each."""
    return typer.Option(help=f"{help}; default {default}.", show_default=False)


def learning_rate(more: str) -> Any:
    """Return the option `--learning-rate`."""
    return typer.Option(help=f"The highest learning rate; {more}.")


def like(option: Any) -> Any:
    """Return an option with the same text, and no default to show."""
    return typer.Option(help=option.__metadata__[0].help, show_default=False)


NUMBER = "<number>"
"""Stands for a number or a fraction; see `parse_number`."""

Model = Annotated[
    str,
    typer.Option(
        help="timm:NAME, torchvision:NAME@WEIGHTS_TAG, hf:NAME_OR_DIR, ibn:NAME, cifar:NAME, seg:NAME or "
        "py:FILE_OR_MODULE:FUNCTION.",
        show_default=False,
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Checkpoint: .pt .pth .th .tar .safetensors.")]
Branch = Annotated[
    str | None,
    typer.Option(help="Whose norms of --weights with two sets, clean or adv; default clean.", show_default=False),
]
MethodArgs = Annotated[
    list[str] | None,
    typer.Option(help="Option KEY=VALUE of the method, such as attack.steps=3; may be repeated."),
]
ModelArgs = Annotated[
    list[str] | None, typer.Option(help="Argument KEY=VALUE for whatever builds the model; may be repeated.")
]
Mean = Annotated[
    str | None,
    typer.Option(help="Mean of the three channels in [0,1]: R,G,B, or one number; fractions such as 127/255 too."),
]
Std = Annotated[str | None, typer.Option(help="Deviation of the three channels, likewise.")]
SizeMultiple = Annotated[
    int | None,
    typer.Option(help="Pad images to multiples of N px, and crop label maps back; default what the model needs."),
]
Data = Annotated[
    str,
    typer.Option(
        help="Images: digits, cifar10, cifar100, svhn, folder:DIR, folders:DIR,DIR, npz:FILE, "
        "webdataset:PATTERN, hf-datasets:DIR[:SPLIT], cifar-c:DIR, imagenet-c:DIR, or another test set of ImageNet's, "
        "such as imagenet-v2:DIR; "
        "with label maps: seg:DIR, cityscapes:DIR, gta5:DIR, synthia:DIR or voc:DIR.",
        show_default=False,
    ),
]
Decoder = Annotated[
    Path,
    typer.Option(help="File that `statshift decoder` wrote for the model; its cut is kept in it.", show_default=False),
]
Encoder = Annotated[
    Path | None,
    typer.Option(help="pytorch-AdaIN's vgg_normalised.pth, where --decoder is its decoder.pth.", show_default=False),
]
Styles = Annotated[Path, typer.Option(help="Folder of the images whose styles are taken.", show_default=False)]
DecoderOfShift = Annotated[
    Path | None,
    typer.Option(
        help="File that `statshift decoder` wrote, or pytorch-AdaIN's decoder.pth, for the shift stylised.",
        show_default=False,
    ),
]
EncoderOfShift = Annotated[
    Path | None,
    typer.Option(
        help="pytorch-AdaIN's vgg_normalised.pth, where --decoder is its decoder.pth; or the decoder's model by its "
        "spec, default the one that its file names.",
        show_default=False,
    ),
]
Alpha = Annotated[float, typer.Option(help="How far features go to a style's statistics, from 0 to 1.")]
StyleSize = Annotated[int, typer.Option(help="Side of a style image, px; its central square is taken.")]
AttackLoss = Annotated[
    str,
    typer.Option(
        help="Whose loss rises: rest (of the network, on the features), decoded (the model's, on the decoded image), "
        "or another model's on that, by its spec."
    ),
]
TargetData = Annotated[
    str, typer.Option(help="Images as the model now meets them, labels not needed: folder:DIR, ...", show_default=False)
]
Validation = Annotated[
    str | None, typer.Option(help="Labelled images to measure on, as in --data.", show_default=False)
]
ValidationSplit = Annotated[str | None, typer.Option(help="Which part of them, of data that have several.")]
KeepBest = Annotated[
    bool, typer.Option("--keep-best", help="Write best.safetensors too, of the epoch with the best validation score.")
]
Resize = Annotated[int | None, typer.Option(help="Shorter side after resizing, px.")]
Crop = Annotated[int | None, typer.Option(help="Side of the centre crop, px.")]
Interpolation = Annotated[str | None, typer.Option(help="Of the resizing: bilinear, bicubic, ...")]
ClassMap = Annotated[Path | None, typer.Option(help="File that maps class folders to the model's class indices.")]
Split = Annotated[str | None, typer.Option(help="Which part of the data, of those that have several.")]
IgnoreIndex = Annotated[
    int | None, typer.Option(help="Value of label maps whose pixels are left out; default 255.", show_default=False)
]
LabelMap = Annotated[Path | None, typer.Option(help="File that gives label maps other labels, as lines OLD NEW.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip image files that cannot be read, and count them.")]
Limit = Annotated[int | None, typer.Option(help="Take a class-balanced subset of N images.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that decode image files; default one a core with a GPU, else none.")
]
Cache = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of decoded images, which processes and later runs share, or none; default the user cache where "
        "they do not fit into memory or there are several processes.",
        show_default=False,
    ),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What that folder may take, such as 20GB; default half of what is free on the disk.",
        show_default=False,
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(help="YAML or JSON file of groups, NAME: [SHIFT, ...], that --shifts may name and tables have."),
]
Severities = Annotated[str, typer.Option(help="Of 1 to 5, separated by commas.")]
Seed = Annotated[int, typer.Option(help="Of every random draw.")]
Table = Annotated[str | None, typer.Option(help="Constants: imagenet or cifar; by default CIFAR's below 64 px.")]
ScaleConstants = Annotated[
    str,
    typer.Option(help="Scale ImageNet's constants with the images: yes, or no for the same pixels at any size."),
]
Frost = Annotated[Path | None, typer.Option(help="Folder of the frost photographs; else STATSHIFT_FROST.")]
Samples = Annotated[int, typer.Option(help="Images to adapt on or to look at; of a stream, a batch.")]
Statistics = Annotated[str, typer.Option(help="Rewrite both, mean or var.")]
Where = Annotated[
    str, typer.Option(help="Rewrite all norm layers, those of a third (front, middle, end), or a pattern of names.")
]
Unbiased = Annotated[bool, typer.Option("--unbiased", help="Write the unbiased variance, as torch's cumulative mode.")]
Ligs = Annotated[
    str | None,
    typer.Option(help=f"Local Input Gradient Similarity too, under {', '.join(PERTURBATIONS)}.", show_default=False),
]
Task = Annotated[
    str | None,
    typer.Option(
        help=f"What labels are of: {', '.join(TASKS)} or py:FILE:NAME; default what the data hold.", show_default=False
    ),
]
OwnTask = Annotated[
    str | None,
    typer.Option(help="What labels are of, in runs of a task of your own: py:FILE:NAME.", show_default=False),
]
Epochs = Annotated[int, typer.Option(help="Passes over the images.")]
StepImages = Annotated[int, typer.Option(help="Images in a step, over all processes.")]
WeightDecay = Annotated[float, typer.Option(help="Of all parameters.")]
Augment = Annotated[str, typer.Option(help=f"{', '.join(AUGMENTATIONS)}.")]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="WIDTHxHEIGHT", help="Of label maps: what is cut out of each image, px; default the images' own size."
    ),
]
Scale = Annotated[
    str | None, typer.Option(metavar="LEAST,GREATEST", help="Of label maps: factors of random scaling; default 0.5,2.")
]
Aspect = Annotated[float, typer.Option(help="Of label maps: by how much width over height changes at most.")]
Colour = Annotated[
    float, typer.Option(help="Of label maps: by how much brightness, contrast and saturation change at most.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
AttackDtype = Annotated[
    str | None, typer.Option(help="What an attack's passes run in, where the rest is float32: bfloat16 or float16.")
]
Compiled = Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document, fractions not percent; nothing else.")
]


def data_options(*, limit: int | None, seed: int, skip_bad: bool, **others: Any) -> dict[str, Any]:
    """Return arguments of `load_data`, None where not given; a seed is that of a subset, where there is one."""
    return {**others, "limit": limit, "seed": seed if limit is not None else None, "skip_bad": skip_bad or None}


def codec(decoder: Path, encoder: Path | None, device: str) -> Any:
    """Return the decoder's file, or with pytorch-AdaIN's encoder both on a device."""
    if encoder is None:
        return decoder
    from statshift.decoding.adain_files import adain_codec
    from statshift.measuring.loading import find_device

    return adain_codec(encoder, decoder, find_device(device))


def style_options(decoder: Path | None, styles: Path | None, **others: Any) -> Any:
    """Return how the shift stylised is made, or None where it is not asked for."""
    if decoder is None and styles is None:
        return None
    if decoder is None or styles is None:
        given, other = ("--styles", "--decoder") if decoder is None else ("--decoder", "--styles")
        raise InputError(f"Expected {other} beside {given}: the shift stylised needs both.")
    from statshift.shifts.shift import StyleOptions

    return StyleOptions(decoder, styles, **others)
