"""Planted weaknesses: blind spots whose size is known are found, and none is invented."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.probing.networks import LEFT, PIXELS, WIDTH, linear_model
from torch import Tensor

from criticalmass.extraction.balls import make_ball
from criticalmass.probing.goals import Hide, Match, NeuronDistances, SearchTargets
from criticalmass.probing.loop import Budget, search
from criticalmass.probing.network import ImageNetwork
from criticalmass.probing.pictures import rms
from criticalmass.probing.subsets import Subset, SubsetSplit

N = 3
EPSILON = 0.01
CENTRE = torch.full((N, 3, PIXELS, PIXELS), 0.5)


def distances_of(network: ImageNetwork, images: Tensor, kept: list[int]) -> NeuronDistances:
    """Distances in absolute units, with the neurons ``kept``."""
    split = SubsetSplit(
        [Subset("test", 0, len(kept), indices=np.array(kept))], WIDTH, torch.device("cpu")
    )
    ones = torch.ones(len(images))
    numbers = torch.zeros(len(images), dtype=torch.int64)
    features = network.read_all(images).features
    return NeuronDistances(
        network, split, SearchTargets(images, features, numbers, ones, ones, ones)
    )


def hide(
    network: ImageNetwork, norm: str, radius: float, *, restarts: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    distances = distances_of(network, CENTRE, list(range(LEFT)))
    goal = Hide(distances, EPSILON, of_picture=False)
    found = search(
        goal,
        CENTRE,
        make_ball(norm, radius),
        Budget(steps=100, restarts=restarts),
        generator=torch.Generator().manual_seed(0),
    )
    images = goal.shorten(found.images)
    kept, dropped = distances.errors(images, torch.arange(N))
    return images, kept, dropped


def test_a_planted_blind_spot_is_found_with_its_size() -> None:
    """Kept neurons read the left half, dropped ones the right: the norm of their weights."""
    network = ImageNetwork(linear_model())
    images, kept, dropped = hide(network, "l2", 0.2)
    weights: Tensor = network.model.root.weights
    largest = 0.2 * float(torch.linalg.matrix_norm(weights[LEFT:].double(), ord=2))
    assert bool((kept <= EPSILON).all())
    assert bool((dropped <= largest * 1.001).all())
    # The search climbs slowly where the second largest singular value is near the largest.
    assert bool((dropped >= 0.93 * largest).all())
    assert bool((make_ball("l2", 0.2).size(images - CENTRE) <= 0.2001).all())


def test_in_the_largest_norm_no_sign_pattern_is_better() -> None:
    """The maximum of ||W s|| over signs s is at least that of many random ones."""
    network = ImageNetwork(linear_model())
    _, kept, dropped = hide(network, "linf", 0.05, restarts=4)
    weights: Tensor = network.model.root.weights[LEFT:]
    signs = torch.randint(
        0, 2, (weights.shape[1], 5000), generator=torch.Generator().manual_seed(1)
    )
    assert bool((kept <= EPSILON).all())
    assert float(dropped.min()) > float((weights @ (0.1 * signs - 0.05)).norm(dim=0).max())


def test_copies_of_the_kept_neurons_hide_nothing() -> None:
    _, kept, dropped = hide(ImageNetwork(linear_model(copies=True)), "l2", 0.2)
    torch.testing.assert_close(dropped, kept)
    assert bool((dropped <= EPSILON).all())


def test_a_hidden_picture_is_farther_away_than_one_drawn_at_random() -> None:
    """Nothing but six directions of 192 pixels is seen."""
    network = ImageNetwork(linear_model())
    distances = distances_of(network, CENTRE, list(range(LEFT)))
    goal = Hide(distances, EPSILON, of_picture=True)
    start = torch.rand(CENTRE.shape, generator=torch.Generator().manual_seed(2))
    found = search(
        goal,
        CENTRE,
        make_ball("l2", math.inf),
        Budget(steps=150, step=1.0),
        generator=torch.Generator().manual_seed(0),
        initial=lambda restart, generator: start,
    )
    images = goal.shorten(found.images)
    kept, _ = distances.errors(images, torch.arange(N))
    assert bool((kept <= EPSILON).all())
    # The kept neurons of the random picture differ.
    assert bool((distances.errors(start, torch.arange(N))[0] > 10 * EPSILON).all())
    assert bool((rms(images, CENTRE) > rms(start, CENTRE)).all())


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_of_a_match_is_bounded(weight: float) -> None:
    network = ImageNetwork(linear_model())
    distances = distances_of(network, CENTRE, list(range(LEFT)))
    far = torch.rand(CENTRE.shape, generator=torch.Generator().manual_seed(2))
    goal = Match(distances, weight)
    at_target = goal.scores(CENTRE, torch.arange(N)).loss
    torch.testing.assert_close(at_target, torch.zeros(N), atol=1e-5, rtol=0)
    kept, dropped = distances.errors(far, torch.arange(N))
    assert bool((dropped > 1).all())
    torch.testing.assert_close(goal.scores(far, torch.arange(N)).loss, kept - weight)


def test_directions_divide_distances_as_the_projections_do() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, 4)))[0]
    subsets = [Subset("a", 0, 4, indices=np.arange(4)), Subset("b", 0, 4, basis=basis)]
    split = SubsetSplit(subsets, WIDTH, torch.device("cpu"))
    differences = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    kept, dropped = split(differences, torch.tensor([1, 0]))
    torch.testing.assert_close(kept + dropped, differences.square().sum(dim=1))
    along = differences[0].double() @ torch.from_numpy(basis)
    torch.testing.assert_close(kept[0].double(), along.square().sum())
    torch.testing.assert_close(kept[1], differences[1, :4].square().sum())
