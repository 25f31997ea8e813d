"""A part of a model in evaluation mode with its batch norms folded into the convolutions before them.

The fold is a function of the tensors as they are when it is asked for, and is handed to the call: none is kept, so
none can be stale.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

FoldedWeights = list[Tensor]


@dataclass(frozen=True)
class Folded:
    """A part of a model, with convolutions that take their weights as arguments.

    Attributes:
        pairs: each convolution and the batch norm that is folded into it.
        part: features (B,C,H,W), the folded weights and biases, two a pair, and what else the part takes, to what it
            returns.
    """

    pairs: list[tuple[nn.Conv2d, _BatchNorm]]
    part: Callable[..., Any]

    @torch.no_grad()
    def weights(self, dtype: torch.dtype | None = None) -> FoldedWeights:
        """Return the folded weights and biases of now, of a type if one is given; detached."""
        return [tensor.to(dtype) for conv, norm in self.pairs for tensor in fold(conv, norm)]

    def __call__(self, features: Tensor, weights: FoldedWeights, *more: Any) -> Any:
        """Return what the part returns in evaluation mode, which its other modules must be in."""
        return self.part(features, *weights, *more)


def fold(conv: nn.Conv2d, norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one convolution that does what `conv` and then `norm` do in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else torch.addcmul(norm.bias, shift, scale)
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def folded(root: nn.Module, graph: fx.Graph, *, compiled: bool = False) -> Folded:
    """Return a part with every batch norm folded that stands alone behind a plain convolution.

    Args:
        root: the model whose modules the graph names.
        graph: the part's, in evaluation mode, with norms as leaves.
        compiled: run it through `torch.compile`.
    """
    graph = _copied(graph)
    uses = Counter(root.get_submodule(node.target) for node in graph.nodes if node.op == "call_module")
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []
    entrance = next(node for node in graph.nodes if node.op == "placeholder")
    for node in list(graph.nodes):
        pair = _pair(root, node, uses)
        if pair is None:
            continue
        conv, norm = pair
        before = node.args[0]
        with graph.inserting_after(entrance):
            bias = graph.placeholder(f"bias_{len(pairs)}")
            weight = graph.placeholder(f"weight_{len(pairs)}")
        with graph.inserting_before(node):
            inputs = (before.args[0], weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
            found = graph.call_function(F.conv2d, inputs)
            for name in _after(norm) or ():
                found = graph.call_module(f"{node.target}.{name}", (found,))
        node.replace_all_uses_with(found)
        graph.erase_node(node)
        graph.erase_node(before)
        entrance = bias
        pairs.append(pair)
    graph.lint()
    part = fx.GraphModule(root, graph, "Folded").forward
    return Folded(pairs, torch.compile(part) if compiled else part)


def _pair(root: nn.Module, node: fx.Node, uses: Counter[nn.Module]) -> tuple[nn.Conv2d, _BatchNorm] | None:
    """Return convolution and norm if a node is a batch norm whose only input is a convolution that nothing else sees.

    Hooks may change what a module does (torch's weight norm, pruning), so one with hooks is left alone.
    """
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or before.kwargs or len(before.users) != 1:
        return None
    conv, norm = (root.get_submodule(str(one.target)) for one in (before, node))
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        return None
    if not isinstance(norm, _BatchNorm) or _after(norm) is None:
        return None
    once = uses[conv] == uses[norm] == 1
    hooked = any(one._forward_pre_hooks or one._forward_hooks for one in (conv, norm))
    return (conv, norm) if once and not hooked else None


def _after(norm: _BatchNorm) -> tuple[str, ...] | None:
    """Return which of its modules a norm calls on what a batch norm gives; None where it does anything else."""
    forward = type(norm).forward
    if norm.running_mean is None:
        return None
    if forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return ()
    names = ("drop", "act")
    known = forward.__module__ == "timm.layers.norm_act"
    return names if known and all(isinstance(getattr(norm, name, None), nn.Module) for name in names) else None


def _copied(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    last = copy.graph_copy(graph, {})
    copy.output(last)
    return copy
