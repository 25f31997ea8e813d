"""Models by spec; timm, torchvision and a user's file are imported only when a spec names them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import warn

from torch import nn

from statshift._core.copying import check_initialised
from statshift._core.errors import DefaultPreprocessingWarning, InputError, unknown
from statshift.models.checkpoints import Loaded, load_weights
from statshift.models.choices import EXCHANGES, NORMS
from statshift.models.cifar import ZOO
from statshift.models.exchange import exchange_norm
from statshift.models.ibn import IBN_NETS
from statshift.models.normalising import check_normalised_once, settle_normalisation, three
from statshift.models.origin import read_made_by
from statshift.models.pixel import PixelModel, Preprocessing
from statshift.models.published import Built, build_timm, build_torchvision
from statshift.models.segmenting import SEGMENTING
from statshift.models.usercode import check_arguments, import_function, target_hash

EXCHANGING = ("timm", "torchvision", "hf", "ibn")
"""Schemes of networks that know no `norm` of their own: it is exchanged once they are built."""

OTHERS = set(EXCHANGES) - set(NORMS)
"""What the networks of the zoo cannot be built with, and are exchanged for."""

AS_FOR_IMAGENET = Preprocessing(input_size=224, resize=256, crop=224)
"""How photographs are loaded for ImageNet's networks, but where their authors say otherwise."""


def load_model(
    spec: str | Callable[..., Any],
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    resize_input: bool = True,
    size_multiple: int | None = None,
    branch: str | None = None,
) -> PixelModel:
    """Return a model in pixel space, in evaluation mode; a module given is wrapped, not copied, and left in its mode.

    Args:
        spec: `timm:NAME`, `torchvision:NAME@WEIGHTS_TAG` (`@none`: random weights; segmentation models too),
            `hf:NAME_OR_DIR` (an image classifier of Hugging Face's transformers), `ibn:NAME` (IBN-Net, random weights),
            `cifar:NAME`, `seg:NAME`, `py:FILE_OR_MODULE:FUNCTION`, a module, or a function that returns one.
        weights: a checkpoint to load instead of the pretrained weights; for `seg`, one of ImageNet's ResNets fits too.
        mean: mean of the three channels in [0,1], or one number for all three; default the model's own, else
            ImageNet's, with a `DefaultPreprocessingWarning` for a model of one's own.
        std: likewise.
        model_args: keyword arguments for whatever builds the network, such as `num_classes`; where that has no norms of
            its own to choose from, `norm` exchanges the batch norms, see `exchange_norm`.
        pretrained: False builds models of timm, torchvision and Hugging Face with random weights.
        resize_input: resize images of another size than the model's; False forgets that size.
        size_multiple: of a network that answers for each pixel and takes multiples of so many px alone: pad images to
            them, and crop its logits back. Default the model's own; verbs find it by trying, see
            `statshift.norms.sizes.fit_size`.
        branch: which norms of a checkpoint with two sets, "clean" or "adv"; default clean, with a `CheckpointWarning`.

    A checkpoint of a model that normalises its input itself holds mean and deviation: they are taken, and told by a
    `CheckpointWarning` where they are not those that would have been used.

    Raises:
        InputError: an unknown scheme or name, weights that do not fit, a download that failed, a mean or deviation
            other than the checkpoint's, or a network that would normalise its input a second time.
    """
    args = dict(model_args or {})
    if branch is not None and weights is None:
        raise InputError(f"Expected `weights`, a checkpoint with two sets of norms, with `branch` {branch!r}.")
    network, preprocessing, num_classes = _with_norm(spec, args, pretrained, given=weights is not None)
    loaded = Loaded() if weights is None else load_weights(network, weights, branch=branch)
    if loaded.mean is not None and loaded.std is not None:
        mean, std = settle_normalisation(loaded.mean, loaded.std, mean, std, preprocessing, weights)
    check_initialised(network)
    preprocessing = replace(
        preprocessing,
        mean=preprocessing.mean if mean is None else three(mean),
        std=preprocessing.std if std is None else three(std),
        input_size=preprocessing.input_size if resize_input else None,
        size_multiple=preprocessing.size_multiple if size_multiple is None else size_multiple,
    )
    if not isinstance(spec, PixelModel):
        check_normalised_once(network, preprocessing)
    own = not isinstance(spec, PixelModel) and (not isinstance(spec, str) or spec.startswith("py:"))
    if own and (mean is None or std is None):
        lacking = " and ".join(f"`{name}`" for name, value in (("mean", mean), ("std", std)) if value is None)
        warn(
            f"Without {lacking}, {_name(spec)} is taken to want images normalised by ImageNet's values: give those of "
            "its training, or `mean=(0, 0, 0), std=(1, 1, 1)` if it takes pixels in [0,1].",
            DefaultPreprocessingWarning,
            stacklevel=2,
        )
    named: dict[str, Any] = {"spec": _name(spec), "source_hash": _source(spec)}
    model = PixelModel(network, preprocessing, num_classes=num_classes, arguments=args, **named)
    if weights is not None:
        model.mark(read_made_by(weights))
        model.weights_file = str(weights)
        model.checkpoint = loaded.described()
    elif isinstance(spec, PixelModel):
        model.mark(spec.made_by)
        model.weights_file = spec.weights_file
        model.checkpoint = spec.checkpoint
    return model if isinstance(spec, nn.Module) else model.eval()


