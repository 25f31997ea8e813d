"""The encoder's own features on the way to the cut, by stage: what perceptual and style losses compare."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from statshift.norms.layers import evaluating
from statshift.splitting.cuts import Cut, find_cuts, network_of
from statshift.splitting.parts import Split, as_network_takes

Stages = Callable[[Tensor], dict[str, Tensor]]
"""Images (B,3,H,W) in [0,1] to features (B,C,h,w) by the stage's name, in execution order; the last is the cut's."""


def stages_of(found: Split, image: Tensor) -> Stages:
    """Return what computes an encoder's features at the end of each of its stages up to the cut, in one pass.

    A stage is what has features of one size, to a factor of two, and it ends with the last of the outermost modules
    there that all of the image passes through. Of a VGG they are the first ReLU of each, relu1_1, relu2_1 and so on,
    which AdaIN compares. The last is the cut.

    Args:
        found: the split whose prefix is the encoder.
        image: (B,3,H,W), what the model is read with.
    """
    cut = found.cut
    assert cut is not None
    before: list[Cut] = []
    for one in find_cuts(found.model, image):
        if one.name == cut.name:
            break
        before.append(one)
    by_scale: dict[int, list[Cut]] = {}
    for one in before:
        by_scale.setdefault(_scale(one), []).append(one)
    by_scale.pop(_scale(cut), None)
    outermost = [min(reversed(ones), key=lambda one: one.name.count(".")) for ones in by_scale.values()]
    named = {alias: one for one in before for alias in one.aliases if re.fullmatch(r"relu\d_1", alias)}
    ends = named or {one.name: one for one in outermost}
    last = next((alias for alias in cut.aliases if alias.startswith("relu")), cut.name)
    names = {name: one.name for name, one in ends.items()} | {last: cut.name}
    return partial(_features, found.model, names)


def _scale(cut: Cut) -> int:
    return round(math.log2(cut.shape[1]))


def sequential_stages(encoder: nn.Sequential, places: Mapping[str, int]) -> Stages:
    """Return what computes the outputs of some children of a sequential encoder, in one pass.

    Args:
        encoder: takes images in [0,1].
        places: numbers of the children by the stage's name, ascending.
    """

    def features(images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        last = 0
        for name, place in places.items():
            images = encoder[last : place + 1](images)
            last = place + 1
            found[name] = images
        return found

    return features


class _Reached(BaseException):  # no model's `except Exception` shall catch it
    pass


def _features(model: nn.Module, names: Mapping[str, str], images: Tensor) -> dict[str, Tensor]:
    network, found = network_of(model), dict[str, Tensor]()
    with evaluating(model), _listening(network, names, found):
        try:
            network(as_network_takes(model, images))
        except _Reached:
            return found
    raise RuntimeError(f"The model no longer passes {list(names.values())[-1]}.")


@contextmanager
def _listening(network: nn.Module, names: Mapping[str, str], found: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs of modules by stage, and stop at the last; what follows may change them in place."""
    last = list(names)[-1]

    def after(stage: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[stage] = output if stage == last else output.clone()
        if stage == last:
            raise _Reached

    handles = [
        network.get_submodule(name).register_forward_hook(partial(after, stage)) for stage, name in names.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
