"""Balls: norms, projections and directions of steepest ascent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from criticalmass.extraction.balls import BALLS, Ball

ORDERS = {"l2": 2.0, "linf": float("inf")}
VALUES = st.floats(-4, 4, width=32)
CHANGES = arrays(np.float32, (3, 1, 2, 2), elements=VALUES)
NORMS = pytest.mark.parametrize("norm", list(BALLS))


def norms(changes: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(changes.double().flatten(1), ord=ORDERS[norm], dim=1)


def ball_of(norm: str, radius: float) -> Ball:
    return BALLS[norm](radius)


@NORMS
@settings(max_examples=60, deadline=None)
@given(values=CHANGES, radius=st.floats(0.01, 3))
def test_a_projection_is_inside_and_moves_nothing_that_is_inside(
    norm: str, values: np.ndarray, radius: float
) -> None:
    changes, ball = torch.from_numpy(values), ball_of(norm, radius)
    inside = ball.project(changes)
    assert bool((norms(inside, norm) <= radius * (1 + 1e-6)).all())
    torch.testing.assert_close(ball.project(inside), inside, rtol=1e-6, atol=0)
    is_inside = norms(changes, norm) <= radius * (1 - 1e-6)
    assert torch.equal(inside[is_inside], changes[is_inside])


@NORMS
@settings(max_examples=40, deadline=None)
@given(values=CHANGES, other=CHANGES, radius=st.floats(0.01, 3))
def test_no_point_of_the_ball_is_nearer_than_the_projection(
    norm: str, values: np.ndarray, other: np.ndarray, radius: float
) -> None:
    changes, ball = torch.from_numpy(values), ball_of(norm, radius)
    rival = ball.project(torch.from_numpy(other))
    near = (changes - ball.project(changes)).flatten(1).norm(dim=1)
    assert bool((near <= (changes - rival).flatten(1).norm(dim=1) * (1 + 1e-5) + 1e-5).all())


@NORMS
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-3, 1.0, 1e18])
def test_the_steepest_change_has_norm_1_and_gains_the_dual_norm(norm: str, scale: float) -> None:
    """Also of gradients whose squares are zero or infinite in float32."""
    gradient = scale * torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    steepest = ball_of(norm, 1.0).steepest(gradient)
    torch.testing.assert_close(norms(steepest, norm), torch.ones(5).double())
    gain = (steepest.double() * gradient.double()).flatten(1).sum(dim=1)
    dual = torch.linalg.vector_norm(
        gradient.double().flatten(1), ord={"l2": 2.0, "linf": 1.0}[norm], dim=1
    )
    torch.testing.assert_close(gain, dual)


@NORMS
def test_a_gradient_of_zero_moves_nothing(norm: str) -> None:
    steepest = ball_of(norm, 1.0).steepest(torch.zeros(2, 1, 2, 2))
    assert torch.equal(steepest, torch.zeros(2, 1, 2, 2))


@NORMS
def test_draws_have_the_radius_and_follow_the_generator(norm: str) -> None:
    ball, like = ball_of(norm, 0.7), torch.zeros(64, 3, 5, 5)
    first, second, other = (
        ball.draw(like, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(norms(first, norm), torch.full((64,), 0.7).double())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    # Random directions: their mean is short.
    assert float(norms(first.mean(dim=0, keepdim=True), "l2")) < 0.3 * float(
        norms(first, "l2").mean()
    )