def _with_norm(spec: str | Callable[..., Any], args: Mapping[str, Any], pretrained: bool, *, given: bool) -> Built:
    """Return what `_build` does, with its norms exchanged where `args` name one and the network has none to choose."""
    scheme = spec.partition(":")[0] if isinstance(spec, str) else ""
    exchanged = "norm" in args and (scheme in EXCHANGING or (scheme in ("cifar", "seg") and args["norm"] in OTHERS))
    try:
        rest = {name: value for name, value in args.items() if not (exchanged and name == "norm")}
        if scheme in ("timm", "torchvision", "hf"):
            pretrained = _pretrained(rest.pop("pretrained", pretrained))
        built = _build(spec, pretrained and not given, rest)
    except (TypeError, ValueError) as error:
        if not args or isinstance(error, InputError):
            raise
        raise InputError(f"{spec} does not take the model arguments {dict(args)}: {error}.") from error
    if exchanged:
        exchange_norm(built[0], args["norm"])
    return built


def _pretrained(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"Expected `pretrained` to be True or False, but got {value!r}.")
    return value


def _name(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    if isinstance(spec, PixelModel):
        return spec.spec
    named = type(spec) if isinstance(spec, nn.Module) else spec
    return f"{named.__module__}.{getattr(named, '__qualname__', type(named).__qualname__)}"


def _source(spec: Any) -> str | None:
    if isinstance(spec, PixelModel):
        return spec.source_hash
    return target_hash(spec.partition(":")[2]) if isinstance(spec, str) and spec.startswith("py:") else None


def _build(spec: str | Callable[..., Any], pretrained: bool, args: dict[str, Any], name: str = "") -> Built:
    """Return the network, what it expects, and its number of classes where known; `name` is for errors."""
    if isinstance(spec, str):
        scheme, _, rest = spec.partition(":")
        if scheme not in MODEL_SCHEMES:
            raise unknown("model scheme", scheme, MODEL_SCHEMES)
        return MODEL_SCHEMES[scheme](rest, pretrained, args)
    if isinstance(spec, PixelModel):
        return spec.network, spec.preprocessing, spec.num_classes
    network = spec if isinstance(spec, nn.Module) else spec(**args)
    if not isinstance(network, nn.Module):
        raise InputError(f"Expected {name or _name(spec)} to return a torch.nn.Module, but got {network!r}.")
    classes = getattr(network, "num_classes", None)
    return network, Preprocessing(), classes if isinstance(classes, int) else None


def _build_cifar(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    if name not in ZOO:
        raise unknown("CIFAR model", name, ZOO)
    return ZOO[name](**args), Preprocessing(input_size=32), args.get("num_classes", 10)


def _build_seg(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    if name not in SEGMENTING:
        raise unknown("segmentation model", name, SEGMENTING)
    return SEGMENTING[name](**args), Preprocessing(), args.get("num_classes", 19)


def _build_ibn(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    if name not in IBN_NETS:
        raise unknown("IBN-Net", name, IBN_NETS)
    return IBN_NETS[name](**args), AS_FOR_IMAGENET, args.get("num_classes", 1000)


def _build_hf(name: str, pretrained: bool, args: dict[str, Any]) -> Built:
    hub: Any = import_module("statshift.models.hub")
    built: Built = hub.build_hub(name, pretrained, args)
    return built


def _build_py(target: str, pretrained: bool, args: dict[str, Any]) -> Built:
    spec, function = f"py:{target}", import_function(target)
    if not isinstance(function, nn.Module):
        check_arguments(spec, function, args)
    return _build(function, pretrained, args, spec)


MODEL_SCHEMES: dict[str, Callable[[str, bool, dict[str, Any]], Built]] = {
    "timm": build_timm,
    "torchvision": build_torchvision,
    "hf": _build_hf,
    "ibn": _build_ibn,
    "cifar": _build_cifar,
    "seg": _build_seg,
    "py": _build_py,
}
