"""Defences that read one layer through linear heads, and the losses that attack them.

A defence has *scores*; it answers the class of the largest. Every attack is judged by them, so a
hard vote falls when the vote is wrong, whatever loss was followed. The losses have a gradient where
the scores have none: a count of votes is flat, and softmax probabilities are constant in float32
where they are saturated. This module imports torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.balls import Ball
from criticalmass.measures.probes.task import LinearHead
from criticalmass.probing.loop import Budget, Scores, SearchGoal, search

# Intercept of a class that a head has not seen: never the largest, and finite.
_UNSEEN = -1e6
# A head that is wrong by this share of the mean lead is not pushed further.
_ENOUGH = 0.02
# Parts beyond 1 of a vote sum to less than 1, so that they only break ties.
_MOST_HALVINGS = 40
CROSS_ENTROPY, MARGIN, MEMBERS, HALF = "cross-entropy", "margin", "members", "half"


@dataclass(frozen=True, eq=False)
class Examples:
    """Images that are attacked, and the network that reads them.

    Attributes
    ----------
    read: images in 0..1 -> (n, n_neurons) activations, differentiable.
    images: (n, channels, height, width) in 0..1.
    labels: (n,) int64, the right classes.
    """

    read: Callable[[Tensor], Tensor]
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class TorchHead:
    """A linear head on some neurons, in torch.

    Attributes
    ----------
    neurons: (n_kept,) int64.
    weight: (n_classes, n_kept).
    bias: (n_classes,).
    """

    neurons: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(
        cls, head: LinearHead, neurons: Sequence[int], n_classes: int, device: torch.device
    ) -> TorchHead:
        """Convert a fitted head; classes that it has not seen are never answered."""
        classes = torch.from_numpy(head.classes)
        weight = torch.zeros(n_classes, len(neurons))
        bias = torch.full((n_classes,), _UNSEEN)
        weight[classes] = torch.from_numpy(head.coef)
        bias[classes] = torch.from_numpy(head.intercept).float()
        return cls(torch.as_tensor(neurons).to(device), weight.to(device), bias.to(device))

    def logits(self, features: Tensor) -> Tensor:
        """Return the (n, n_classes) logits of (n, n_neurons) activations."""
        return F.linear(features[:, self.neurons], self.weight, self.bias)

    @property
    def scale(self) -> Tensor:
        """The size of its weights, a scalar: logits over it are distances between activations."""
        size: Tensor = torch.linalg.vector_norm(self.weight - self.weight.mean(dim=0))
        return size.clamp_min(1e-12)


class Defence(ABC):
    """A classifier of activations.

    Parameters
    ----------
    name: for tables.
    heads: its linear heads.
    """

    def __init__(self, name: str, heads: Sequence[TorchHead]) -> None:
        self.name = name
        self.heads = tuple(heads)

    @property
    def losses(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Name -> loss of (n, n_neurons) activations and (n,) labels, each (n,), to be raised.

        The first one is that of the literature, the others have no flat places.
        """
        return {CROSS_ENTROPY: self._cross_entropy, MARGIN: self._margin}

    @abstractmethod
    def scores(self, features: Tensor) -> Tensor:
        """Return the (n, n_classes) scores of (n, n_neurons) activations."""

    def predict(self, features: Tensor) -> Tensor:
        """Return the (n,) classes."""
        return self.scores(features).argmax(dim=1)

    def distance(self, examples: Examples, ball: Ball) -> Tensor:
        """Return the distance at which the answer turns wrong, to first order, (n,).

        It is the lead over the norm of its gradient, in the dual norm of the ball (Hein and
        Andriushchenko 2017); infinite where the gradient is zero, 0 where the answer is wrong.
        """
        images = examples.images.detach().requires_grad_(True)
        lead = -excess(self.scores(examples.read(images)), examples.labels)
        [gradient] = torch.autograd.grad(lead.sum(), images)
        dual = (gradient * ball.steepest(gradient)).flatten(1).sum(dim=1)
        lead = lead.detach()
        tiny = torch.finfo(dual.dtype).tiny
        distance = torch.where(dual > 0, lead / dual.clamp_min(tiny), math.inf)
        return torch.where(lead > 0, distance, 0.0)

    @abstractmethod
    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss that the literature follows."""

    def _margin(self, features: Tensor, labels: Tensor) -> Tensor:
        return excess(self.scores(features), labels)


class OneHead(Defence):
    """One linear head."""

    def scores(self, features: Tensor) -> Tensor:
        """Return its logits."""
        return self.heads[0].logits(features)

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.scores(features), labels, reduction="none")


class _Vote(Defence):
    """A vote of several heads."""

    @property
    def losses(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """As of any defence, and a loss that pushes each head to the wrong class nearest to it."""
        return {**super().losses, MEMBERS: self._members}

    def _logits(self, features: Tensor) -> Tensor:
        """Return the (n_heads, n, n_classes) logits."""
        return torch.stack([head.logits(features) for head in self.heads])

    def _members(self, features: Tensor, labels: Tensor) -> Tensor:
        each = torch.stack(
            [excess(head.logits(features) / head.scale, labels) for head in self.heads]
        )
        return _hinge(each).mean(dim=0)


class SoftVote(_Vote):
    """The mean of the heads' class probabilities, in logarithms, which do not saturate."""

    def scores(self, features: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities."""
        each = F.log_softmax(self._logits(features), dim=2)
        return each.logsumexp(dim=0) - math.log(len(self.heads))

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        # The literature attacks the mean of the probabilities themselves.
        mean = self._logits(features).softmax(dim=2).mean(dim=0)
        own = mean.gather(1, labels[:, None])[:, 0]
        return -own.clamp_min(torch.finfo(own.dtype).tiny).log()


class HardVote(_Vote):
    """The class with most votes; of tied ones that of the earliest head, as `cm.ensembles`."""

    @property
    def losses(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """As of any vote; if a half can win, also a loss that pushes half of the heads."""
        is_even = len(self.heads) % 2 == 0
        return {**super().losses, **({HALF: self._half} if is_even else {})}

    def scores(self, features: Tensor) -> Tensor:
        """Return the votes of each class; the gradient is zero everywhere."""
        logits = self._logits(features)
        votes = F.one_hot(logits.argmax(dim=2), logits.shape[2]).to(logits)
        halvings = torch.arange(len(self.heads)).add(2).clamp_max(_MOST_HALVINGS)
        weights = 1.0 + 0.5 ** halvings.to(logits)
        return (votes * weights[:, None, None]).sum(dim=0)

    def distance(self, examples: Examples, ball: Ball) -> Tensor:
        """Return the distance at which the vote turns, to first order.

        More than half of the heads must be wrong there, or half with the earliest one.
        """
        each = [OneHead("", [head]).distance(examples, ball) for head in self.heads]
        half = len(self.heads) // 2
        distances, order = torch.stack(each).sort(dim=0)
        distance = distances[half]
        if len(self.heads) % 2 == 0:
            has_earliest = (order[:half] == 0).any(dim=0)
            distance = torch.where(has_earliest, distances[half - 1], distance)
        with torch.no_grad():
            is_right = self.predict(examples.read(examples.images)) == examples.labels
        return torch.where(is_right, distance, 0.0)

    def _cross_entropy(self, features: Tensor, labels: Tensor) -> Tensor:
        each = [F.cross_entropy(one, labels, reduction="none") for one in self._logits(features)]
        return torch.stack(each).mean(dim=0)

    def _margin(self, features: Tensor, labels: Tensor) -> Tensor:
        """Push more than half of the heads to one wrong class."""
        return self._push(len(self.heads) // 2 + 1, features, labels)

    def _half(self, features: Tensor, labels: Tensor) -> Tensor:
        """Push half of the heads to one wrong class, which wins if it has the earliest head."""
        return self._push(len(self.heads) // 2, features, labels)

    def _push(self, n_heads: int, features: Tensor, labels: Tensor) -> Tensor:
        """Push the heads that are nearest to a wrong class, whichever is nearest to winning."""
        # In distances, so that the nearest heads are pushed and none rules by its scale.
        logits = torch.stack([head.logits(features) / head.scale for head in self.heads])
        ahead = logits - logits.gather(2, labels.expand(len(logits), -1)[:, :, None])
        nearest = _hinge(ahead).topk(n_heads, dim=0).values.mean(dim=0)
        own = F.one_hot(labels, nearest.shape[1]).bool()
        return nearest.masked_fill(own, -math.inf).amax(dim=1)


def _hinge(excesses: Tensor) -> Tensor:
    """Limit what a head that is wrong already adds to a loss, (n_heads, ...).

    The limit is a share of the heads' mean distance in logits, so it does not depend on scale.
    """
    limit = _ENOUGH * excesses.detach().abs().mean(dim=0)
    return torch.minimum(excesses, limit)


def excess(scores: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the best wrong class leads the right one, (n,), of (n, n_classes)."""
    own = scores.gather(1, labels[:, None])[:, 0]
    is_own = F.one_hot(labels, scores.shape[1]).bool()
    return scores.masked_fill(is_own, -math.inf).amax(dim=1) - own


def zero_gradients(defence: Defence, examples: Examples) -> Tensor:
    """Return whether the gradient of the literature's loss is exactly zero, (n,) bool."""
    images = examples.images.detach().requires_grad_(True)
    loss = defence.losses[CROSS_ENTROPY](examples.read(images), examples.labels)
    [gradient] = torch.autograd.grad(loss.sum(), images)
    return gradient.flatten(1).abs().amax(dim=1) == 0


class _Fool(SearchGoal):
    """Raise a loss of a defence until its answer is wrong."""

    sign = 1

    def __init__(
        self,
        defence: Defence,
        loss: Callable[[Tensor, Tensor], Tensor],
        read: Callable[[Tensor], Tensor],
        labels: Tensor,
    ) -> None:
        self._defence, self._loss, self._read, self._labels = defence, loss, read, labels

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        """Score images: the loss, and by how much the answer is wrong."""
        features, labels = self._read(images), self._labels[rows]
        value = excess(self._defence.scores(features).detach(), labels)
        return Scores(self._loss(features, labels), value)

    def is_solved(self, value: Tensor) -> Tensor:
        """Return which answers are wrong; of equal scores the answer may be right."""
        return value > 0


@dataclass(frozen=True, eq=False)
class Attacked:
    """The result of an attack on one defence.

    Attributes
    ----------
    images: (n, channels, height, width) the best image found for each.
    is_right: (n,) whether the defence still answers right.
    step: (n,) step of the first loss at which it fell; -1: it did not, or another loss did it.
    """

    images: Tensor
    is_right: Tensor
    step: Tensor


def attack_defence(
    defence: Defence,
    examples: Examples,
    ball: Ball,
    budget: Budget,
    *,
    generator: torch.Generator,
    losses: Sequence[str] = (),
) -> Attacked:
    """Attack a defence with each of its losses in turn, as long as its answer is right.

    Parameters
    ----------
    defence: what is attacked.
    examples: images, their classes and the network.
    ball: the changes that are allowed.
    budget: of each loss.
    generator: on the CPU, for the starting points.
    losses: names of the losses; all by default.

    Raises
    ------
    CriticalMassError: the defence has no such loss.
    """
    read, images, labels = examples.read, examples.images, examples.labels
    unknown = [name for name in losses if name not in defence.losses]
    if unknown:
        raise CriticalMassError(
            f"defence {defence.name!r} has no loss {unknown[0]!r}; it has "
            f"{', '.join(defence.losses)}"
        )
    with torch.no_grad():
        is_right = defence.predict(read(images)) == labels
    best, step = images.clone(), torch.full_like(labels, -1)
    value = torch.full(labels.shape, -math.inf, device=images.device)
    for number, name in enumerate(losses or defence.losses):
        rows = is_right.nonzero()[:, 0]
        if not len(rows):
            break
        goal = _Fool(defence, defence.losses[name], read, labels[rows])
        found = search(goal, images[rows], ball, budget, generator=generator)
        is_better = found.value > value[rows]
        value[rows[is_better]] = found.value[is_better]
        best[rows[is_better]] = found.images[is_better]
        is_right[rows] = ~goal.is_solved(value[rows])
        if number == 0:
            has_fallen = goal.is_solved(found.trace)
            first = has_fallen.to(torch.int64).argmax(dim=0)
            step[rows] = torch.where(has_fallen.any(dim=0), first, -1)
    return Attacked(best, is_right, step)
