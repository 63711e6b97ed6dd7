"""The search: closed forms of linear losses, what is scored, what stops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.balls import make_ball
from criticalmass.probing.loop import BestImages, Budget, Scores, SearchGoal, search

SHAPE = (3, 4, 4)
CENTRE = torch.full((5, *SHAPE), 0.5)
WEIGHTS = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))


class Linear(SearchGoal):
    """The inner product with weights, one set per problem."""

    sign = 1

    def __init__(self, weights: Tensor = WEIGHTS) -> None:
        self.weights = weights
        self.seen: list[Tensor] = []

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        self.seen.append(images.detach())
        return Scores((self.weights[rows] * images).flatten(1).sum(dim=1))


class Lowered(Linear):
    sign = -1


def run(goal: SearchGoal, norm: str = "l2", radius: float = 0.2, **budget: object) -> BestImages:
    settings: dict[str, object] = {"steps": 40, **budget}
    return search(
        goal,
        CENTRE,
        make_ball(norm, radius),
        Budget(**settings),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize("goal", [Linear(), Lowered()])
@pytest.mark.parametrize(("norm", "dual"), [("l2", 2.0), ("linf", 1.0)])
@pytest.mark.parametrize("adaptive", [True, False])
def test_a_linear_loss_changes_by_radius_times_the_dual_norm(
    goal: Linear, norm: str, dual: float, adaptive: bool
) -> None:
    found = run(goal, norm, adaptive=adaptive)
    gain = goal.sign * (found.value - (WEIGHTS * CENTRE).flatten(1).sum(dim=1))
    best = 0.2 * torch.linalg.vector_norm(WEIGHTS.flatten(1), ord=dual, dim=1)
    torch.testing.assert_close(gain, best, rtol=2e-3 if adaptive else 2e-2, atol=0)
    change = make_ball(norm, 0.2).size(found.images - CENTRE)
    assert bool((change <= 0.2 * (1 + 1e-5)).all())
    scored = goal.scores(found.images, torch.arange(5)).loss
    torch.testing.assert_close(scored, found.value)


def test_pixels_stay_in_their_range() -> None:
    found = run(Linear(), "linf", 0.9)
    assert torch.equal(found.images, (WEIGHTS > 0).float())


class ByValue(Linear):
    """The value has its maximum on the way; the loss rises beyond it."""

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        scores = super().scores(images, rows)
        start = (self.weights[rows] * CENTRE[rows]).flatten(1).sum(dim=1)
        return Scores(scores.loss, -(scores.loss.detach() - start - 0.3).abs())


def test_the_best_iterate_is_chosen_by_value_and_none_is_missed() -> None:
    goal = ByValue()
    found = run(goal, steps=30, adaptive=False)
    scored = torch.stack(
        [goal.scores(images, torch.arange(5)).value for images in [*goal.seen]]  # type: ignore[misc]
    )
    # The starting point and the last iterate are among them.
    assert len(scored) == 31
    assert torch.equal(found.value, scored.amax(dim=0))
    assert torch.equal(found.trace, scored.cummax(dim=0).values)


def test_the_last_iterate_is_scored() -> None:
    found = run(Linear(), steps=1, step=0.2, adaptive=False)
    assert bool((found.trace[1] > found.trace[0]).all())
    torch.testing.assert_close(found.value, found.trace[1])


class Pair(Linear):
    """Problem 0 rises towards one of two hills; which one depends on the starting point."""

    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        along = ((images - 0.5) * self.weights[:1]).flatten(1).sum(dim=1)
        return Scores(torch.where(along > 0, along, -0.1 * along))


def test_restarts_keep_the_best_and_never_lose_it() -> None:
    one, many = run(Pair(), restarts=1), run(Pair(), restarts=8)
    best = 0.2 * WEIGHTS[0].norm()
    assert bool((many.value >= one.value).all())
    assert float(one.value.min()) < 0.5 * best
    torch.testing.assert_close(many.value, best.expand(5), rtol=2e-3, atol=0)
    assert bool((many.trace.diff(dim=0) >= 0).all())


class Enough(Linear):
    """Counts the images that are scored."""

    def __init__(self, enough: float | None) -> None:
        super().__init__()
        self.enough = enough


def test_solved_problems_are_left_alone() -> None:
    whole = run(Enough(None), restarts=2)
    bar = float(whole.value.median())
    goal = Enough(bar)
    part = run(goal, restarts=2)
    assert torch.equal(part.value >= bar, whole.value >= bar)
    assert sum(map(len, goal.seen)) < 0.8 * 5 * 41 * 2
    missed = whole.value < bar
    assert torch.equal(part.images[missed], whole.images[missed])


def test_rows_are_those_of_the_problems_that_are_left() -> None:
    """Otherwise a problem would be scored with the weights of another one."""

    class Uneven(Linear):
        enough = 0.05

        def scores(self, images: Tensor, rows: Tensor) -> Scores:
            gain = ((images - 0.5) * self.weights[rows]).flatten(1).sum(dim=1)
            return Scores(gain, torch.where(rows < 2, gain + 1.0, gain - 9.0))

    found = run(Uneven())
    best = 0.2 * WEIGHTS.flatten(1).norm(dim=1) - 9.0
    torch.testing.assert_close(found.value[2:], best[2:], rtol=2e-3, atol=0)


class Broken(Linear):
    def scores(self, images: Tensor, rows: Tensor) -> Scores:
        scores = super().scores(images, rows)
        return Scores(scores.loss * torch.where(rows == 3, math.nan, 1.0))


def test_a_loss_that_is_no_number_is_one_line() -> None:
    with pytest.raises(CriticalMassError, match="not finite"):
        run(Broken())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 3, "restarts": 0}, "restarts=0"),
        ({"steps": 3, "step": -1.0}, "step=-1"),
    ],
)
def test_a_budget_that_cannot_search_is_refused(settings: dict[str, float], text: str) -> None:
    with pytest.raises(CriticalMassError, match=text):
        Budget(**settings)  # type: ignore[arg-type]


def test_a_search_without_a_radius_needs_a_step_and_a_start() -> None:
    with pytest.raises(CriticalMassError, match="starting points"):
        run(Linear(), "l2", math.inf, step=0.1)
    with pytest.raises(CriticalMassError, match="first step"):
        Budget(steps=3).first_step(make_ball("l2", math.inf))
