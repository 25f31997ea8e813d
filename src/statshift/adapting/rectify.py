"""Rectify: re-estimate batch-norm statistics from a few unlabelled images, by published protocols, by name.

A rule is a function from what a layer has stored and what it observes in the images to what it shall use.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from statshift._core.copying import copied
from statshift.adapting.choosing import once
from statshift.adapting.families import ACCEPTED
from statshift.adapting.passes import rewrite_by, rewrite_statistics
from statshift.adapting.protocol import Protocol
from statshift.norms.layers import alone, batch_norms, evaluating, keeping_statistics
from statshift.norms.statistics import ChannelStatistics

By = str | Protocol | Callable[..., ChannelStatistics]
"""A protocol's name, its value, or a rule of one's own."""


def rectify(model: nn.Module, images: Tensor, protocol: By = "auto", **options: Any) -> nn.Module:
    """Return a copy of the model whose batch-norm statistics are re-estimated from images; see `rectified`."""
    adapted = copied(model)
    rewrite_statistics(adapted, images, **read_options(protocol, options))
    return adapted


@contextmanager
def rectified(model: nn.Module, images: Tensor, protocol: By = "auto", **options: Any) -> Iterator[nn.Module]:
    """Re-estimate the batch-norm statistics of the model itself while the context lasts.

    What is written are the layers' running statistics, and the layers are put into evaluation mode; their own `eps`,
    affine terms and activations stay. One forward pass of the images, two for "auto" (three where a forward does not
    meet all norm layers); on leaving, also by an exception, the model is as it was found. One context of one thread
    has a model at a time.

    Args:
        model: a `PixelModel`, or a module that takes the images as they are.
        images: (n,3,H,W), unlabelled; in [0,1] for a `PixelModel`.
        protocol: a name in `statshift.adapting.registry.PROTOCOLS`, with its number as in "prior:64" if wanted; a
            `Protocol` that rewrites statistics in one forward; or a function of (stored, observed, number of images)
            that returns what a layer shall use. What it names of `eps`, `persisting`, `certain`, `effective`
            and `agreeing` as keywords without a default, it gets, as `statshift.adapting.families.Rule` says.
        **options: `statistics`: "both", "mean" or "var" are rewritten. `where`: see `select_layers`. `unbiased`:
            write the variance with count - 1 in the denominator, as torch's own cumulative mode does; by default the
            biased one, with which evaluation reproduces the forward that was measured. Others go to the protocol
            (`prior_count`).

    Raises:
        InputError: a model without batch norm, no image, images that the model cannot take or that are not
            in its range, a single value in a
            channel, NaN in features, a layer met twice in a forward, an option that cannot be,
            or a model that is being rectified already.

    Reference:
        Benz et al., WACV 2021, sections 4 (protocol), 6.2 (mean or variance alone), 6.3 (thirds).
    """
    layers = batch_norms(model)
    with alone(layers), keeping_statistics(layers), evaluating(*layers.values()):
        rewrite_statistics(model, images, **read_options(protocol, options))
        yield model


def rewrite(model: nn.Module, images: Tensor, protocol: By, **options: Any) -> Tensor:
    """Rewrite the running statistics of the model's batch norms; return what that forward returned.

    Args as in `rectified`; the model stays changed, unless something is raised.
    """
    return rewrite_by(model, images, **read_options(protocol, options))


def read_options(protocol: By, options: dict[str, Any]) -> dict[str, Any]:
    """Return what `rewrite_statistics` is told: the rule with its own options, and those of every rule."""
    common = {name: options[name] for name in ACCEPTED if name in options}
    numbers = {name: value for name, value in options.items() if name not in ACCEPTED}
    return {"rule": once(protocol, numbers), **common}
