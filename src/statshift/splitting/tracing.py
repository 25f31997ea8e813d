"""A model cut in two by torch.fx: the graphs of prefix and suffix, as functions of the network as it is."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift._core.walking import modules_of
from statshift.norms.kinds import keeps_statistics
from statshift.splitting.cuts import Cut, network_of
from statshift.splitting.parts import ImageSize, Split, as_network_takes, generator_states, set_generator_states


def traced(model: nn.Module, cut: Cut | None) -> Split:
    """Return a model's parts, of the graphs in both modes; where torch.fx cannot trace it, raise whatever it raises."""
    graphs = {mode: _cut_graph(network_of(model), cut, mode) for mode in (False, True)}
    if _inputs(graphs[False][1]) != _inputs(graphs[True][1]):
        raise InputError("The suffix reads the image's size in one mode alone.")
    functions = {mode: (_function(prefix), _function(suffix)) for mode, (prefix, suffix) in graphs.items()}
    return _traced_split(model, cut, graphs[False][1], functions)


def _inputs(graph: fx.Graph) -> int:
    return sum(node.op == "placeholder" for node in graph.nodes)


class _Tracer(fx.Tracer):
    """Keeps torch's modules, their subclasses, and norms whole, and remembers which node each module put out."""

    def __init__(self) -> None:
        super().__init__(param_shapes_constant=True)
        self.outputs: dict[str, list[Any]] = {}

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        kinds = (nn.modules.conv._ConvNd, nn.Linear)
        if isinstance(module, (_BatchNorm, *kinds)) or keeps_statistics(module):
            return True
        return bool(super().is_leaf_module(module, name))

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        found = super().call_module(m, forward, args, kwargs)
        self.outputs.setdefault(self.path_of_module(m), []).append(getattr(found, "node", None))
        return found


def _cut_graph(network: nn.Module, cut: Cut | None, training: bool) -> tuple[fx.Graph, fx.Graph]:
    """Return the graphs of prefix and suffix, as the network is in one mode; functional dropout is as of this mode."""
    tracer = _Tracer()
    with _tracing(network, training):
        graph = tracer.trace(network)
    nodes = list(graph.nodes)
    (at,) = nodes[:1] if cut is None else tracer.outputs[cut.name]  # the first node is the image
    behind = {at}
    for node in nodes:
        if behind.intersection(node.all_input_nodes):
            behind.add(node)
    nodes[-1].args = (_logits_of(nodes[-1].args[0]),)
    unused = [node for node in nodes if not node.users and node.op != "output"]  # they may act in place
    prefix, suffix = fx.Graph(), fx.Graph()
    _copy(nodes, prefix, [*(node for node in unused if node < at), at], {})
    _copy(nodes, suffix, [*behind.intersection(unused), nodes[-1]], {at: suffix.placeholder("features")})
    return prefix, suffix


@contextmanager
def _tracing(network: nn.Module, training: bool) -> Iterator[None]:
    """Leave the network as found; refuse a trace into which a constant or a random number was written."""
    flags = [(module, module.training) for module in modules_of(network)]
    names, device = set(vars(network)), torch.device("cpu")
    states = generator_states(device)
    try:
        for module, _ in flags:
            module.training = training
        yield
        drawn = random.getstate() != states[0] or not torch.equal(torch.get_rng_state(), states[1])
        if drawn or names != set(vars(network)):
            raise InputError("The trace would be of one draw, or keep a tensor of its own.")
    finally:
        set_generator_states(device, states)
        for name in set(vars(network)) - names:
            delattr(network, name)
        for module, flag in flags:
            module.training = flag


def _copy(nodes: list[fx.Node], graph: fx.Graph, wanted: list[fx.Node], known: dict[fx.Node, fx.Node]) -> None:
    """Copy into `graph` what the wanted nodes are made of, down to what is known already; it puts out the last."""
    needed: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in needed and node not in known:
            needed.add(node)
            stack += node.all_input_nodes
    for node in nodes:
        if node in needed:
            if node.op == "placeholder" and known and not all(map(_reads_size, needed.intersection(node.users))):
                raise InputError("The image crosses the cut.")
            known[node] = graph.node_copy(node, known.__getitem__)
    if wanted[-1].op != "output":
        graph.output(known[wanted[-1]])


def _reads_size(node: fx.Node) -> bool:
    """Return whether a node asks a tensor for its size alone."""
    if node.op == "call_method":
        return node.target == "size"
    return node.op == "call_function" and node.target is getattr and node.args[1:] == ("shape",)


def _logits_of(output: Any) -> Any:
    """Return of a dict the logits alone, as `extract_logits` finds them, without what an auxiliary head answers."""
    if not isinstance(output, Mapping):
        return output
    return output.get("logits", output.get("out", output))


def _function(graph: fx.Graph) -> Callable[..., Any]:
    """Return a graph as a function of the network and the graph's input: it reads the network as it is when called."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)
    found: Callable[..., Any] = scope["forward"]
    return found


def _traced_split(
    model: nn.Module,
    cut: Cut | None,
    graph: fx.Graph,
    functions: dict[bool, tuple[Callable[..., Any], Callable[..., Any]]],
) -> Split:
    network = network_of(model)

    def run_prefix(images: Tensor) -> Any:
        return functions[network.training][0](network, as_network_takes(model, images))

    def run_suffix(features: Tensor, *sizes: ImageSize) -> Any:
        return functions[network.training][1](network, features, *sizes)

    build = partial(_traced_split, cut=cut, graph=graph, functions=functions)
    return Split(model, cut, graph, run_prefix, run_suffix, build, sized=_inputs(graph) == 2)
