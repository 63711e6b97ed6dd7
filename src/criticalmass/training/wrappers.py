"""Wrappers: they change the images, the activations or the classifiers that a loss sees.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.balls import BALLS
from criticalmass.training.terms import Readout, Term, TermContext

# Steps of an attack together reach this multiple of the radius (Madry et al. 2018).
_REACH = 2.5


class Dropout(Term):
    """Sets each activation to zero with probability p and divides the others by 1 - p."""

    def transform(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Drop independently in each row."""
        keep = 1 - float(self.options["p"])
        mask = torch.rand(features.shape, generator=generator).to(features.device) < keep
        return features * mask / keep


class NestedDropout(Term):
    """Keeps a random number of first neurons of each image (Rippel et al. 2014)."""

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        self._sizes = check_sizes("nested-dropout", options["sizes"], context)

    def transform(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Set the neurons from the drawn size on to zero."""
        draws = torch.randint(0, len(self._sizes), (len(features), 1), generator=generator)
        sizes = torch.tensor(self._sizes)[draws].to(features.device)
        kept = torch.arange(features.shape[1], device=features.device) < sizes
        return features * kept


class Matryoshka(Term):
    """A classifier for each number of first neurons; that of all neurons is the network's own."""

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        sizes = check_sizes("matryoshka", options["sizes"], context)
        smaller = [size for size in sizes if size < context.n_neurons]
        self.heads = nn.ModuleList(nn.Linear(size, context.n_classes) for size in smaller)

    def readouts(self, classifier: nn.Linear, features: Tensor) -> list[Readout]:
        """Return the classifiers on each number of first neurons and on all."""
        smaller = [
            Readout(features[:, : head.in_features], head.weight, head.bias)
            for head in self.heads
            if isinstance(head, nn.Linear)
        ]
        return [*smaller, *super().readouts(classifier, features)]


class MatryoshkaShared(Term):
    """The first columns of one classifier, for each number of first neurons."""

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        sizes = check_sizes("matryoshka-shared", options["sizes"], context)
        self._smaller = [size for size in sizes if size < context.n_neurons]

    def readouts(self, classifier: nn.Linear, features: Tensor) -> list[Readout]:
        """Return the classifier cut to each number of first neurons, and whole."""
        smaller = [
            Readout(features[:, :size], classifier.weight[:, :size], classifier.bias)
            for size in self._smaller
        ]
        return [*smaller, *super().readouts(classifier, features)]


class FirstNeuronsHead(Term):
    """The classifier reads the first k neurons: the others get no gradient from it."""

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        [self._k] = check_sizes("first-neurons", [options["k"]], context)
        # They get no gradient, so they stay zero, also in the network without this wrapper.
        with torch.no_grad():
            context.network.linear_head().weight[:, self._k :] = 0

    def readouts(self, classifier: nn.Linear, features: Tensor) -> list[Readout]:
        """Return the classifier cut to the first neurons."""
        first = classifier.weight[:, : self._k]
        return [Readout(features[:, : self._k], first, classifier.bias)]


def check_sizes(name: str, sizes: Any, context: TermContext) -> list[int]:
    """Return the different sizes, ascending; sizes above the layer's width are left out.

    Raises
    ------
    CriticalMassError: all are above the width.
    """
    fitting = sorted({int(size) for size in sizes if size <= context.n_neurons})
    if not fitting:
        raise CriticalMassError(
            f"{name} with {list(sizes)}: all are above the {context.n_neurons} neurons of the layer"
        )
    return fitting


class Adversarial(Term):
    """Projected gradient ascent on the loss within a ball (Madry et al. 2018)."""

    def perturb(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Tensor:
        """Start at a random point of the ball; take steps; keep pixels in 0..1."""
        ball = BALLS[self.options["norm"]](float(self.options["radius"]))
        steps = int(self.options["steps"])
        length = _REACH * ball.radius / steps
        share = torch.rand((len(images), 1, 1, 1), generator=generator).to(images)
        moved = (images + share * ball.draw(images, generator)).clamp(0, 1)
        for _ in range(steps):
            moved = moved.detach().requires_grad_(True)
            [gradient] = torch.autograd.grad(loss_of(moved), moved)
            change = ball.project(moved.detach() + length * ball.steepest(gradient) - images)
            moved = (images + change).clamp(0, 1)
        return moved.detach()


class Noise(Term):
    """A change of a given norm in a random direction, as a control of `Adversarial`."""

    def perturb(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Tensor:
        """Move each image; keep pixels in 0..1."""
        ball = BALLS[self.options["norm"]](float(self.options["radius"]))
        return (images + ball.draw(images, generator)).clamp(0, 1)
