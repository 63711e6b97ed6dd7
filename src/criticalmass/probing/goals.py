"""The goals of a search for images with given neurons. This module imports torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from criticalmass.probing.loop import Scores, SearchGoal
from criticalmass.probing.network import ImageNetwork
from criticalmass.probing.objectives import InversionObjective
from criticalmass.probing.pictures import rms
from criticalmass.probing.subsets import SubsetSplit

# Halvings of the interval in which the largest admissible share of a change lies.
_HALVINGS = 16


@dataclass(frozen=True, eq=False)
class SearchTargets:
    """The n problems of a search: what each is to match, with which subset.

    Attributes
    ----------
    images: (n, 3, pixels, pixels), the target of each problem.
    features: (n, n_neurons) its activations.
    numbers: (n,) its subset.
    kept, dropped: (n,) root mean square distance of the kept and the dropped neurons of unrelated
        images.
    pixels: (n,) the same of pixels, as RMS.
    """

    images: Tensor
    features: Tensor
    numbers: Tensor
    kept: Tensor
    dropped: Tensor
    pixels: Tensor


class NeuronDistances:
    """Relative errors of the kept and the dropped neurons of images."""

    def __init__(self, network: ImageNetwork, split: SubsetSplit, targets: SearchTargets) -> None:
        self._network = network
        self._split = split
        self.targets = targets

    def errors(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors of the kept and of the dropped, each (n,), for problems ``rows``."""
        return self.errors_of(self._network.read(images).features, rows)

    def errors_of(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors of (n, n_neurons) activations."""
        targets = self.targets
        kept, dropped = self._split(features - targets.features[rows], targets.numbers[rows])
        return _relative(kept, targets.kept[rows]), _relative(dropped, targets.dropped[rows])


def _relative(squares: Tensor, scale: Tensor) -> Tensor:
    # The gradient of a root is infinite at 0.
    tiny = torch.finfo(squares.dtype).tiny
    return squares.clamp_min(tiny).sqrt() / scale.clamp_min(tiny**0.5)


class Match(SearchGoal):
    """Bring the kept neurons to the target's and, with a weight, the dropped ones away from it.

    The loss is bounded: kept error - weight * min(dropped error, 1).
    """

    sign = -1

    def __init__(self, distances: NeuronDistances, dropped_weight: float) -> None:
        self._distances = distances
        self._weight = dropped_weight

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        """Score images."""
        kept, dropped = self._distances.errors(images, rows)
        return Scores(kept - self._weight * dropped.clamp_max(1.0))


class Hide(SearchGoal):
    """Change the dropped neurons, or the picture, while the kept neurons stay within epsilon.

    The loss is the change times min(1, epsilon / kept error): the change that is left when all of
    it is shortened until the kept neurons are within epsilon, if they were linear in it. It needs
    no weight between the two. `shorten` shortens it exactly.
    """

    sign = 1

    def __init__(self, distances: NeuronDistances, epsilon: float, *, of_picture: bool) -> None:
        self._distances = distances
        self._epsilon = epsilon
        self._of_picture = of_picture

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        """Score images."""
        kept, dropped = self._distances.errors(images, rows)
        change = dropped
        if self._of_picture:
            targets = self._distances.targets
            change = rms(images, targets.images[rows]) / targets.pixels[rows]
        return Scores(change * (self._epsilon / kept).clamp_max(1.0))

    @torch.no_grad()
    def shorten(self, images: Tensor) -> Tensor:
        """Shorten the change of each image until its kept neurons are within epsilon."""
        targets = self._distances.targets
        rows = torch.arange(len(images), device=images.device)
        shape = (-1, *[1] * (images.ndim - 1))

        def at(share: Tensor) -> Tensor:
            return targets.images + share.view(shape) * (images - targets.images)

        def is_within(share: Tensor) -> Tensor:
            return self._distances.errors(at(share), rows)[0] <= self._epsilon

        high = torch.ones(len(images), device=images.device)
        low = is_within(high).to(high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            within = is_within(middle)
            low = torch.where(within, middle, low)
            high = torch.where(within, high, middle)
        return at(low)


def make_goal(
    objective: InversionObjective, distances: NeuronDistances, epsilon: float
) -> SearchGoal:
    """Make the goal of an objective."""
    if objective.hides:
        return Hide(distances, epsilon, of_picture=objective.hides == "picture")
    return Match(distances, objective.dropped_weight)
