"""The analyses of the rectification paper, on any model.

How statistics and features move, and what a rectification does: of which statistics, where, from how many images.

Reference:
    Benz et al., WACV 2021; the figures and tables are named at each function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from statshift._core.errors import InputError, unknown
from statshift._core.walking import modules_of
from statshift.adapting.options import AdaptationOptions
from statshift.adapting.rectify import rectified
from statshift.data import ImageData
from statshift.measuring.measure import measure
from statshift.measuring.run import Measurement
from statshift.models import check_input, extract_logits
from statshift.norms.layers import before_forward, evaluating, run
from statshift.norms.selection import PARTS, THIRDS, select_layers
from statshift.norms.statistics import ChannelStatistics, instance_statistics

SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def by_samples(samples: Sequence[int] = SAMPLES, **options: Any) -> dict[str, AdaptationOptions]:
    """Return the variants of figure 4: by the number of images adapted on."""
    return {str(n): AdaptationOptions(n, **options) for n in samples}


def by_part(options: AdaptationOptions | None = None) -> dict[str, AdaptationOptions]:
    """Return the variants of table 6 and figure 5: mean and variance, mean only, variance only."""
    return {part: replace(options or AdaptationOptions(), statistics=part) for part in PARTS}


def by_third(options: AdaptationOptions | None = None) -> dict[str, AdaptationOptions]:
    """Return the variants of table 7: all layers, and each third of them."""
    return {where: replace(options or AdaptationOptions(), where=where) for where in ("all", *THIRDS)}


def measure_variants(
    model: str | nn.Module,
    data: str | ImageData,
    variants: Mapping[str, AdaptationOptions],
    *,
    rectify: Any = ("replace",),
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, Measurement]:
    """Measure a model once for each variant of the adaptation.

    Args:
        model: see `measure`.
        data: see `measure`.
        variants: by name, as `by_samples`, `by_part` and `by_third` return them.
        rectify: see `measure`.
        out: directory; each variant's run lies in a folder of its name, and is resumed.
        **options: of `measure`.
    """
    return {
        name: measure(
            model,
            data,
            rectify=rectify,
            adaptation=variant,
            out=None if out is None else Path(out) / name,
            **options,
        )
        for name, variant in variants.items()
    }


def statistic_distances(
    model: nn.Module,
    clean: Tensor,
    shifted: Tensor,
    layer: str,
    *,
    batch_size: int = 32,
    repeats: int = 100,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return how far batch statistics lie apart, of one style and of two, of the same images and of others.

    Args:
        model: left as found.
        clean: (N,3,H,W).
        shifted: (N,3,H,W), the same images under a shift.
        layer: name of a norm layer, before which the statistics are taken.
        batch_size: images in a batch; two batches of different images need twice as many.
        repeats: pairs of batches that are averaged over.
        seed: seed of the batches.

    Returns:
        By pair ("clean, other images"; "shifted, other images"; "both, same images"; "both, other images"): mean
        absolute distance over the channels of the means, and of the variances.

    Raises:
        InputError: too few images, or no such layer.

    Reference:
        Figure 2.
    """
    if not 2 * batch_size <= len(clean) == len(shifted):
        raise InputError(
            f"Expected {2 * batch_size} images or more, clean and shifted, but got {len(clean)} and {len(shifted)}."
        )
    styles = [_instances(model, images, layer) for images in (clean, shifted)]
    generator = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        order = torch.from_numpy(generator.permutation(len(clean)))
        first, second = order[:batch_size], order[batch_size : 2 * batch_size]
        (a, a_other), (b, b_other) = ([_of_images(one, chosen) for chosen in (first, second)] for one in styles)
        pairs = {
            "clean, other images": (a, a_other),
            "shifted, other images": (b, b_other),
            "both, same images": (a, b),
            "both, other images": (a, b_other),
        }
        for name, (one, other) in pairs.items():
            apart = (one.mean - other.mean).abs().mean(), (one.var - other.var).abs().mean()
            found.setdefault(name, []).append((float(apart[0]), float(apart[1])))
    return {name: (float(means), float(variances)) for name, (means, variances) in _averages(found).items()}


def cosine_similarities(
    model: nn.Module,
    clean: Tensor,
    shifted: Tensor,
    adaptation: Tensor,
    protocol: Any = "replace",
    **options: Any,
) -> tuple[float, float]:
    """Return the similarity of clean images' features to their shifted twins', before and after rectification.

    Args:
        model: left as found; clean images always go through it as it is.
        clean: (N,3,H,W).
        shifted: (N,3,H,W), the same images under a shift.
        adaptation: (n,3,H,W), under that shift, which the model is rectified to.
        protocol: see `rectified`.
        **options: of `rectified`.

    Returns:
        Two means over the images, in [-1,1].

    Reference:
        Figure 3.
    """
    wanted = extract_features(model, clean)
    before = F.cosine_similarity(wanted, extract_features(model, shifted)).mean()
    with rectified(model, adaptation, protocol, **options):
        after = F.cosine_similarity(wanted, extract_features(model, shifted)).mean()
    return float(before), float(after)


@torch.no_grad()
def extract_features(model: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Return (N,D), what comes into the last linear layer that a forward meets, or the logits if there is none."""
    met: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        met.append(inputs[0].flatten(1))

    check_input(model, images)
    handles = [one.register_forward_pre_hook(keep) for one in modules_of(model) if isinstance(one, nn.Linear)]
    found = []
    try:
        with evaluating(model):
            for part in torch.split(images, batch_size):
                met.clear()
                logits = run(model, part)
                found.append(met[-1] if met else extract_logits(logits))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found)


def embed(features: Tensor, seed: int = 0) -> NDArray[np.float64]:
    """Return (N,2), features (N,D) by t-SNE.

    Reference:
        Figure 6.
    """
    from sklearn.manifold import TSNE

    if len(features) < 4:
        raise InputError(f"Expected at least 4 images to embed, but got {len(features)}.")
    perplexity = min(30.0, (len(features) - 1) / 3)
    found: NDArray[np.float64] = TSNE(perplexity=perplexity, random_state=seed).fit_transform(features.cpu().numpy())
    return found


@torch.no_grad()
def _instances(model: nn.Module, images: Tensor, layer: str) -> ChannelStatistics:
    """Return the statistics (N,C) of each image before a layer of the untouched model."""
    check_input(model, images)
    found: list[ChannelStatistics] = []
    layers = select_layers(model, images)
    if layer not in layers:
        raise unknown("norm layer", layer, layers)
    layers = {layer: layers[layer]}

    def keep(name: str, norm: nn.Module, features: Tensor) -> None:
        found.append(instance_statistics(features))

    with before_forward(layers, keep), evaluating(model):
        for part in torch.split(images, 64):
            run(model, part)
    return ChannelStatistics(
        torch.cat([one.mean for one in found]), torch.cat([one.var for one in found]), found[0].count
    )


def _of_images(instances: ChannelStatistics, chosen: Tensor) -> ChannelStatistics:
    """Return the statistics (C,) of a batch of these images, exactly."""
    means = instances.mean[chosen]
    var = instances.var[chosen].mean(0) + means.var(0, correction=0)
    return ChannelStatistics(means.mean(0), var, len(chosen) * instances.count)


def _averages(found: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    return {name: np.mean(pairs, axis=0).tolist() for name, pairs in found.items()}
