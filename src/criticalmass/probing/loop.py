"""One search for images near given ones that raise or lower a loss. This module imports torch.

``search(goal, centre, ball, budget, generator=...)`` is the only loop of the package. It works on
*problems*: row i of ``centre`` is the image around which problem i searches. An image that is
searched with several subsets is repeated, once per subset; the goal knows which subset, target or
label belongs to which row.

* A `SearchGoal` is a loss and a sign: ``scores(images, rows)`` returns a `Scores` for the problems
  ``rows`` of the images (n, channels, height, width) in 0..1. ``sign`` is +1 to raise the loss and
  -1 to lower it; nothing else of an attack depends on it. The gradient is taken of ``loss``; the
  best iterate is chosen by ``value``, which defaults to the loss and may be something that has no
  gradient, e.g. whether a majority vote is wrong, or minus infinity where a constraint is violated.
  Rows must not influence each other.
  With ``enough`` a problem whose value reaches it is left alone from then on.
* A `Ball` (`extraction.balls`) has the norm: where an attack starts at random, how a step moves and
  where a change is projected. ``make_ball("l2", math.inf)`` has no limit but the range of pixels.
* A `Budget` has steps, restarts and the first step size.
* The result is `BestImages`: the best image of each problem over all iterates of all restarts, the
  starting point and the last one included, its value, and a trace of the best value by step.

Steps follow APGD (Croce and Hein 2020, arXiv:2003.01690, algorithm 1): a step in the ball's
steepest direction with momentum, whose size is halved, separately for each problem, where the loss
no longer improves. ``Budget(adaptive=False)`` takes plain steps of equal size (Madry et al. 2018),
for comparison.

All problems of a call are one batch on the device of ``centre``; the caller chooses how many. What
is drawn comes from a generator on the CPU, so a GPU searches from the same points. `units.py`
divides a job into units that are computed and stored one after the other, so that a killed job goes
on: a unit is always computed as the same batch from a generator of its own seed, so its bytes do
not depend on the interruption.

Example, the accuracy of a classifier under attack::

    class Margin(SearchGoal):
        sign = 1
        enough = 0.0

        def __init__(self, network, labels):
            self.network, self.labels = network, labels

        def scores(self, images, rows):
            logits, labels = self.network(images), self.labels[rows]
            own = logits.gather(1, labels[:, None])[:, 0]
            others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
            loss = F.cross_entropy(logits, labels, reduction="none")
            return Scores(loss, (others - own).detach())

    found = search(
        Margin(network, labels), images, make_ball("l2", 0.5), Budget(steps=50, restarts=2),
        generator=torch.Generator().manual_seed(0),
    )
    robust = found.value < 0
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.balls import Ball

# Constants of APGD: share of the step that the momentum leaves, share of rising steps below which
# the size is halved, first interval between two checks, by how much it shrinks, and the shortest.
_MOMENTUM = 0.75
_RISING = 0.75
_FIRST_CHECK = 0.22
_CHECK_STEP = 0.03
_SHORTEST_CHECK = 0.06
# Plain steps together reach this multiple of the radius (Madry et al. 2018).
_REACH = 2.5


@dataclass(frozen=True, eq=False)
class Scores:
    """What a goal says of images.

    Attributes
    ----------
    loss: (n,) with a gradient.
    value: (n,) by which the best iterate is chosen, in the direction of the goal's sign; None for
        the loss.
    """

    loss: Tensor
    value: Tensor | None = None


class SearchGoal(ABC):
    """A loss and a sign.

    Attributes
    ----------
    sign: +1 to raise loss and value, -1 to lower them.
    enough: a problem is solved when its value reaches this; None for never.
    """

    sign: ClassVar[int]
    enough: float | None = None

    @abstractmethod
    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        """Score images.

        Parameters
        ----------
        images: (n, channels, height, width) in 0..1.
        rows: (n,) int64, the problem of each image.
        """

    def is_solved(self, value: Tensor) -> Tensor:
        """Return which values reach `enough`, (n,) bool."""
        if self.enough is None:
            return torch.zeros_like(value, dtype=torch.bool)
        return self.sign * value >= self.sign * self.enough


@dataclass(frozen=True)
class Budget:
    """How long a search may last.

    Attributes
    ----------
    steps: gradient steps of each restart.
    restarts: number of starting points of each problem.
    step: size of the first step, in the norm of the ball; None for twice the radius, or, without
        ``adaptive``, 2.5 radii over the number of steps.
    adaptive: whether the size is halved where the loss no longer improves, with momentum.
    """

    steps: int
    restarts: int = 1
    step: float | None = None
    adaptive: bool = True

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        CriticalMassError: no steps, no starting point, or a step that does not move.
        """
        if self.steps < 1 or self.restarts < 1:
            raise CriticalMassError(
                f"steps={self.steps} and restarts={self.restarts} must be 1 or more"
            )
        if self.step is not None and not 0 < self.step < math.inf:
            raise CriticalMassError(f"step={self.step:g} must be above 0 and finite")

    def first_step(self, ball: Ball) -> float:
        """Return the size of the first step.

        Raises
        ------
        CriticalMassError: neither the step nor the radius is finite.
        """
        if self.step is not None:
            return self.step
        if math.isinf(ball.radius):
            raise CriticalMassError("a search without a radius needs the size of its first step")
        return ball.radius * (2.0 if self.adaptive else _REACH / self.steps)


