"""A model cut in two whose suffix has two sets of norms: one for clean, one for adversarial features.

The adversarial branch is a second model over the same parameters, but with norms of its own behind the cut. So a
branch is chosen by calling it, never by batch position or a switch, and either is a model like any other.

Reference: Xie et al., "Adversarial Examples Improve Image Recognition" (CVPR 2020), section 4.1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from statshift._core.copying import copied
from statshift._core.errors import InputError, unknown
from statshift._core.walking import modules_of
from statshift.norms.layers import batch_norms, evaluating, keeping_statistics
from statshift.splitting.cuts import network_of
from statshift.splitting.folding import Folded, folded
from statshift.splitting.parts import Split
from statshift.splitting.sides import sides
from statshift.splitting.split import split

BRANCHES = ("clean", "adv")


class Branches(nn.Module):
    """A model and its adversarial twin behind a cut; the prefix is frozen and stays in evaluation mode.

    Only the parameters that the suffix uses require a gradient; the model is changed in this, and in its train flags.

    Args:
        model: not copied; with batch norm, if it is to have a twin.
        at: the cut, a layer's name, or "input" for no prefix.
        image: (B,3,H,W), what the model is read with.
        dual: False leaves out the twin, for methods with one branch.
        trace: False splits by replay even where torch.fx could.
        compiled: run each branch's suffix through `torch.compile`.
        recompute: keep no activations of a suffix for its backward pass, which makes them anew: those of one branch are
            in memory at a time. The gradients are the same.

    Attributes:
        clean: the model.
        adv: the twin, if any; at first its norms are copies of the model's.
        splits: split of each branch, by name.
        norms: the twin's own norms, by name.

    Raises:
        InputError: what `split` raises, weights that are used on both sides of the cut, or a model to be compiled that
            torch.fx cannot trace.
    """

    def __init__(
        self,
        model: nn.Module,
        at: str,
        image: Tensor,
        *,
        dual: bool = True,
        trace: bool = True,
        compiled: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        found = split(model, at, image, trace=trace)
        before, after = sides(found, image)
        shared = set().union(*map(_own, before)) & set().union(*map(_own, after))
        both = [
            name for name, module in network_of(model).named_modules() if module in before and _own(module) & shared
        ]
        if both:
            raise InputError(f"Cannot freeze what lies before {at!r}: {', '.join(both)} is used behind it too.")
        self._frozen = before - after
        self.clean = model
        self.recompute = recompute
        self.splits = {"clean": found}
        self.norms: dict[str, _BatchNorm] = {}
        self._folded: Folded | None = None
        if dual:
            behind = {name: norm for name, norm in batch_norms(model).items() if norm not in self._frozen}
            self.adv = twin(model, behind)
            self.splits["adv"] = found.onto(self.adv)
            self.norms = {name: module for name, module in batch_norms(self.adv).items() if name in behind}
            pairs = zip(modules_of(model), modules_of(self.adv), strict=True)
            self._frozen |= {theirs for ours, theirs in pairs if ours in self._frozen}
            if found.graph is not None:
                self._folded = folded(network_of(self.adv), found.graph, compiled=compiled)
        if compiled:
            self.splits = {branch: one.compiled() for branch, one in self.splits.items()}
        self._freeze(image)
        self.train(model.training)

    def _freeze(self, image: Tensor) -> None:
        """Let those parameters alone require a gradient that the suffix uses."""
        ours = list(self.parameters())
        for parameter in ours:
            parameter.requires_grad_(parameter.is_floating_point())
        used: set[Tensor] = set()
        with torch.enable_grad(), evaluating(self):
            for one in self.splits.values():
                features = one.prefix(image).detach()
                total = one.suffix(features).float().sum()
                gradients = torch.autograd.grad(total, ours, allow_unused=True)
                used.update(p for p, gradient in zip(ours, gradients, strict=True) if gradient is not None)
        for parameter in ours:
            parameter.requires_grad_(parameter in used)

    def train(self, mode: bool = True) -> "Branches":
        """Put both suffixes into training or evaluation mode; the prefix is always in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Branches":
        """Keep buffers shared on the way to another device or type: torch moves them one by one."""
        pairs = zip(modules_of(self.clean), modules_of(self.adv), strict=True) if "adv" in self.splits else ()
        shared = [
            (ours, theirs, name)
            for ours, theirs in pairs
            for name, buffer in ours.named_buffers(recurse=False)
            if theirs.get_buffer(name) is buffer
        ]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for ours, theirs, name in shared:
            setattr(theirs, name, ours.get_buffer(name))
        return self

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Tensor:
        """Return the features (B,C,H,W) of images (B,3,H,W), without gradient, as in evaluation mode."""
        with evaluating(self.clean):
            return self.splits["clean"].prefix(images)

    def suffix(self, features: Tensor, branch: str) -> Tensor:
        """Return logits (B,K) of features (B,C,H,W) in the branch "clean" or "adv", in the mode that it is in."""
        if branch not in self.splits:
            raise unknown("branch", branch, self.splits)
        one = self.splits[branch]
        if not (self.recompute and torch.is_grad_enabled()):
            return one.suffix(features)
        norms = batch_norms(one.model)  # which count a batch once, though they see it twice
        again = partial(checkpoint, context_fn=lambda: (nullcontext(), keeping_statistics(norms)))
        logits: Tensor = again(one.suffix, features, use_reentrant=False)
        return logits

    @contextmanager
    def attacked(self, dtype: torch.dtype | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield the adversarial suffix in evaluation mode, norms folded where it was traced.

        The fold is made of the tensors as they are now, and ends with the context.

        Args:
            dtype: type of the folded weights; default their own.
        """
        with evaluating(self.adv):
            if self._folded is None:
                yield self.splits["adv"].suffix
            else:
                weights = self._folded.weights(dtype)
                yield partial(_run_folded, self._folded, weights, self.splits["adv"])


def _run_folded(part: Folded, weights: list[Tensor], whole: Split, features: Tensor) -> Tensor:
    return whole.logits(part(features.clone() if whole.copies else features, weights, *whole.beside(features)))


def twin(model: nn.Module, norms: dict[str, _BatchNorm]) -> nn.Module:
    """Return a model that shares every parameter and buffer with `model`, but for copies of the norms given.

    Args:
        model: left as found.
        norms: norm layers of the model, by name.
    """
    own = {id(t) for norm in norms.values() for t in chain(norm.parameters(), norm.buffers())}
    tensors = chain(model.parameters(), model.buffers())
    return copied(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})


def export(branches: Branches, branch: str) -> dict[str, Tensor]:
    """Return a branch as a plain state dict of the original architecture, on the CPU.

    Args:
        branches: the model and its twin.
        branch: "clean" or "adv".

    Raises:
        InputError: another branch.
    """
    if branch not in branches.splits:
        raise unknown("branch", branch, branches.splits)
    state: dict[str, Tensor] = network_of(getattr(branches, branch)).state_dict()
    for name, value in state.items():
        state[name] = value.detach().cpu().clone()
    return state


def _own(module: nn.Module) -> set[int]:
    """Return the identities of the tensors of a module itself that training would change."""
    buffers = module.buffers(recurse=False) if isinstance(module, _BatchNorm) else ()
    return {id(tensor) for tensor in chain(module.parameters(recurse=False), buffers)}
