"""A model in two parts over its own parameters: `prefix(images)` returns features, `suffix(features)` logits.

By torch.fx where the model can be traced, else by replay: the prefix stops the model's own Python at the cut, and the
suffix runs it again while the prefix's modules return what they returned before. No model file is edited, nothing is
copied, and the prefix is computed once however often the suffix runs.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from statshift._core.errors import InputError
from statshift.models import PixelModel, extract_logits
from statshift.norms.kinds import keeps_statistics
from statshift.norms.layers import evaluating, run
from statshift.splitting.cuts import INPUT, Cut, find_cut, network_of

Part = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Split:
    """A model cut in two.

    Each part follows the model's own train flags, as the whole does; under torch.fx functional dropout follows that of
    the network alone.

    Attributes:
        model: whose parts these are.
        cut: where; None for the input, where the prefix only normalises, if that.
        graph: the suffix in evaluation mode as torch.fx traced it; None where it could not and the suffix is replayed.
        copies: whether the suffix changes its input in evaluation mode, so that it is given a copy.
    """

    model: nn.Module
    cut: Cut | None
    graph: fx.Graph | None = field(repr=False)
    _prefix: Part = field(repr=False)
    _suffix: Part = field(repr=False)
    _build: Callable[[nn.Module], "Split"] = field(repr=False)
    copies: bool = False

    def prefix(self, images: Tensor) -> Tensor:
        """Return the features (B,C,H,W) of images (B,3,H,W)."""
        features: Tensor = self._prefix(images)
        return features

    def suffix(self, features: Tensor) -> Tensor:
        """Return the logits (B,K) of features, which stay as they are; by replay, on the latest prefix of as many."""
        if self.copies or self.model.training:  # dropout may be in place
            features = features.clone()
        return extract_logits(self._suffix(features))

    def onto(self, model: nn.Module) -> "Split":
        """Return the same split of another model of the same structure; by replay they share the latest prefix."""
        return replace(self._build(model), copies=self.copies)

    def compiled(self) -> "Split":
        """Return the split with its suffix through `torch.compile`.

        Raises:
            InputError: torch.fx could not trace the model.
        """
        if self.graph is None:
            raise InputError("Cannot compile the model: torch.fx cannot trace it. Leave out `compiled`.")
        return replace(self, _suffix=torch.compile(self._suffix))


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
    cut = None if at == INPUT else find_cut(model, at, image)
    with torch.inference_mode(False), torch.no_grad(), evaluating(model):
        image = image.clone()
        logits = extract_logits(run(model, image.clone()))
        found = _attempt_trace(model, cut, image, logits) if trace else None
        found = found or _checked(_replayed(model, cut, _Record(image)), image, logits)
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


def _enter(model: nn.Module, images: Tensor) -> Tensor:
    return model.normalise(images) if isinstance(model, PixelModel) else images


# By torch.fx


def _attempt_trace(model: nn.Module, cut: Cut | None, image: Tensor, logits: Tensor) -> Split | None:
    try:
        graphs = {mode: _cut_graph(network_of(model), cut, mode) for mode in (False, True)}
        functions = {mode: (_function(prefix), _function(suffix)) for mode, (prefix, suffix) in graphs.items()}
        return _checked(_traced(model, cut, graphs[False][1], functions), image, logits)
    except Exception:  # torch.fx raises whatever the model's Python raises on a symbol
        return None


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
    unused = [node for node in nodes if not node.users and node.op != "output"]  # they may act in place
    prefix, suffix = fx.Graph(), fx.Graph()
    _copy(nodes, prefix, [*(node for node in unused if node < at), at], {})
    _copy(nodes, suffix, [*behind.intersection(unused), nodes[-1]], {at: suffix.placeholder("features")})
    return prefix, suffix


@contextmanager
def _tracing(network: nn.Module, training: bool) -> Iterator[None]:
    """Leave the network as found; refuse a trace into which a constant or a random number was written."""
    flags = [(module, module.training) for module in network.modules()]
    names, device = set(vars(network)), torch.device("cpu")
    states = _states(device)
    try:
        for module, _ in flags:
            module.training = training
        yield
        drawn = random.getstate() != states[0] or not torch.equal(torch.get_rng_state(), states[1])
        if drawn or names != set(vars(network)):
            raise InputError("The trace would be of one draw, or keep a tensor of its own.")
    finally:
        _set_states(device, states)
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
            if node.op == "placeholder" and known:
                raise InputError("The image crosses the cut.")
            known[node] = graph.node_copy(node, known.__getitem__)
    if wanted[-1].op != "output":
        graph.output(known[wanted[-1]])


def _function(graph: fx.Graph) -> Callable[..., Any]:
    """Return a graph as a function of the network and the graph's input: it reads the network as it is when called."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(code.src, scope)
    found: Callable[..., Any] = scope["forward"]
    return found