@dataclass(frozen=True, eq=False)
class BestImages:
    """The result of a search over n problems.

    Attributes
    ----------
    images: (n, channels, height, width) in 0..1, the best iterate of each problem.
    value: (n,) its value.
    trace: (steps + 1, n) best value after so many steps, of the best restart so far.
    """

    images: Tensor
    value: Tensor
    trace: Tensor


Initial = Callable[[int, torch.Generator], Tensor]
"""Number of the restart, generator -> (n, channels, height, width) starting points."""


def search(
    goal: SearchGoal,
    centre: Tensor,
    ball: Ball,
    budget: Budget,
    *,
    generator: torch.Generator,
    initial: Initial | None = None,
) -> BestImages:
    """Search the ball around each image for the image with the best value.

    Parameters
    ----------
    goal: loss, sign and value.
    centre: (n, channels, height, width) in 0..1.
    ball: the changes that are allowed; pixels stay in 0..1 besides.
    budget: steps and restarts.
    generator: on the CPU; all that is drawn comes from it.
    initial: makes the starting points of a restart, which are projected; None for random points of
        the ball, of uniformly drawn norm.

    Raises
    ------
    CriticalMassError: a loss at a starting point is not finite.
    """
    make_initial = initial or _random_start(centre, ball)
    n = len(centre)
    worst = torch.full((n,), -goal.sign * math.inf, device=centre.device)
    found = BestImages(centre.clone(), worst, torch.empty(0, n, device=centre.device))
    for restart in range(budget.restarts):
        start = make_initial(restart, generator).to(centre)
        rows = torch.arange(n, device=centre.device)[~goal.is_solved(found.value)]
        run = _Run(goal, centre[rows], ball, budget, rows)
        images, trace = run.from_start(start[rows])
        found = _merge(found, images, trace, rows, goal.sign, budget.steps)
    return found


def _random_start(centre: Tensor, ball: Ball) -> Initial:
    if math.isinf(ball.radius):
        raise CriticalMassError("a search without a radius needs its starting points")

    def draw(restart: int, generator: torch.Generator) -> Tensor:
        shape = (len(centre), *[1] * (centre.ndim - 1))
        share = torch.rand(shape, generator=generator).to(centre)
        return centre + share * ball.draw(centre, generator)

    return draw


def _merge(
    found: BestImages, images: Tensor, trace: Tensor, rows: Tensor, sign: int, steps: int
) -> BestImages:
    """Put a restart's results into those of the restarts before it."""
    value = trace[-1]
    all_traces = found.trace
    if not len(all_traces):
        all_traces = found.value.expand(steps + 1, -1)
    is_better = sign * value > sign * found.value[rows]
    chosen = rows[is_better]
    best_images, best_value = found.images.clone(), found.value.clone()
    best_images[chosen], best_value[chosen] = images[is_better], value[is_better]
    # Later restarts go on from the best value of the earlier ones.
    joined = all_traces.clone()
    joined[:, rows] = sign * torch.maximum(sign * all_traces[:, rows], sign * trace)
    return BestImages(best_images, best_value, joined)


@dataclass(eq=False)
class _State:
    """The running numbers of the problems that are not solved yet; one row each."""

    x: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    step: Tensor
    best_loss: Tensor
    best_x: Tensor
    best_gradient: Tensor
    best_value: Tensor
    best_image: Tensor
    rises: Tensor
    loss_at_check: Tensor
    was_halved: Tensor

    def select(self, keep: Tensor) -> _State:
        """Return the rows where ``keep`` is true."""
        return _State(**{name: value[keep] for name, value in vars(self).items()})


