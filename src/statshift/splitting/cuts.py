"""Where a model can be cut in two: the layers that all of the image passes through.

Read from the autograd graph of one forward pass, so it holds for any model, whatever its Python does.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from statshift._core.copying import check_initialised
from statshift._core.errors import MOST, InputError, unknown
from statshift._core.walking import modules_of
from statshift.models import PixelModel, extract_logits
from statshift.norms.kinds import check_reachable
from statshift.norms.layers import evaluating, run, running_norms
from statshift.norms.sizes import fit_size
from statshift.splitting.published import published_name

INPUT = "input"
"""The cut before everything: no prefix."""


@dataclass(frozen=True)
class Cut:
    """A place to cut, after a layer.

    Attributes:
        name: name of the module whose output the suffix takes, within the network; the shortest where several share it.
        aliases: other names of the same place: modules that end there, and the papers' own ("conv2_3", "relu4_1").
        shape: (C,H,W) of its output.
        rectified: whether it ends in a ReLU, or in a pooling or concatenation of such, so that it is never negative.
        norms_before: names of the batch norms of the prefix, in execution order.
        norms_after: names of those of the suffix, on whose outputs the logits depend.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    rectified: bool
    norms_before: tuple[str, ...]
    norms_after: tuple[str, ...]


Edge = tuple[Any, int]
"""One output of a node of the graph, by its number."""


@dataclass
class _Call:
    name: str
    module: nn.Module
    output: Any
    edge: Edge
    calls: int = 1


def network_of(model: nn.Module) -> nn.Module:
    """Return the network in a `PixelModel`, or the model itself: layers are named within it."""
    return model.network if isinstance(model, PixelModel) else model


def find_cuts(model: nn.Module, image: Tensor) -> list[Cut]:
    """Return every place where the model can be cut, in execution order: between its batch norms if it has some.

    Args:
        model: left as found.
        image: (B,3,H,W), what one forward pass is read with.

    Raises:
        InputError: a model that cannot run on the image, or whose layers cannot be reached.
    """
    return list(_Dataflow(model, image).cuts().values())


def find_cut(model: nn.Module, at: str, image: Tensor) -> Cut:
    """Return one cut by name or alias.

    Args:
        model: left as found.
        at: a name within the network as `find_cuts` lists it, or a paper's ("conv2_3", "relu4_1").
        image: (B,3,H,W).

    Raises:
        InputError: an unknown layer, one that a skip connection passes by, or, where there are batch norms, one before
            the first or after the last.
    """
    flow = _Dataflow(model, image)
    cuts = flow.cuts()
    for cut in cuts.values():
        if at in (cut.name, *cut.aliases, *(f"network.{name}" for name in (cut.name, *cut.aliases))):
            return cut
    call = flow.calls.get(at.removeprefix("network."))
    if call is None:
        raise flow.not_met(at.removeprefix("network."), cuts)
    raise InputError(f"Cannot cut after {at!r}: {flow.fault(call)}. The nearest that work: {flow.nearest(call, cuts)}.")


