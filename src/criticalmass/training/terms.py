"""What the terms of an objective see, and their sum. This module imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criticalmass.extraction.models.small_networks import TrainableNetwork
from criticalmass.training.objectives import OBJECTIVES
from criticalmass.training.recipe import ObjectiveEntry


@dataclass(frozen=True)
class TermContext:
    """What the terms of an objective are built for.

    Attributes
    ----------
    network: the network that is trained.
    n_classes: number of classes of the training labels.
    """

    network: TrainableNetwork
    n_classes: int

    @property
    def n_neurons(self) -> int:
        """Width of the penultimate layer."""
        return self.network.n_neurons


@dataclass(frozen=True)
class Readout:
    """A linear classifier and the activations that it reads.

    Attributes
    ----------
    features: (n, n_read) activations.
    weight: (n_classes, n_read).
    bias: (n_classes,).
    """

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def logits(self) -> Tensor:
        """The (n, n_classes) logits."""
        return F.linear(self.features, self.weight, self.bias)


@dataclass(frozen=True)
class Outputs:
    """The activations of one batch.

    Attributes
    ----------
    features: (n_views * n, n_neurons) activations before the wrappers.
    labels: (n_views * n,) class numbers.
    n_views: views of each image; those of one kind follow each other.
    wrapped: the (n_views * n, n_neurons) activations after the wrappers.
    readouts: the classifiers that the losses are averaged over; none without a classifier.
    """

    features: Tensor
    labels: Tensor
    n_views: int
    wrapped: Tensor
    readouts: Sequence[Readout]


class Term(nn.Module):
    """A term of an objective; each kind overrides one method.

    Parameters
    ----------
    options: name -> value.
    context: what the term is built for.
    """

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__()
        self.options = options

    def perturb(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Tensor:
        """Change (n, 3, height, width) images in 0..1 (kind "inputs")."""
        return images

    def transform(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Change (n, n_neurons) activations before the classifier (kind "features")."""
        return features

    def readouts(self, classifier: nn.Linear, features: Tensor) -> list[Readout]:
        """Return each classifier and what it reads (kind "outputs")."""
        return [Readout(features, classifier.weight, classifier.bias)]

    def loss(self, outputs: Outputs) -> Tensor:
        """Return the value of a loss or penalty, a scalar; zero for the other kinds."""
        return outputs.features.new_zeros(())

    def after_step(self) -> None:
        """Restore what an optimiser's step may break."""


class Objectives(nn.Module):
    """The terms of a recipe, together.

    Parameters
    ----------
    entries: the objectives of the recipe.
    context: what the terms are built for.
    """

    def __init__(self, entries: Sequence[ObjectiveEntry], context: TermContext) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        for entry in entries:
            objective = OBJECTIVES[entry.name]
            self.terms[entry.name] = objective.load()(entry.options, context)
        self._kinds = {entry.name: OBJECTIVES[entry.name].kind for entry in entries}
        self._plain = Term({}, context)

    def _of_kind(self, *kinds: str) -> list[tuple[str, Term]]:
        return [
            (name, term)
            for name, term in self.terms.items()
            if self._kinds[name] in kinds and isinstance(term, Term)
        ]

    def perturb(
        self, images: Tensor, loss_of: Callable[[Tensor], Tensor], generator: torch.Generator
    ) -> Tensor:
        """Apply the terms of kind "inputs" in turn."""
        for _, term in self._of_kind("inputs"):
            images = term.perturb(images, loss_of, generator)
        return images

    def values(
        self,
        network: TrainableNetwork,
        features: Tensor,
        labels: Tensor,
        n_views: int,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Return the value of each loss and penalty; their sum is minimised."""
        wrapped = features
        for _, term in self._of_kind("features"):
            wrapped = term.transform(wrapped, generator)
        classifiers = self._of_kind("outputs")
        chooser = classifiers[0][1] if classifiers else self._plain
        classifier = network.get_classifier()
        readouts = [] if classifier is None else chooser.readouts(classifier, wrapped)
        outputs = Outputs(features, labels, n_views, wrapped, readouts)
        return {name: term.loss(outputs) for name, term in self._of_kind("loss", "penalty")}

    def after_step(self) -> None:
        """Let each term restore what the optimiser's step may break."""
        for term in self.terms.values():
            if isinstance(term, Term):
                term.after_step()
