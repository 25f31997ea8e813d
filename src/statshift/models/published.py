"""Models of timm and torchvision, which are imported only when one is asked for."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from torch import nn

from statshift._core.errors import InputError, unknown
from statshift.models.pixel import Preprocessing

Built = tuple[nn.Module, Preprocessing, int | None]
"""A network, what it expects of images, and its number of classes where known."""


def build_timm(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    """Return timm's model of a name.

    Args:
        name: as timm has it; `hf-hub:OWNER/NAME` for a repository.
        pretrained: False: random weights.
        args: of `timm.create_model`.

    Raises:
        InputError: an unknown name, arguments that do not go, a download that failed, or a model of oblong images.
    """
    timm: Any = import_module("timm")
    hub = name.partition(":")[2]
    if not hub and not timm.is_model(name):
        raise unknown("timm model", name, get_close_matches(name, timm.list_models(), n=5, cutoff=0))
    try:
        network = timm.create_model(name, pretrained=pretrained, **args)
    except OSError as error:
        known = None if hub else timm.get_pretrained_cfg(name)
        raise _no_download(f"timm:{name}", known.hf_hub_id or known.url if known else hub) from error
    except RuntimeError as error:
        raise InputError(f"timm cannot build {name!r}: {' '.join(str(error).split())}") from error
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][-1]
    if config["input_size"][-2] != size:
        raise InputError(f"Expected a model of square images, but timm:{name} takes {config['input_size'][-2:]} px.")
    preprocessing = Preprocessing(
        config["mean"],
        config["std"],
        input_size=size,
        resize=math.floor(size / config["crop_pct"]),
        crop=size,
        interpolation=config["interpolation"],
    )
    return network, preprocessing, network.num_classes


def build_torchvision(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    """Return torchvision's model of a name, with the weights of a tag.

    Args:
        name: NAME or NAME@TAG; the tag "none" is random weights.
        pretrained: False: random weights, whatever the tag; its preprocessing stays.
        args: of the model's builder.

    Raises:
        InputError: an unknown name or tag, no tag where one is needed, or a download that failed.
    """
    models: Any = import_module("torchvision.models")
    spec = f"torchvision:{name}"
    name, _, tag = name.partition("@")
    by_pixel = models.list_models(module=models.segmentation)
    known = models.list_models(module=models) + by_pixel
    if name not in known:
        raise unknown("torchvision model", name, known)
    tags = {weights.name: weights for weights in models.get_model_weights(name)}
    if tag and tag != "none" and tag not in tags:
        raise unknown(f"weights tag of torchvision:{name}", tag, [*tags, "none"])
    if not tag and pretrained:
        raise InputError(
            f"Expected {spec} to name its pretrained weights, as {spec}@TAG; choose from: {', '.join(tags)}, "
            "none (random), or give a file as `weights`."
        )
    chosen: Any = tags.get(tag)
    if name in by_pixel:
        args = _of_segmentation(spec, models.get_model_builder(name), chosen is not None, args)
    try:
        network = models.get_model(name, weights=chosen if pretrained else None, **args)
    except OSError as error:
        if chosen is None:  # of `weights_backbone`
            raise InputError(f"Cannot download the backbone's weights of {spec}: {error}.") from error
        raise _no_download(spec, chosen.url) from error
    preprocessing = Preprocessing(input_size=getattr(network, "image_size", None))
    if chosen is not None:
        recipe = chosen.transforms()
        size = None if name in by_pixel else recipe.crop_size[0]  # label maps stay as they were read
        preprocessing = Preprocessing(
            recipe.mean, recipe.std, size, recipe.resize_size[0], size, recipe.interpolation.value
        )
    return network, preprocessing, args.get("num_classes", 21 if name in by_pixel else 1000)


def _of_segmentation(spec: str, build: Callable[..., Any], published: bool, args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a segmentation model of torchvision: no download beside its own weights.

    Published weights have an auxiliary head, where the model has one. What the model does not know torchvision would
    pass by in silence.
    """
    taken = {name for name, one in signature(build).parameters.items() if one.kind is Parameter.KEYWORD_ONLY}
    taken -= {"weights", "progress"}
    if foreign := args.keys() - taken:
        raise unknown(f"model argument of {spec},", min(foreign), sorted(taken))
    usual: dict[str, Any] = {"weights_backbone": None}
    if published and "aux_loss" in taken:
        usual["aux_loss"] = True
    return usual | args


def _no_download(spec: str, place: str) -> InputError:
    place = place if place.startswith("http") else f"https://huggingface.co/{place}"
    return InputError(f"Cannot download the weights of {spec}; get {place} by hand and give the file as `weights`.")
