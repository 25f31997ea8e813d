"""Which norm layers, and which of their statistics, a protocol rewrites."""

from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import unknown
from statshift.models import PixelModel
from statshift.norms.layers import batch_norms, execution_order
from statshift.norms.statistics import ChannelStatistics

THIRDS = ("front", "middle", "end")
PARTS = ("both", "mean", "var")


def select_layers(model: nn.Module, images: Tensor, where: str = "all") -> dict[str, _BatchNorm]:
    """Return the batch norms that `where` names, by their names in the network.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are.
        images: (n,3,H,W), the first of which tells the order of execution where that is asked for.
        where: "all"; "front", "middle" or "end", thirds of the layers in execution order as `numpy.array_split` makes
            them; or a pattern of names, as of files.

    Raises:
        InputError: the pattern matches no layer, or the model has no batch norm.

    Reference:
        Benz et al., WACV 2021, section 6.3.
    """
    layers = batch_norms(model.network if isinstance(model, PixelModel) else model)
    if where == "all":
        return layers
    if where in THIRDS:
        third = np.array_split(execution_order(model, layers, images[:1]), 3)[THIRDS.index(where)]
        return {name: layers[name] for name in third.tolist()}
    chosen = {name: layer for name, layer in layers.items() if fnmatchcase(name, where)}
    if not chosen:
        raise unknown("place or pattern of layers", where, ["all", *THIRDS, *layers])
    return chosen


def write(layer: _BatchNorm, target: ChannelStatistics, statistics: str = "both") -> None:
    """Write mean, variance or both into the layer's running statistics."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    if statistics != "var":
        layer.running_mean.copy_(target.mean)
    if statistics != "mean":
        layer.running_var.copy_(target.var)
