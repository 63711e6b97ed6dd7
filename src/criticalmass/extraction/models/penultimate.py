"""The penultimate layer of a torch network: what its classifier reads, or its output.

This module imports torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from criticalmass.extraction.models.frozen import PENULTIMATE, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

# The output of the whole model is the penultimate layer of a network without a classifier.
MODEL_OUTPUT = Tap(PENULTIMATE, "", "output")
# What a network raises on an input that it does not take. These are the errors of a trial pass,
# which is made to inspect a network and which may fail.
TRIAL_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError,
)  # fmt: skip


def find_penultimate(root: nn.Module, run_example: Callable[[], Any]) -> Tap:
    """Find the penultimate layer of a network.

    It is the input of the classifier. Several classifiers (a distilled head, one head per branch)
    are read together: their inputs side by side, each different input once. A network without a
    classifier has its output as its penultimate layer.

    The classifier is what the network's ``get_classifier`` returns (timm). Otherwise it is the
    last linear module, if the network ends with it; where the modules' order does not show that,
    one example is run.

    Parameters
    ----------
    root: the network.
    run_example: runs the network on one small input batch and returns its output.
    """
    from torch import nn

    heads = _listed_heads(root)
    if heads is None:
        return _input_of(_last_linear(root, run_example))
    if len(heads) > 1 and all(isinstance(head, nn.Identity) for head in heads.values()):
        return MODEL_OUTPUT
    return _input_of(heads)


def input_width(module: nn.Module) -> int | None:
    """Return the number of columns of a network's first matrix, the width of vectors it takes."""
    matrices = (weight for weight in module.parameters() if weight.ndim == 2)
    first = next(matrices, None)
    return None if first is None else int(first.shape[1])


def _input_of(names: Iterable[str]) -> Tap:
    """Return the tap of the inputs of some modules; of the model's output if there are none."""
    first, *others = [*names] or [""]
    return Tap(PENULTIMATE, first, "input", tuple(others)) if first else MODEL_OUTPUT


def _listed_heads(root: nn.Module) -> dict[str, nn.Module] | None:
    """Return the modules that ``get_classifier`` lists: path -> module.

    It is empty for an encoder, whose ``get_classifier`` returns None, and None for a network that
    does not say what its classifier is.
    """
    get_classifier = getattr(root, "get_classifier", None)
    if not callable(get_classifier):
        return None
    classifier = get_classifier()
    listed = [id(module) for module in _flattened(classifier)]
    heads = {name: module for name, module in root.named_modules() if id(module) in listed}
    return heads if heads or classifier is None else None


def _flattened(classifier: Any) -> Iterator[nn.Module]:
    """Yield the modules of a classifier, or of (nested) collections of classifiers."""
    from torch import nn

    if isinstance(classifier, (tuple, list, nn.ModuleList)):
        for item in classifier:
            yield from _flattened(item)
    elif isinstance(classifier, (Mapping, nn.ModuleDict)):
        for item in classifier.values():
            yield from _flattened(item)
    elif isinstance(classifier, nn.Module):
        yield classifier


def _last_linear(root: nn.Module, run_example: Callable[[], Any]) -> list[str]:
    """Return the path of the linear module that the network ends with; empty if there is none."""
    from torch import nn

    leaves = {name: module for name, module in _leaves(root) if _is_relevant(module)}
    linear = [name for name, module in leaves.items() if isinstance(module, nn.Linear)]
    if not linear:
        return []
    last = linear[-1]
    # A single linear layer after others of another kind: the usual classifier.
    is_usual = [*leaves][-1] == last and linear[-2:] != [*leaves][-2:]
    if is_usual and not _is_in_repeated_block(root, last):
        return [last]
    try:
        return _final_linears(root, leaves, run_example)
    except TRIAL_ERRORS:
        # The extraction itself reports an input that the network does not take.
        return [last]


def _leaves(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in root.named_modules():
        if name and next(module.children(), None) is None:
            yield name, module


def _is_relevant(module: nn.Module) -> bool:
    """Whether a leaf computes with parameters, or stands where a classifier was removed."""
    from torch import nn

    return isinstance(module, nn.Identity) or next(module.parameters(), None) is not None


def _is_in_repeated_block(root: nn.Module, path: str) -> bool:
    """Whether a module is a part of a block that the network has several of."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        parent = root.get_submodule(".".join(parts[: length - 1]))
        block = root.get_submodule(".".join(parts[:length]))
        if sum(type(child) is type(block) for child in parent.children()) > 1:
            return True
    return False


def _final_linears(
    root: nn.Module, leaves: Mapping[str, nn.Module], run_example: Callable[[], Any]
) -> list[str]:
    """Run an example; return the linear modules that make the output.

    A linear module makes the output if it returns one of the output's tensors. The last one also
    does if the output is vectors of its width and no other module with parameters runs after it,
    e.g. if a softmax follows. An identity that follows directly, e.g. a switched-off softmax,
    changes nothing; one after another operation shows that the classifier was removed.
    """
    import torch

    trace = _Trace()
    handles = [module.register_forward_hook(trace.hook_of(name)) for name, module in leaves.items()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            outputs = list(_tensors(run_example()))
    finally:
        for handle in handles:
            handle.remove()
    heads = [name for name, value in trace.linear.items() if any(value is out for out in outputs)]
    if heads or not trace.linear or trace.is_followed or not outputs:
        return heads
    last, value = next(reversed(trace.linear.items()))
    return [last] if outputs[0].ndim == 2 and value.shape == outputs[0].shape else []


class _Trace:
    """The linear modules that run in one pass.

    Attributes
    ----------
    linear: path -> output of the last linear module that ran, and of those before it that return
        vectors, (n, d). The other outputs are not kept, because they may be large.
    is_followed: whether another module, which may change its output, ran after the last one.
    """

    def __init__(self) -> None:
        self.linear: dict[str, Tensor] = {}
        self.is_followed = False

    def hook_of(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """Return the hook that records the runs of one module."""
        from torch import nn

        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            last = next(reversed(self.linear), None)
            if isinstance(module, nn.Linear):
                if last is not None and self.linear[last].ndim != 2:
                    del self.linear[last]
                self.linear.pop(name, None)
                self.linear[name], self.is_followed = output, False
            elif last is not None:
                is_direct = bool(inputs) and inputs[0] is self.linear[last]
                self.is_followed |= not (isinstance(module, nn.Identity) and is_direct)

        return record


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a network's output."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
