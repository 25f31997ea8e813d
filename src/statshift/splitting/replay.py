"""A model cut in two by replay: the prefix stops the model's own Python at the cut, and the suffix runs it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn

from statshift._core.errors import InputError
from statshift.splitting.cuts import Cut, network_of
from statshift.splitting.parts import Split, as_network_takes, generator_states, set_generator_states


def replayed(model: nn.Module, cut: Cut | None, image: Tensor) -> Split:
    """Return a model's parts; the suffix runs on the latest prefix, and before the first on an image (B,3,H,W)."""
    return _replayed_split(model, cut, _Record(image))


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


def _replayed_split(model: nn.Module, cut: Cut | None, record: _Record) -> Split:
    network = network_of(model)

    def run_prefix(images: Tensor) -> Any:
        images = as_network_takes(model, images)
        if cut is None:
            return images
        states = generator_states(images.device)
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

    return Split(model, cut, None, run_prefix, run_suffix, partial(_replayed_split, cut=cut, record=record))


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
    now = generator_states(features.device)

    def reach(*args: Any, **kwargs: Any) -> Tensor:
        set_generator_states(features.device, now)
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
        set_generator_states(features.device, states)
        yield met
    finally:
        if not met:
            set_generator_states(features.device, now)
        for module, forward in own.items():
            if forward is not None:
                module.forward = forward
            elif "forward" in vars(module):
                del module.forward