class _Dataflow:
    """The autograd graph of one forward pass, and which modules put out which of its nodes."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        check_initialised(model)
        norms = running_norms(model)
        if not norms:
            check_reachable(model)
        fit_size(model, [image.shape[-2:]])
        self.network = network_of(model)
        known = {module: name for name, module in self.network.named_modules()}
        self.norms = {module: known[module] for module in norms.values()}
        self.calls: dict[str, _Call] = {}
        with evaluating(model), torch.inference_mode(False), torch.enable_grad(), self._listening():
            image = image.clone().detach().requires_grad_()
            logits = extract_logits(run(model, image.clone()))
        self.last = (logits.grad_fn, logits.output_nr)
        self.order, self.reaching = _sorted_nodes(logits.grad_fn, image)
        if logits.grad_fn not in self.reaching:
            raise InputError("Cannot follow the model: its logits do not depend on the image in a way torch can see.")
        self._paths = self._count_paths()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            if name in self.calls:
                self.calls[name].calls += 1
            else:
                edge = (output.grad_fn, output.output_nr) if isinstance(output, Tensor) else (None, 0)
                self.calls[name] = _Call(name, module, output, edge)

        inside = {child for norm in self.norms for child in modules_of(norm) if child is not norm}  # timm's activations
        handles = [
            module.register_forward_hook(partial(after, name))
            for name, module in self.network.named_modules()
            if name and module not in inside
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count_paths(self) -> Counter[Edge]:
        """Return, for each output of each node, how many paths from image to logits pass it."""
        to_image: Counter[Any] = Counter()
        for node in self.order:  # inputs before what uses them
            if node in self.reaching:
                to_image[node] = sum(to_image[parent] for parent, _ in node.next_functions) or 1
        from_logits: Counter[Any] = Counter([self.last[0]])
        paths = Counter({self.last: to_image[self.last[0]]})
        for node in reversed(self.order):
            for parent, number in node.next_functions:
                if parent in self.reaching:
                    from_logits[parent] += from_logits[node]
                    paths[parent, number] += from_logits[node] * to_image[parent]
        return paths

    def separates(self, call: _Call) -> bool:
        """Return whether all of the image passes the one output of a module."""
        return call.calls == 1 and self._paths[call.edge] == self._paths[self.last]

    def cuts(self) -> dict[Edge, Cut]:
        """Return the cuts by what they put out, in execution order."""
        found: dict[Edge, list[_Call]] = {}
        for call in self.calls.values():
            if self.separates(call) and call.output.ndim == 4 and call.output.is_floating_point():
                found.setdefault(call.edge, []).append(call)
        cuts = {}
        for edge, calls in found.items():
            before, after = self._norms_around(edge)
            if (before and after) if self.norms else edge != self.last:
                names = sorted((call.name for call in calls), key=lambda name: name.count("."))
                cuts[edge] = Cut(
                    names[0],
                    (
                        *names[1:],
                        *dict.fromkeys(alias for name in names if (alias := published_name(self.network, name))),
                    ),
                    tuple(calls[0].output.shape[1:]),
                    _is_rectified(edge[0]),
                    before,
                    after,
                )
        return cuts

    def _norms_around(self, edge: Edge) -> tuple[tuple[str, ...], tuple[str, ...]]:
        above = _ancestors(edge[0])
        norms = [call for call in self.calls.values() if call.module in self.norms and call.edge[0] in self.reaching]
        before = [call.name for call in norms if call.edge[0] in above]
        return tuple(before), tuple(call.name for call in norms if call.edge[0] not in above)

    def not_met(self, name: str, cuts: dict[Edge, Cut]) -> InputError:
        """Return the error for a name that no call goes by."""
        names = [name for name, _ in self.network.named_modules() if name]
        norms = [norm for norm in self.norms.values() if name.startswith(f"{norm}.")]
        if name in names:
            fault = f"it is a part of the norm {norms[0]}" if norms else "no image passes it"
            return InputError(f"Cannot cut after {name!r}: {fault}. Cuts that work: {_list(cuts)}.")
        return unknown("layer", name, [name for cut in cuts.values() for name in (cut.name, *cut.aliases)] or names)

    def fault(self, call: _Call) -> str:
        """Return why the model cannot be cut after a module."""
        if call.calls > 1:
            return f"it runs {call.calls} times in one forward pass"
        if not isinstance(call.output, Tensor):
            return f"it returns {type(call.output).__name__}, not one tensor"
        if not self._paths[call.edge]:
            return "what it returns does not lead from the image to the logits"
        if not self.separates(call):
            crossing = self._crossing(call.edge)
            return f"{' and '.join(crossing)} {'cross' if len(crossing) > 1 else 'crosses'} the cut"
        before, after = self._norms_around(call.edge)
        if self.norms and not before:
            return "it lies before the first batch norm"
        if self.norms and not after:
            return "it lies after the last batch norm, and nothing behind it has statistics"
        if call.edge == self.last:
            return "nothing lies behind it"
        return f"its output has shape {tuple(call.output.shape)}, not (B,C,H,W)"

    def _crossing(self, edge: Edge) -> list[str]:
        """Return what the part behind a cut takes beside its output."""
        behind: set[Any] = set()
        for node in self.order:
            if any(one == edge or one[0] in behind for one in node.next_functions):
                behind.add(node)
        crossing = [
            one
            for node in self.order
            if node in behind
            for one in node.next_functions
            if one[0] in self.reaching and one[0] not in behind and one != edge
        ]
        return list(dict.fromkeys(map(self._named, crossing)))

    def _named(self, edge: Edge) -> str:
        """Return what to call an output: that of the outermost module that puts it out, or what it is made of."""
        kind = ""
        while True:
            names = [call.name for call in self.calls.values() if call.edge == edge and call.calls == 1]
            if names:
                return f"{kind}the output of {min(names, key=lambda name: (name.count('.'), name))}"
            inputs = [one for one in edge[0].next_functions if one[0] in self.reaching]
            if not inputs:
                return f"{kind}the image"
            edge, kind = inputs[0], "what is made of "

    def nearest(self, call: _Call, cuts: dict[Edge, Cut]) -> str:
        """Return the names of the cuts next before and after a module's end, in execution order."""
        names = list(self.calls)
        here = names.index(call.name)
        places = sorted((names.index(cut.name), cut.name) for cut in cuts.values())
        before = [name for place, name in places if place < here][-1:]
        after = [name for place, name in places if place > here][:1]
        return ", ".join([*before, *after]) or "none"


def _is_rectified(node: Any) -> bool:
    kind = type(node).__name__
    if kind.startswith(("MaxPool", "AvgPool", "CatBackward")):
        return all(_is_rectified(parent) for parent, _ in node.next_functions)
    return kind.startswith("ReluBackward") or (kind.startswith("HardtanhBackward") and node._saved_min_val >= 0)


def _list(cuts: dict[Edge, Cut]) -> str:
    names = [cut.name for cut in cuts.values()]
    return ", ".join(names[:MOST]) + (f", ... ({len(names)} in all)" if len(names) > MOST else "") or "none"


def _sorted_nodes(last: Any, image: Tensor) -> tuple[list[Any], set[Any]]:
    """Return the nodes behind `last`, inputs first, and those that depend on the image."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(last, False)] if last is not None else []
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.next_functions if parent is not None]
    reaching: set[Any] = set()
    for node in order:
        if getattr(node, "variable", None) is image or any(parent in reaching for parent, _ in node.next_functions):
            reaching.add(node)
    return order, reaching


def _ancestors(node: Any) -> set[Any]:
    """Return a node and all that it is made of."""
    found, stack = set(), [node]
    while stack:
        at = stack.pop()
        if at is not None and at not in found:
            found.add(at)
            stack += [parent for parent, _ in at.next_functions]
    return found
