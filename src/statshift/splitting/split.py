"""A model in two parts over its own parameters: `prefix(images)` returns features, `suffix(features)` logits.

By torch.fx where the model can be traced, else by replay: the prefix stops the model's own Python at the cut, and the
suffix runs it again while the prefix's modules return what they returned before. No model file is edited, nothing is
copied, and the prefix is computed once however often the suffix runs.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.models import extract_logits
from statshift.norms.layers import evaluating, run
from statshift.norms.sizes import fit_size
from statshift.splitting.cuts import INPUT, Cut, find_cut
from statshift.splitting.parts import Split
from statshift.splitting.replay import replayed
from statshift.splitting.tracing import traced


def split(model: nn.Module, at: str, image: Tensor, *, trace: bool = True) -> Split:
    """Cut a model in two after a layer.

    Args:
        model: left as found, and shared: what changes it changes both parts.
        at: a layer within the network (`find_cuts`), or "input".
        image: (B,3,H,W), what the model is read with and the parts are checked with.
        trace: False splits by replay even where torch.fx could.

    Raises:
        InputError: what `find_cut` raises, or parts that together are not the model.
    """
    fit_size(model, [image.shape[-2:]])
    cut = None if at == INPUT else find_cut(model, at, image)
    with torch.inference_mode(False), torch.no_grad(), evaluating(model):
        image = image.clone()
        logits = extract_logits(run(model, image.clone()))
        found = _attempt_trace(model, cut, image, logits) if trace else None
        found = found or _checked(replayed(model, cut, image), image, logits)
    if found is None:
        raise InputError(f"Cannot cut after {at!r}: the two parts give other logits than the model.")
    return found


def _checked(found: Split, image: Tensor, logits: Tensor) -> Split | None:
    """Return a split that gives the model's logits, and whether its features must be copied for that; else None."""
    features = found.prefix(image.clone())
    version = features._version
    again = found.suffix(features)
    scale = float(logits.nan_to_num().abs().max())
    if again.shape != logits.shape or not torch.allclose(again, logits, 0, 1e-4 * scale, equal_nan=True):
        return None
    return replace(found, copies=features._version != version)


def _attempt_trace(model: nn.Module, cut: Cut | None, image: Tensor, logits: Tensor) -> Split | None:
    try:
        return _checked(traced(model, cut), image, logits)
    except Exception:  # torch.fx raises whatever the model's Python raises on a symbol
        return None
