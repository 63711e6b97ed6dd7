"""Attacks on votes find what planted weaknesses hide; closed forms of linear heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.balls import make_ball
from criticalmass.probing.ensembles import (
    CROSS_ENTROPY,
    Attacked,
    Defence,
    Examples,
    HardVote,
    OneHead,
    SoftVote,
    TorchHead,
    attack_defence,
    excess,
    zero_gradients,
)
from criticalmass.probing.loop import Budget
from criticalmass.sweeps.ensembles import hard_vote, soft_vote

SHAPE, N_CLASSES = (3, 4, 4), 3
SIZE = 48
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = 0.5 + 0.05 * torch.randn(12, *SHAPE, generator=GENERATOR)


def read(images: Tensor) -> Tensor:
    """The activations are the pixels themselves, moved by their mean."""
    return images.flatten(1) - 0.5


def head(seed: int, scale: float = 1.0, columns: slice = slice(0, SIZE)) -> TorchHead:
    neurons = torch.arange(SIZE)[columns]
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(N_CLASSES, len(neurons), generator=generator)
    return TorchHead(neurons, weight, scale * 0.1 * torch.randn(N_CLASSES, generator=generator))


def fool(defence: Defence, radius: float, norm: str = "l2", **options: object) -> Attacked:
    with torch.no_grad():
        labels = defence.predict(read(IMAGES))
    return attack_defence(
        defence, Examples(read, IMAGES, labels), make_ball(norm, radius), Budget(steps=40),
        generator=torch.Generator().manual_seed(1), **options,  # type: ignore[arg-type]
    )  # fmt: skip


def closed_form(one: TorchHead, order: float) -> Tensor:
    """Distance of each image from the nearest boundary of a linear head, in the l2 or linf norm."""
    logits = one.logits(read(IMAGES))
    lead, own = logits.max(dim=1)
    distances = []
    for other in range(N_CLASSES):
        dual = torch.linalg.vector_norm(one.weight[own] - one.weight[other], ord=order, dim=1)
        gap = (lead - logits[:, other]) / dual.clamp_min(1e-12)
        distances.append(torch.where(own == other, torch.inf, gap))
    return torch.stack(distances).amin(dim=0)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2.0), ("linf", 1.0)])
def test_a_linear_head_falls_beyond_the_closed_form_and_not_before(norm: str, dual: float) -> None:
    one = head(3)
    distance = closed_form(one, dual)
    for radius in np.quantile(distance.numpy(), [0.2, 0.5, 0.8]):
        result = fool(OneHead("", [one]), float(radius), norm)
        clear = (distance / radius - 1).abs() > 0.02
        assert bool((result.is_right == (distance > radius))[clear].all())
        assert bool((make_ball(norm, 1.0).size(result.images - IMAGES) <= radius * 1.0001).all())


def test_the_first_order_distance_of_a_linear_head_is_exact_to_the_runner_up() -> None:
    one = head(3)
    labels = one.logits(read(IMAGES)).argmax(dim=1)
    ball = make_ball("l2", 1.0)
    distance = OneHead("", [one]).distance(Examples(read, IMAGES, labels), ball)
    assert bool((distance >= closed_form(one, 2.0) * 0.9999).all())
    two = TorchHead(one.neurons, one.weight[:2], one.bias[:2])
    labels = two.logits(read(IMAGES)).argmax(dim=1)
    logits = two.logits(read(IMAGES))
    exact = (logits[:, 0] - logits[:, 1]).abs() / (two.weight[0] - two.weight[1]).norm()
    torch.testing.assert_close(
        OneHead("", [two]).distance(Examples(read, IMAGES, labels), ball), exact
    )
    assert bool((OneHead("", [two]).distance(Examples(read, IMAGES, 1 - labels), ball) == 0).all())


@pytest.mark.parametrize(("n_heads", "order", "nearest"), [
    (3, (0, 1, 2), 2), (3, (2, 0, 1), 2), (4, (0, 1, 2, 3), 2), (4, (3, 0, 1, 2), 2),
    (4, (3, 2, 1, 0), 3), (4, (1, 2, 0, 3), 3),
])  # fmt: skip
def test_a_hard_vote_turns_where_the_wrong_heads_win(
    n_heads: int, order: tuple[int, ...], nearest: int
) -> None:
    # Head order[i] is the i-th to turn; of four, two win if the earliest head is one of them.
    weight = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(5))
    leads = {number: 2.0 + place for place, number in enumerate(order)}
    heads = [
        TorchHead(torch.arange(SIZE), weight, torch.tensor([leads[number], 0.0]))
        for number in range(n_heads)
    ]
    examples = Examples(read, IMAGES, torch.zeros(len(IMAGES), dtype=torch.int64))
    ball = make_ball("l2", 1.0)
    expected = OneHead("", [heads[order[nearest - 1]]]).distance(examples, ball)
    torch.testing.assert_close(HardVote("", heads).distance(examples, ball), expected)
    # All heads read the same pixels, so that the distance is exact.
    radius = float(expected.max())
    result = attack_defence(
        HardVote("", heads), examples, make_ball("l2", radius * 1.01), Budget(steps=30),
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert not bool(result.is_right.any())
    assert bool(fool(HardVote("", heads), float(expected.min()) * 0.98).is_right.all())


@pytest.mark.parametrize("vote", [OneHead, SoftVote])
def test_saturated_softmax_hides_its_gradient_and_not_its_boundary(vote: type[Defence]) -> None:
    heads = [head(seed, scale=1e4) for seed in (3, 4, 5)][: 1 if vote is OneHead else 3]
    defence = vote("planted", heads)
    with torch.no_grad():
        labels = defence.predict(read(IMAGES))
    clear = zero_gradients(defence, Examples(read, IMAGES, labels))
    assert clear.float().mean() > 0.5, "the weakness must be there"
    masked = fool(defence, 1.0, losses=(CROSS_ENTROPY,))
    assert masked.is_right.float().mean() > 0.3, "the loss of the literature must be blind"
    assert not bool(fool(defence, 1.0).is_right.any())


@pytest.mark.parametrize(
    ("leads", "reach"), [((2.0, 2.0, 2.0), 1.2), ((0.7, 2.0, 4.0), 1.05), ((1.0, 3.0, 3.0), 1.15)]
)
def test_a_hard_vote_has_no_gradient_and_falls_where_half_of_its_heads_do(
    leads: tuple[float, ...], reach: float
) -> None:
    # Heads on separate pixels: the least change that fools two of three is the root of the sum of
    # the squares of the two nearest boundaries.
    weight = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(5))
    columns = torch.arange(SIZE).split(16)
    heads = [
        TorchHead(neurons, weight[:, neurons], torch.tensor([lead, 0.0]))
        for neurons, lead in zip(columns, leads, strict=True)
    ]
    defence = HardVote("", heads)
    features = read(IMAGES).requires_grad_(True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(defence.scores(features).sum(), features)
    labels = torch.zeros(len(IMAGES), dtype=torch.int64)
    with torch.no_grad():
        each = torch.stack([-excess(one.logits(features), labels) / one.scale for one in heads])
    # The scale of two rows is their distance over the root of two.
    each = each.clamp_min(0.0) / 2**0.5
    least = each.sort(dim=0).values[:2].square().sum(dim=0).sqrt()
    assert bool((least > 0).all()), "all votes must be right"
    assert bool(fool(defence, float(least.min()) * 0.97).is_right.all())
    radius = float(least.max()) * reach
    assert bool(fool(defence, radius, losses=(CROSS_ENTROPY,)).is_right.any()), "a blind loss"
    assert not bool(fool(defence, radius).is_right.any())


def test_a_head_that_is_wrong_already_does_not_draw_the_attack_away() -> None:
    # One head is wrong, and so strong that it rules the mean cross-entropy of the literature; one
    # more wrong head turns the vote.
    generator = torch.Generator().manual_seed(7)
    easy = torch.randn(2, 16, generator=generator)
    heads = [
        TorchHead(torch.arange(16), torch.stack([-1e3 * easy[0], 1e3 * easy[0]]),
                  torch.tensor([0.0, 9e3])),
        TorchHead(torch.arange(16, 32), 5 * easy, torch.tensor([3.0, 0.0])),
        TorchHead(torch.arange(32, 48), 5 * easy, torch.tensor([3.0, 0.0])),
    ]  # fmt: skip
    defence = HardVote("", heads)
    labels = torch.zeros(len(IMAGES), dtype=torch.int64)
    predictions = torch.stack([one.logits(read(IMAGES)).argmax(dim=1) for one in heads])
    usual = (predictions == torch.tensor([[1], [0], [0]])).all(dim=0)
    assert usual.float().mean() > 0.6
    options = {"ball": make_ball("l2", 0.35), "budget": Budget(steps=40)}

    def right_under(losses: tuple[str, ...]) -> float:
        result = attack_defence(
            defence, Examples(read, IMAGES[usual], labels[usual]), losses=losses,
            generator=torch.Generator().manual_seed(1), **options,
        )  # fmt: skip
        return float(result.is_right.float().mean())

    assert right_under((CROSS_ENTROPY,)) > 0.5, "the loss of the literature must be misled"
    assert right_under(()) == 0.0


def test_votes_are_those_of_cm_ensembles_with_ties() -> None:
    heads = [head(seed) for seed in range(4)]
    rows = torch.randn(500, SIZE, generator=torch.Generator().manual_seed(2))
    logits = torch.stack([one.logits(rows) for one in heads])
    classes = logits.argmax(dim=2).numpy()
    counts = np.stack([(classes == c).sum(axis=0) for c in range(N_CLASSES)])
    assert (np.sort(counts, axis=0)[-1] == np.sort(counts, axis=0)[-2]).any(), "ties must occur"
    np.testing.assert_array_equal(HardVote("", heads).predict(rows).numpy(), hard_vote(classes))
    expected = soft_vote(logits.softmax(dim=2).numpy())
    np.testing.assert_array_equal(SoftVote("", heads).predict(rows).numpy(), expected)


def test_an_unknown_loss_is_one_line() -> None:
    with pytest.raises(CriticalMassError, match=r"no loss 'crossentropy'.*cross-entropy, margin"):
        fool(OneHead("one", [head(1)]), 0.1, losses=("crossentropy",))
