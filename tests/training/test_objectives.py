"""Objectives against independent formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from criticalmass.extraction.models.small_networks import NetworkShape, build_network
from criticalmass.training.objectives import OBJECTIVES
from criticalmass.training.recipe import ObjectiveEntry
from criticalmass.training.terms import Objectives, TermContext

N, N_NEURONS, N_CLASSES = 6, 5, 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 1])


class Terms:
    """The objectives of a small network, on given activations."""

    def __init__(self, *entries: str | dict[str, Any], n_neurons: int = N_NEURONS) -> None:
        torch.manual_seed(0)
        shape = NetworkShape("resnet8", 2, n_neurons, 8, N_CLASSES)
        self.network = build_network(shape)
        chosen = [
            ObjectiveEntry(name=one) if isinstance(one, str) else ObjectiveEntry(**one)
            for one in entries
        ]
        self.objectives = Objectives(chosen, TermContext(self.network, N_CLASSES))

    @property
    def head(self) -> nn.Linear:
        return self.network.linear_head()

    def values(
        self, features: Tensor, labels: Tensor = LABELS, n_views: int = 1
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return self.objectives.values(self.network, features, labels, n_views, generator)

    def logits(self, features: Tensor) -> NDArray[np.float64]:
        weight = self.head.weight.detach().double().numpy()
        bias = self.head.bias.detach().double().numpy()
        return features.detach().double().numpy() @ weight.T + bias


def entry(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "options": options}


def features(n: int = N, seed: int = 1, n_neurons: int = N_NEURONS) -> Tensor:
    return torch.randn(n, n_neurons, generator=torch.Generator().manual_seed(seed))


def log_softmax(x: NDArray[Any]) -> NDArray[Any]:
    shifted = x - x.max(axis=1, keepdims=True)
    logs: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def only(values: dict[str, Tensor]) -> float:
    [value] = values.values()
    return float(value.detach())


# --- losses of the classifier ---------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    terms, x = Terms(entry("cross-entropy", smoothing=smoothing, weight=2.0)), features()
    target = np.eye(N_CLASSES)[LABELS] * (1 - smoothing) + smoothing / N_CLASSES
    expected = -(target * log_softmax(terms.logits(x))).sum(axis=1).mean()
    assert only(terms.values(x)) == pytest.approx(2 * expected, rel=1e-5)


def test_sigmoid() -> None:
    terms, x = Terms("sigmoid"), features()
    sign = 2 * np.eye(N_CLASSES)[LABELS] - 1
    expected = np.log1p(np.exp(-sign * terms.logits(x))).sum(axis=1).mean()
    assert only(terms.values(x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("scale", "kappa"), [(1.0, 1.0), (10.0, 4.0)])
def test_squared_error(scale: float, kappa: float) -> None:
    """Hui and Belkin (2021), equation 2: the right class counts kappa times, its target is M."""
    terms, x = Terms(entry("mse", scale=scale, kappa=kappa)), features()
    losses = []
    for row, label in zip(terms.logits(x), LABELS.tolist(), strict=True):
        others = sum(row[c] ** 2 for c in range(N_CLASSES) if c != label)
        losses.append((kappa * (row[label] - scale) ** 2 + others) / N_CLASSES)
    assert only(terms.values(x)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_cosine() -> None:
    terms, x = Terms(entry("cosine", temperature=0.2)), features()
    weight = terms.head.weight.detach().double().numpy()
    rows = x.double().numpy()
    cosines = (rows / np.linalg.norm(rows, axis=1)[:, None]) @ (
        weight / np.linalg.norm(weight, axis=1)[:, None]
    ).T
    expected = -log_softmax(cosines / 0.2)[np.arange(N), LABELS].mean()
    assert only(terms.values(x)) == pytest.approx(expected, rel=1e-5)
    # The classifier itself decides by the largest cosine, also after a step.
    with torch.no_grad():
        terms.head.weight *= torch.tensor([[1.0], [5.0], [0.2]])
        terms.head.bias += 3
    terms.objectives.after_step()
    assert (terms.logits(x).argmax(axis=1) == cosines.argmax(axis=1)).all()


# --- losses of two views --------------------------------------------------------------------------


def projected(terms: Terms, x: Tensor) -> NDArray[np.float64]:
    [term] = terms.objectives.terms.values()
    with torch.no_grad():
        rows: Tensor = term.projector(x)  # type: ignore[operator, union-attr]
    return rows.double().numpy()


def similarities(z: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    unit = z / np.linalg.norm(z, axis=1)[:, None]
    scores: NDArray[np.float64] = unit @ unit.T / temperature
    return scores


def test_simclr_is_equation_1_of_chen_et_al() -> None:
    terms, x = Terms(entry("simclr", temperature=0.5, projection=4)), features(8)
    scores = similarities(projected(terms, x), 0.5)
    losses = []
    for i in range(8):
        partner = (i + 4) % 8
        others = [k for k in range(8) if k != i]
        losses.append(-scores[i, partner] + np.log(np.exp(scores[i, others]).sum()))
    value = only(terms.values(x, torch.zeros(8, dtype=torch.long), n_views=2))
    assert value == pytest.approx(np.mean(losses), rel=1e-4)


def test_supcon_is_l_out_of_khosla_et_al() -> None:
    terms, x = Terms(entry("supcon", temperature=0.1, projection=4)), features(2 * N)
    labels = LABELS.repeat(2)
    scores = similarities(projected(terms, x), 0.1)
    losses = []
    for i in range(2 * N):
        others = [k for k in range(2 * N) if k != i]
        total = np.log(np.exp(scores[i, others]).sum())
        partners = [k for k in others if labels[k] == labels[i]]
        losses.append(-np.mean([scores[i, p] - total for p in partners]))
    assert only(terms.values(x, labels, n_views=2)) == pytest.approx(np.mean(losses), rel=1e-4)


def test_vicreg_is_the_loss_of_the_code_of_bardes_et_al() -> None:
    options = {"invariance": 3.0, "variance": 2.0, "covariance": 0.5, "projection": 4}
    terms, x = Terms(entry("vicreg", **options)), features(10)
    z = projected(terms, x)
    first, second = z[:5], z[5:]
    invariance = ((first - second) ** 2).mean()
    variance = covariance = 0.0
    for part in (first, second):
        deviation = np.sqrt(part.var(axis=0, ddof=1) + 1e-4)
        variance += np.maximum(0, 1 - deviation).mean() / 2
        c = np.cov(part.T)
        covariance += (c**2).sum() / 4 - (np.diag(c) ** 2).sum() / 4
    expected = 3.0 * invariance + 2.0 * variance + 0.5 * covariance
    value = only(terms.values(x, torch.zeros(10, dtype=torch.long), n_views=2))
    assert value == pytest.approx(expected, rel=1e-3)


# --- DeCov ----------------------------------------------------------------------------------------


def decov(x: Tensor, **options: Any) -> float:
    return float(Terms("mse", entry("decov", weight=1.0, **options)).values(x)["decov"].detach())


@pytest.mark.parametrize("correlations", [False, True])
def test_decov_is_zero_for_uncorrelated_neurons_and_free_of_scale(correlations: bool) -> None:
    signs = torch.tensor([[1.0, 1, 1, 1, -1, -1, -1, -1], [1, 1, -1, -1, 1, 1, -1, -1]]).T
    plain = torch.cat([signs, signs[:, :1] * signs[:, 1:]], dim=1)
    terms = Terms("mse", entry("decov", weight=1.0, correlations=correlations), n_neurons=3)
    labels = torch.zeros(8, dtype=torch.long)
    assert float(terms.values(plain + 2, labels)["decov"]) == pytest.approx(0, abs=1e-9)
    x = features(8, n_neurons=3)
    one, ten = (float(terms.values(k * x, labels)["decov"]) for k in (1, 10))
    assert one == pytest.approx(ten, rel=1e-3)


@pytest.mark.parametrize("copies", [2, 3])
def test_decov_of_copies_of_a_neuron_is_their_number_minus_1_halved(copies: int) -> None:
    """Of d equal neurons, d (d - 1) squared covariances are over d squared variances."""
    x = features(6, n_neurons=1).repeat(1, copies)
    terms = Terms("mse", entry("decov", weight=1.0), n_neurons=copies)
    assert float(terms.values(x)["decov"]) == pytest.approx((copies - 1) / 2, rel=1e-5)


def test_decov_is_half_of_the_squared_covariances_over_the_squared_variances() -> None:
    x = features()
    c = np.cov(x.double().numpy().T, ddof=0)
    diagonal = (np.diag(c) ** 2).sum()
    assert decov(x) == pytest.approx(0.5 * ((c**2).sum() - diagonal) / diagonal, rel=1e-5)
    r = np.corrcoef(x.double().numpy().T)
    expected = 0.5 * ((r**2).sum() - N_NEURONS) / N_NEURONS
    assert decov(x, correlations=True) == pytest.approx(expected, rel=1e-3)


# --- wrappers -------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_a_share() -> None:
    terms = Terms("mse", entry("dropout", p=0.3))
    dropped = terms.objectives.terms["dropout"].transform(  # type: ignore[operator, union-attr]
        torch.full((20_000, 5), 2.0), torch.Generator().manual_seed(0)
    )
    assert sorted(set(np.unique(dropped.numpy()).round(4))) == [0.0, round(2 / 0.7, 4)]
    assert float(dropped.mean()) == pytest.approx(2.0, rel=0.01)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    # Neurons are dropped independently of each other.
    joint = float(((dropped[:, 0] == 0) & (dropped[:, 1] == 0)).float().mean())
    assert joint == pytest.approx(0.09, abs=0.01)


def test_nested_dropout_keeps_first_neurons() -> None:
    terms = Terms("mse", entry("nested-dropout", sizes=[1, 3, 99]))
    kept = terms.objectives.terms["nested-dropout"].transform(  # type: ignore[operator, union-attr]
        torch.ones(3000, 5), torch.Generator().manual_seed(0)
    )
    counts = kept.sum(dim=1)
    assert torch.equal(kept, (torch.arange(5) < counts[:, None]).float())
    # Sizes above the width are left out; the others are drawn equally often.
    values, numbers = np.unique(counts.numpy(), return_counts=True)
    assert values.tolist() == [1, 3]
    np.testing.assert_allclose(numbers / 3000, 0.5, atol=0.03)


@pytest.mark.parametrize("name", ["matryoshka", "matryoshka-shared"])
def test_matryoshka_averages_the_losses_of_first_neurons(name: str) -> None:
    terms, x = Terms("cross-entropy", entry(name, sizes=[2, 5, 99])), features()
    term = terms.objectives.terms[name]
    readouts = term.readouts(terms.head, x)  # type: ignore[operator, union-attr]
    assert [one.features.shape[1] for one in readouts] == [2, 5]
    small = readouts[0]
    if name == "matryoshka-shared":
        assert torch.equal(small.weight, terms.head.weight[:, :2])
    logits = (x[:, :2] @ small.weight.T + small.bias).detach().double().numpy()
    rows = np.arange(N)
    expected = np.mean(
        [-log_softmax(each)[rows, LABELS].mean() for each in (logits, terms.logits(x))]
    )
    assert only(terms.values(x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["matryoshka", "matryoshka-shared"])
def test_the_gradient_of_a_matryoshka_classifier_reaches_its_first_neurons_only(name: str) -> None:
    terms, x = Terms("cross-entropy", entry(name, sizes=[2, 4, 5])), features().requires_grad_()
    readouts = terms.objectives.terms[name].readouts(terms.head, x)  # type: ignore[operator, union-attr]
    for readout, size in zip(readouts, (2, 4, 5), strict=True):
        [gradient] = torch.autograd.grad(readout.logits.square().sum(), x, retain_graph=True)
        assert torch.equal(gradient.abs().sum(dim=0) > 0, torch.arange(5) < size)


def test_first_neurons_leave_the_others_to_chance() -> None:
    terms = Terms("cross-entropy", entry("first-neurons", k=2))
    x = features().requires_grad_()
    [value] = terms.values(x).values()
    value.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad.abs().sum(dim=0) > 0, torch.arange(5) < 2)
    # The network's own classifier ignores them as well.
    changed = x.detach().clone()
    changed[:, 2:] += 7
    np.testing.assert_allclose(terms.logits(x), terms.logits(changed))


def test_a_penalty_sees_the_activations_before_dropout() -> None:
    x = features()
    terms = Terms("mse", entry("decov", weight=1.0), "dropout")
    assert float(terms.values(x)["decov"].detach()) == pytest.approx(decov(x), rel=1e-6)


# --- changes of the images ------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "order"), [("l2", 2.0), ("linf", float("inf"))])
def test_adversarial_images_raise_the_loss_within_the_ball(norm: str, order: float) -> None:
    options = {"norm": norm, "radius": 0.5 if norm == "l2" else 0.05}
    terms = Terms("cross-entropy", entry("adversarial", steps=3, **options))
    noisy = Terms("cross-entropy", entry("noise", **options))
    terms.network.eval()
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(32) % N_CLASSES

    def loss_of(moved: Tensor) -> Tensor:
        return nn.functional.cross_entropy(terms.network(moved), labels)

    moved = terms.objectives.perturb(images, loss_of, torch.Generator().manual_seed(0))
    control = noisy.objectives.perturb(images, loss_of, torch.Generator().manual_seed(0))
    for changed in (moved, control):
        change = torch.linalg.vector_norm((changed - images).flatten(1), ord=order, dim=1)
        assert float(change.max()) <= options["radius"] * (1 + 1e-5)
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    before, attacked, at_random = (float(loss_of(one).detach()) for one in (images, moved, control))
    assert attacked - before > 2 * abs(at_random - before)
    assert not moved.requires_grad
    assert all(parameter.grad is None for parameter in terms.network.parameters())


@pytest.mark.parametrize(("norm", "order"), [("l2", 2.0), ("linf", float("inf"))])
def test_noise_has_the_radius_where_no_pixel_is_clipped(norm: str, order: float) -> None:
    terms = Terms("cross-entropy", entry("noise", norm=norm, radius=0.25))
    grey = torch.full((16, 3, 8, 8), 0.5)
    moved = terms.objectives.perturb(grey, lambda x: x.sum(), torch.Generator().manual_seed(0))
    norms = torch.linalg.vector_norm((moved - grey).flatten(1), ord=order, dim=1)
    torch.testing.assert_close(norms, torch.full((16,), 0.25))


def test_every_objective_is_tested_here() -> None:
    """A new objective needs a test against its formula."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in OBJECTIVES if f'"{name}"' not in text] == []
