"""Image classifiers of Hugging Face's transformers, from the hub or a folder, with their own preprocessing."""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from statshift._core.errors import InputError
from statshift.models.pixel import Preprocessing
from statshift.models.reading import few

PIL_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""PIL's numbers."""


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
        wishes = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
        factory = transformers.AutoModelForImageClassification
        if not pretrained:
            network = factory.from_config(config)
        else:
            network, told = factory.from_pretrained(
                name, config=config, output_loading_info=True, ignore_mismatched_sizes=True
            )
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
    scale = wishes.get("rescale_factor", 1 / 255) if wishes.get("do_rescale", True) else 1.0
    if wishes.get("rescale_offset"):
        raise InputError(f"Expected pixels scaled from 0 to 1, but {spec} wants them shifted: give it as py:FILE:NAME.")
    unit = scale * 255  # what the processor makes of white
    mean, std = ((wishes.get(f"image_{one}") or default) for one, default in (("mean", 0.0), ("std", 1.0)))
    if not wishes.get("do_normalize", True):
        mean, std = 0.0, 1.0
    mean, std = ([value] * 3 if isinstance(value, int | float) else value for value in (mean, std))
    size, crop = (_side(wishes.get(name), name, spec) for name in ("size", "crop_size"))
    if not wishes.get("do_resize", True):
        size = None
    if not wishes.get("do_center_crop", False):
        crop = size
    resize = size
    whole = wishes.get("size")
    if (
        size is not None
        and isinstance(whole, Mapping)
        and "shortest_edge" in whole
        and wishes.get("crop_pct")
        and size < CROPPED_BELOW
    ):
        resize, crop = math.floor(size / wishes["crop_pct"]), size  # of ConvNeXt and DeiT
    return Preprocessing(
        tuple(value / unit for value in mean),
        tuple(value / unit for value in std),
        input_size=crop or size,
        resize=resize,
        crop=crop or size,
        interpolation=PIL_INTERPOLATIONS.get(int(wishes.get("resample") or 2), "bilinear"),
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