class _Run:
    """One restart. All losses and values in it are multiplied by the sign, so larger is better."""

    def __init__(
        self, goal: SearchGoal, centre: Tensor, ball: Ball, budget: Budget, rows: Tensor
    ) -> None:
        self._goal = goal
        self._centre = centre
        self._ball = ball
        self._budget = budget
        self._rows = rows

    def from_start(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Search from given points; return the best images, and the trace of their values."""
        steps = self._budget.steps
        images = start.clone()
        trace = torch.empty(steps + 1, len(start), device=start.device)
        state = self._begin(start)
        active = torch.arange(len(start), device=start.device)
        checks = _check_steps(steps) if self._budget.adaptive else {}
        for number in range(steps + 1):
            if number:
                if len(active):
                    state = self._advance(state, active, number)
                if number in checks:
                    _halve_steps(state, checks[number])
            trace[number:, active] = self._goal.sign * state.best_value
            images[active] = state.best_image
            is_left = ~self._goal.is_solved(self._goal.sign * state.best_value)
            if not bool(is_left.all()):
                state, active = state.select(is_left), active[is_left]
        return images, trace

    def _begin(self, start: Tensor) -> _State:
        everything = torch.arange(len(start), device=start.device)
        x = self._move(start, everything)
        loss, value, gradient = self._score(x, everything, with_gradient=True)
        if not bool(torch.isfinite(loss).all()):
            raise CriticalMassError(
                "the network's output is not finite for an image of the search; check its weights"
            )
        step = torch.full_like(loss, self._budget.first_step(self._ball))
        zeros = torch.zeros_like(loss)
        return _State(
            x, x, gradient, loss, step, loss, x, gradient, value, x, zeros, loss, zeros.bool()
        )

    def _advance(self, state: _State, active: Tensor, number: int) -> _State:
        """Make one step and score the new point."""
        shape = (-1, *[1] * (state.x.ndim - 1))
        direction = self._ball.steepest(state.gradient)
        x = self._move(state.x + state.step.view(shape) * direction, active)
        if self._budget.adaptive and number > 1:
            change = _MOMENTUM * (x - state.x) + (1 - _MOMENTUM) * (state.x - state.before)
            x = self._move(state.x + change, active)
        is_last = number == self._budget.steps
        loss, value, gradient = self._score(x, active, with_gradient=not is_last)
        state.rises = state.rises + (loss > state.loss)
        state.before, state.x, state.loss, state.gradient = state.x, x, loss, gradient
        is_higher = loss > state.best_loss
        state.best_loss = torch.where(is_higher, loss, state.best_loss)
        state.best_x = torch.where(is_higher.view(shape), x, state.best_x)
        state.best_gradient = torch.where(is_higher.view(shape), gradient, state.best_gradient)
        is_better = value > state.best_value
        state.best_value = torch.where(is_better, value, state.best_value)
        state.best_image = torch.where(is_better.view(shape), x, state.best_image)
        return state

    def _move(self, x: Tensor, active: Tensor) -> Tensor:
        """Return the point of the ball, with pixels in 0..1, next to each image."""
        centre = self._centre[active]
        return (centre + self._ball.project(x - centre)).clamp(0, 1)

    def _score(
        self, x: Tensor, active: Tensor, *, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, value and gradient times the sign; the gradient is zero if not asked for."""
        sign = self._goal.sign
        with torch.set_grad_enabled(with_gradient):
            images = x.detach().requires_grad_(with_gradient)
            scores = self._goal.scores(images, self._rows[active])
            gradient = torch.zeros_like(x)
            if with_gradient and len(x):
                [gradient] = torch.autograd.grad(scores.loss.sum(), images)
        loss = sign * scores.loss.detach()
        value = loss if scores.value is None else sign * scores.value.detach().to(loss)
        # A point whose loss is not a number is never chosen and never followed.
        is_number = torch.isfinite(loss)
        shape = (-1, *[1] * (x.ndim - 1))
        return (
            torch.where(is_number, loss, -math.inf),
            torch.where(is_number, value, -math.inf),
            torch.where(is_number.view(shape), sign * gradient, 0.0),
        )


def _check_steps(steps: int) -> dict[int, int]:
    """Return the steps after which sizes are checked -> steps since the check before."""
    checks: dict[int, int] = {}
    last, share, before = 0, _FIRST_CHECK, 0.0
    while (number := math.ceil(share * steps)) < steps:
        if number > last:
            checks[number], last = number - last, number
        share, before = share + max(share - before - _CHECK_STEP, _SHORTEST_CHECK), share
    return checks


def _halve_steps(state: _State, interval: int) -> None:
    """Halve the steps of problems that no longer improve, and go on from their best points."""
    has_few_rises = state.rises < _RISING * interval
    is_stuck = ~state.was_halved & (state.loss_at_check >= state.best_loss)
    halved = has_few_rises | is_stuck
    shape = (-1, *[1] * (state.x.ndim - 1))
    state.step = torch.where(halved, state.step / 2, state.step)
    state.x = torch.where(halved.view(shape), state.best_x, state.x)
    state.gradient = torch.where(halved.view(shape), state.best_gradient, state.gradient)
    state.loss = torch.where(halved, state.best_loss, state.loss)
    state.was_halved = halved
    state.loss_at_check = state.best_loss
    state.rises = torch.zeros_like(state.rises)
