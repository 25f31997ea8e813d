"""Models as other libraries take them: adapted and hardened ones, with their statistics kept.

RobustBench and foolbox look whether a model is in training mode and then use it as it is; torchattacks switches modes,
and afterwards puts all of it into the mode of its root; foolbox leaves gradients in its weights. Whichever does what, a
frozen model stays the one that was adapted.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.copying import copied
from statshift._core.errors import InputError
from statshift.adapting.online import RectifiedStream
from statshift.data.checks import check_images
from statshift.models import PixelModel, load_model
from statshift.norms.layers import evaluating


class Frozen(PixelModel):
    """A copy of a model in pixel space that answers the same in training and in evaluation mode; see `frozen`."""

    def __init__(self, model: PixelModel) -> None:
        super().__init__(
            copied(model.network).requires_grad_(False),
            model.preprocessing,
            spec=model.spec,
            num_classes=model.num_classes,
            arguments=model.arguments,
            source_hash=model.source_hash,
        )
        self.mean, self.std = model.mean.clone(), model.std.clone()  # of its device and dtype
        self.mark(model.made_by)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,K) for images (B,3,H,W) in [0,1], with a gradient to the images where they want one."""
        if not (
            getattr(images, "requires_grad", False) or torch.compiler.is_compiling() or torch._C._get_tracing_state()
        ):
            check_images(images)  # what attacks and LIGS look at beside the images may lie outside of [0,1]
        with evaluating(self.network):  # a module of it may have been put into training mode by itself
            return super().forward(images)


def frozen(model: nn.Module) -> Frozen:
    """Return a copy of a model whose statistics and weights stay what they are now, whatever its user does.

    It takes images (B,3,H,W) in [0,1] and returns logits (B,K), in evaluation mode always, its weights without
    gradient; images have theirs. So it can be given to foolbox, torchattacks, AutoAttack and RobustBench's `benchmark`,
    and copied, saved or moved like any module. Later changes of the model do not reach it, and neither does the end of
    a `rectified` context.

    Args:
        model: a `PixelModel`, or a module that takes images as they are; rectified, hardened or neither; left as it is.
            Of a `RectifiedStream`, the statistics that it has now.

    Raises:
        InputError: no module, or a model that normalises each batch by its own statistics, so that there are none to
            keep.
    """
    given: Any = model
    if not isinstance(given, nn.Module):
        hint = "; freeze its .model" if isinstance(getattr(given, "model", None), nn.Module) else ""
        raise InputError(f"Expected a module to freeze, but got {type(given).__name__}{hint}.")
    if isinstance(model, RectifiedStream):
        model = model.model
    moving = [name for name, one in model.named_modules() if isinstance(one, _BatchNorm) and one.running_mean is None]
    if moving:
        raise InputError(
            f"Expected norms with statistics to keep, but {moving[0] or 'the model'} normalises each batch by its own: "
            "an image's answer would depend on those beside it. Rectify the source in one go instead."
        )
    if not isinstance(model, PixelModel):
        one = next((tensor for tensor in model.state_dict().values() if tensor.is_floating_point()), torch.zeros(()))
        model = load_model(model, mean=(0, 0, 0), std=(1, 1, 1))
        model.mean, model.std = model.mean.to(one), model.std.to(one)
    return Frozen(model)


def foolbox_model(model: nn.Module) -> Any:
    """Return a `foolbox.PyTorchModel` of the frozen model, for pixels in [0,1], on the device where the model is.

    Args:
        model: as for `frozen`.

    Raises:
        InputError: what `frozen` raises, or foolbox is not installed.
    """
    try:
        foolbox: Any = import_module("foolbox")
    except ImportError:
        raise InputError("The package foolbox is needed here: pip install foolbox.") from None
    kept = frozen(model)
    return foolbox.PyTorchModel(kept, bounds=(0, 1), device=kept.mean.device)  # which by itself would choose a GPU
