"""Image classifiers of Hugging Face's transformers, from the hub or a folder, with their own preprocessing."""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from warnings import warn

from torch import nn

from statshift._core.errors import CheckpointWarning, InputError
from statshift.models.pixel import Preprocessing
from statshift.models.reading import few

PIL_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL's numbers."""

STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
"""What `Preprocessing` can say of what processors do."""

WITHOUT_EFFECT = ("do_convert_rgb", "do_reduce_labels")
"""What changes no picture of a classifier."""


def build_hub(name: str, pretrained: bool, args: dict[str, Any]) -> tuple[nn.Module, Preprocessing, int | None]:
    """Return an image classifier, what it expects of images, and its number of classes.

    Args:
        name: of a repository on the hub, or a folder that `save_pretrained` wrote.
        pretrained: False: random weights.
        args: of its configuration, such as `num_labels`.

    Raises:
        InputError: transformers is not installed, there is no such model, it is no image classifier, some of its
            weights are not in its file, or its preprocessing is none that `Preprocessing` can say.
    """
    try:
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise InputError("hf:NAME_OR_DIR needs transformers: pip install 'statshift[hf]'.") from error
    spec = f"hf:{name}"
    try:
        config = transformers.AutoConfig.from_pretrained(name, **args)
        processor = transformers.AutoImageProcessor.from_pretrained(name)
        unset = {step: None for step in STEPS if hasattr(processor, step)}  # of which `to_dict` is silent
        wishes = unset | processor.to_dict()
        factory = transformers.AutoModelForImageClassification
        if not pretrained:
            network = factory.from_config(config)
        else:
            network, told = factory.from_pretrained(
                name, config=config, output_loading_info=True, ignore_mismatched_sizes=True
            )
            beyond = sorted(told["unexpected_keys"])
            if beyond and args:
                raise InputError(
                    f"The weights of {spec} do not fit {type(network).__name__} with {args}; unexpected: {few(beyond)}."
                )
            if beyond:
                warn(f"Weights of {spec} that have no place: {few(beyond)}.", CheckpointWarning, stacklevel=5)
            lacking = sorted([*told["missing_keys"], *(str(one[0]) for one in told["mismatched_keys"])])
            if lacking:
                raise InputError(
                    f"The weights of {spec} do not fit {type(network).__name__}; missing, or of another shape: "
                    f"{few(lacking)}. Is it fine-tuned to classify images?"
                )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise InputError(f"Cannot load {spec} as an image classifier: {reason}.") from error
    return network, preprocessing_of(wishes, spec), int(config.num_labels)


def preprocessing_of(wishes: Mapping[str, Any], spec: str) -> Preprocessing:
    """Return what an image processor does.

    Args:
        wishes: the processor's own settings.
        spec: of the model, for errors.

    Differs: where the processor squeezes an image of any shape into its size, the shorter side is resized to it and the
        centre cropped: nothing is distorted.
    """
    others = [name for name, value in wishes.items() if name.startswith("do_") and value is True]
    others = [name for name in others if name not in (*STEPS, *WITHOUT_EFFECT)]
    if others:
        raise InputError(
            f"Expected a processor that resizes, crops and normalises, but that of {spec} has {few(sorted(others))}: "
            "give it as py:FILE:NAME."
        )
    scale = wishes.get("rescale_factor", 1 / 255) if wishes.get("do_rescale", True) else 1.0
    if wishes.get("rescale_offset"):
        raise InputError(f"Expected pixels scaled from 0 to 1, but {spec} wants them shifted: give it as py:FILE:NAME.")
    unit = scale * 255  # what the processor makes of white
    mean, std = ((wishes.get(f"image_{one}") or default) for one, default in (("mean", 0.0), ("std", 1.0)))
    mean, std = ([value] * 3 if isinstance(value, int | float) else value for value in (mean, std))
    again = std if wishes.get("include_top") else [1.0] * 3  # EfficientNet's divides by the deviation once more
    if not wishes.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    size = _side(wishes.get("size"), "size", spec) if wishes.get("do_resize", True) else None
    crop = _side(wishes.get("crop_size"), "crop_size", spec) if wishes.get("do_center_crop", False) else size
    resize = size
    whole = wishes.get("size")
    if (
        size is not None
        and isinstance(whole, Mapping)
        and "shortest_edge" in whole
        and wishes.get("crop_pct")
        and size < CROPPED_BELOW
    ):
        resize, crop = math.floor(size / wishes["crop_pct"]), size  # of ConvNeXt and PoolFormer
    if size is not None and str(wishes.get("image_processor_type", "")).startswith("Levit"):
        resize = math.floor(size * 256 / 224)  # which its class does and no setting says
    resample = wishes.get("resample")
    return Preprocessing(
        tuple(value / unit for value in mean),
        tuple(value * more / unit for value, more in zip(std, again, strict=True)),
        input_size=crop or size,
        resize=resize,
        crop=crop or size,
        interpolation=PIL_INTERPOLATIONS.get(2 if resample is None else int(resample), "bilinear"),
    )


CROPPED_BELOW = 384
"""Photographs for smaller networks are resized to `size / crop_pct` and cropped, in ConvNeXt's processor."""


def _side(size: Any, name: str, spec: str) -> int | None:
    """Return the side of a square, in any of the ways in which processors give sizes."""
    if size is None or isinstance(size, int):
        return size
    sides = {size[one] for one in ("height", "width", "shortest_edge") if size.get(one)}
    if len(sides) != 1:
        raise InputError(f"Expected a model of square images, but {spec} has the {name} {dict(size)}.")
    return int(sides.pop())