def _traced(
    model: nn.Module,
    cut: Cut | None,
    graph: fx.Graph,
    functions: dict[bool, tuple[Callable[..., Any], Callable[..., Any]]],
) -> Split:
    network = network_of(model)

    def run_prefix(images: Tensor) -> Any:
        return functions[network.training][0](network, _enter(model, images))

    def run_suffix(features: Tensor) -> Any:
        return functions[network.training][1](network, features)

    return Split(model, cut, graph, run_prefix, run_suffix, partial(_traced, cut=cut, graph=graph, functions=functions))


# By replay


class _Reached(BaseException):  # no model's `except Exception` shall catch it
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


@dataclass
class _Record:
    """What the prefix met on its latest way to the cut.

    Attributes:
        images: as the network takes them.
        states: states of the random generators at its start.
        outputs: outputs of the modules that came to their end, and not inside another that did, by name; one a call.
    """

    images: Tensor
    states: list[Any] = field(default_factory=list)
    outputs: dict[str, list[Any]] = field(default_factory=dict)


def _replayed(model: nn.Module, cut: Cut | None, record: _Record) -> Split:
    network = network_of(model)

    def run_prefix(images: Tensor) -> Any:
        images = _enter(model, images)
        if cut is None:
            return images
        states = _states(images.device)
        ended: list[list[tuple[str, Any]]] = [[]]  # within each module that runs
        with _listening(network, cut.name, ended):
            try:
                network(images)
            except _Reached as reached:
                record.images, record.states, record.outputs = images.detach(), states, {}
                for name, output in chain(*ended):
                    record.outputs.setdefault(name, []).append(output)
                return reached.features.clone()  # the model may change what it shares with the record
        raise InputError(f"The model no longer passes {cut.name!r}.")

    def run_suffix(features: Tensor) -> Any:
        if cut is None:
            return network(features)
        modules = dict(network.named_modules())
        known = {modules[name]: outputs for name, outputs in record.outputs.items()}
        with _returning(known, modules[cut.name], features, record.states) as met:
            found = network(record.images)
        if not met:
            raise InputError(f"The model no longer passes {cut.name!r}.")
        return found

    return Split(model, cut, None, run_prefix, run_suffix, partial(_replayed, cut=cut, record=record))


@contextmanager
def _listening(network: nn.Module, last: str, ended: list[list[tuple[str, Any]]]) -> Iterator[None]:
    """Note which modules end with which output, those within one that ends forgotten; raise at the end of the last."""

    def before(module: nn.Module, inputs: Any) -> None:
        ended.append([])

    def after(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        ended.pop()
        ended[-1].append((name, output))
        if name == last:
            ended[-1].pop()
            raise _Reached(output)

    handles: list[Any] = []
    for name, module in network.named_modules():
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(partial(after, name))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _returning(
    known: dict[nn.Module, list[Any]], last: nn.Module, features: Tensor, states: list[Any]
) -> Iterator[list[nn.Module]]:
    """Let each module return its known outputs, one a call, and run once they are used up; and the last the features.

    Up to the last the model draws what the prefix drew; behind it, as if it had not. Yields the last, once met.
    """
    met: list[nn.Module] = []
    now = _states(features.device)

    def reach(*args: Any, **kwargs: Any) -> Tensor:
        _set_states(features.device, now)
        met.append(last)
        return features

    def recall(outputs: Iterator[Any], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            return output.detach() if isinstance(output, Tensor) else output
        return run(*args, **kwargs)

    own = {module: vars(module).get("forward") for module in (*known, last)}
    try:
        for module, outputs in known.items():
            module.forward = partial(recall, iter(outputs), module.forward)
        last.forward = reach
        _set_states(features.device, states)
        yield met
    finally:
        if not met:
            _set_states(features.device, now)
        for module, forward in own.items():
            if forward is not None:
                module.forward = forward
            elif "forward" in vars(module):
                del module.forward


def _states(device: torch.device) -> list[Any]:
    """Return the states of the random generators that a model on a device may draw from."""
    return [random.getstate(), torch.get_rng_state(), *([_on(device).get_rng_state(device)] if _on(device) else [])]


def _set_states(device: torch.device, states: list[Any]) -> None:
    random.setstate(states[0])
    torch.set_rng_state(states[1])
    for state in states[2:]:
        _on(device).set_rng_state(state, device)


def _on(device: torch.device) -> Any:
    return None if device.type == "cpu" else torch.get_device_module(device)
