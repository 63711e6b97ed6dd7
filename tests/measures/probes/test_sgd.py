from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticalmass.errors import CriticalMassError
from criticalmass.measures.columns import take_columns
from criticalmass.measures.prefix_heads import (
    prefix_scores,
    smallest_first,
    stack_heads,
    unstack_heads,
)
from criticalmass.measures.probes.sgd import SgdProtocol, batches, initial_heads, sgd, train_heads
from criticalmass.measures.probes.sgd_kernels import softmax_residual
from criticalmass.measures.probes.task import ProbeTask

SHORT = SgdProtocol(epochs=5, batch=32, milestones=(0.4, 0.8), weight_decay=5e-3)


def probe_task(n: int = 150, d: int = 16, n_classes: int = 4, n_test: int = 70) -> ProbeTask:
    rng = np.random.default_rng(n + d)
    y = rng.integers(0, n_classes, n + n_test)
    x = rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n + n_test, d))
    x[:, 1] = 1.25
    x = np.maximum(x, 0).astype(np.float32)
    return ProbeTask(
        x_train=x[:n],
        y_train=y[:n],
        x_test=x[n:],
        n_classes=n_classes,
        orders=np.stack([rng.permutation(d) for _ in range(3)]),
        sizes=(1, 5, d),
        validation=np.zeros(n, dtype=bool),
    )


class ByNumber:
    """Rows that can be read by slices and by arrays of row numbers, like shards on disk."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        assert isinstance(key, slice | np.ndarray)
        return self._array[key]


def start_of(task: ProbeTask, protocol: SgdProtocol) -> list[Any]:
    """The heads before the first step: a protocol whose steps have no length."""
    still = dataclasses.replace(protocol, lr=1e-30, epochs=1)
    return [heads.heads() for heads in train_heads(task, still)]


@pytest.mark.parametrize("n_classes", [2, 4])
def test_heads_are_those_of_torch_on_the_same_batches(n_classes: int) -> None:
    torch = pytest.importorskip("torch")
    task = probe_task(n_classes=n_classes)
    initial, trained = start_of(task, SHORT), train_heads(task, SHORT)
    for seed, order in enumerate(task.orders):
        for j, k in enumerate(task.sizes):
            layer = torch.nn.Linear(k, n_classes)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(initial[seed][j][0].T.copy()))
                layer.bias.copy_(torch.from_numpy(initial[seed][j][1].copy()))
            steps = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
            rates = torch.optim.lr_scheduler.MultiStepLR(steps, milestones=[2, 4], gamma=0.1)
            for epoch in range(SHORT.epochs):
                for index in batches(task, SHORT, epoch):
                    x = torch.from_numpy(task.x_train[index][:, order[:k]])
                    steps.zero_grad()
                    loss = torch.nn.functional.cross_entropy(
                        layer(x), torch.from_numpy(task.y_train[index])
                    )
                    loss.backward()
                    steps.step()
                rates.step()
            weights, bias = trained[seed].heads()[j]
            np.testing.assert_allclose(weights, layer.weight.detach().numpy().T, atol=1e-5)
            np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-5)


def test_the_defaults_are_the_papers() -> None:
    protocol = SgdProtocol()
    rates = [protocol.rate(epoch) for epoch in (0, 19, 20, 39, 40, 60, 80, 99)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-5])
    assert (protocol.epochs, protocol.batch, protocol.momentum) == (100, 256, 0.9)
    assert protocol.weight_decay == 1e-4


def test_heads_start_like_a_linear_layer_of_torch() -> None:
    heads = initial_heads(np.arange(400), (4, 100, 400), 50, (7,)).heads()
    for k, (weights, bias) in zip((4, 100, 400), heads, strict=True):
        assert weights.shape == (k, 50)
        assert np.abs(weights).max() <= k**-0.5
        assert np.abs(bias).max() <= k**-0.5
        assert abs(weights.std() * np.sqrt(3 * k) - 1) < 0.1


def test_every_epoch_sees_every_row_once_in_another_order() -> None:
    task = probe_task(150)
    epochs = [list(batches(task, SHORT, epoch)) for epoch in range(2)]
    for epoch in epochs:
        assert [index.size for index in epoch] == [32, 32, 32, 32, 22]
        assert sorted(np.concatenate(epoch)) == list(range(150))
    assert not np.array_equal(epochs[0][0], epochs[1][0])


def test_scores_say_what_was_done() -> None:
    task = probe_task(n=400, n_test=200)
    scores = sgd(task, protocol=SHORT)
    assert scores.predictions.shape == (3, 3, 200)
    assert scores.predictions.dtype == np.uint8
    assert np.isnan(scores.gap).all()
    assert np.isnan(scores.l2).all()
    assert (scores.passes == 5).all()
    assert (scores.status == "ok").all()
    for seed, heads in enumerate(train_heads(task, SHORT)):
        for j, (weights, bias) in enumerate(heads.heads()):
            kept = task.orders[seed][: task.sizes[j]]
            expected = (task.x_test[:, kept] @ weights + bias).argmax(axis=1)
            np.testing.assert_array_equal(scores.predictions[seed, j], expected)


def test_the_whole_layer_learns_and_a_single_neuron_does_less() -> None:
    task = probe_task(n=600, n_test=400)
    truth = np.random.default_rng(616).integers(0, 4, 1000)[600:]
    accuracy = (sgd(task, protocol=SHORT).predictions == truth).mean(axis=2)
    assert (accuracy[:, -1] > 0.75).all()
    assert (accuracy[:, -1] > accuracy[:, 0] + 0.2).all()


def test_the_same_seed_gives_the_same_and_another_seed_another() -> None:
    task = probe_task()
    first, second = (train_heads(task, SHORT)[0].weights for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for other in (
        train_heads(task, dataclasses.replace(SHORT, seed=1)),
        train_heads(dataclasses.replace(task, seed=1), SHORT),
    ):
        assert not np.array_equal(other[0].weights, first)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_stay_on_disk_give_what_memory_gives(dtype: Any) -> None:
    task = probe_task()
    x_train, x_test = task.x_train.astype(dtype), task.x_test.astype(dtype)
    whole = sgd(dataclasses.replace(task, x_train=x_train, x_test=x_test), protocol=SHORT)
    sharded = dataclasses.replace(task, x_train=ByNumber(x_train), x_test=ByNumber(x_test))
    from_disk = sgd(sharded, protocol=SHORT, max_bytes_in_memory=0)
    np.testing.assert_array_equal(whole.predictions, from_disk.predictions)


def test_a_head_that_overflows_is_not_passed_off() -> None:
    task = probe_task()
    wild = dataclasses.replace(task, x_train=task.x_train * np.float32(1e25))
    scores = sgd(wild, protocol=dataclasses.replace(SHORT, lr=1e15))
    assert (scores.status[:, -1] == "not_converged").all()


@pytest.mark.parametrize("part", ["x_train", "x_test"])
def test_features_that_are_not_finite_are_named(part: str) -> None:
    task = probe_task()
    x = getattr(task, part).copy()
    x[57, 6] = np.nan
    with pytest.raises(CriticalMassError, match=f"{part} row 57 neuron 6 is nan"):
        sgd(dataclasses.replace(task, **{part: x}), protocol=SHORT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs=0 but it must be at least 1"),
        ({"batch": 0}, "batch=0 but it must be at least 1"),
        ({"seed": -1}, "seed=-1 but it must be at least 0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"milestones": (0.5, 1.5)}, "milestones="),
    ],
)
def test_a_protocol_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CriticalMassError, match=message):
        SgdProtocol(**change)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(2, 7), st.floats(0.1, 40), st.integers(0, 99)
)
def test_residuals_are_softmax_minus_one_hot(
    n_rows: int, n_heads: int, n_classes: int, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_rows, n_heads * n_classes)).astype(np.float32) * np.float32(spread)
    bias = rng.normal(size=(n_heads, n_classes)).astype(np.float32)
    labels = rng.integers(0, n_classes, n_rows)
    z = logits.reshape(n_rows, n_heads, n_classes).astype(float) + bias
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    expected = (p - np.eye(n_classes)[labels][:, None]) / n_rows
    softmax_residual(logits, bias, labels)
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, atol=1e-5)


def test_small_probabilities_keep_their_digits() -> None:
    below = np.linspace(0, 80, 5000, dtype=np.float32)
    logits = np.stack([np.zeros_like(below), -below], axis=1)
    softmax_residual(logits, np.zeros((1, 2), dtype=np.float32), np.zeros(5000, dtype=np.int64))
    expected = 1 / (1 + np.exp(below.astype(float)))
    np.testing.assert_allclose(logits[:, 1] * 5000, expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 3), st.integers(0, 10**6))
def test_stacked_heads_score_like_the_heads(d: int, n_outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = sorted(set(rng.integers(1, d + 1, size=4).tolist()))
    heads = [rng.normal(size=(k, n_outputs)) for k in sizes]
    x, blocks = rng.normal(size=(5, d)), stack_heads(heads)
    together = smallest_first(prefix_scores(x, blocks), len(sizes))
    for j, (k, head) in enumerate(zip(sizes, heads, strict=True)):
        np.testing.assert_allclose(together[:, j], x[:, :k] @ head, atol=1e-12)
        np.testing.assert_array_equal(unstack_heads(blocks)[j], head)


def test_gathered_columns_are_the_columns() -> None:
    rng = np.random.default_rng(0)
    x, kept = rng.normal(size=(9, 13)).astype(np.float32), rng.permutation(13)[:6]
    buffer = np.zeros((20, 6), dtype=np.float32)
    np.testing.assert_array_equal(take_columns(x, kept), x[:, kept])
    np.testing.assert_array_equal(take_columns(x, kept, buffer), x[:, kept])
    np.testing.assert_array_equal(buffer[:9], x[:, kept])


def test_initial_weights_do_not_depend_on_the_other_sizes() -> None:
    alone = initial_heads(np.arange(9), (5,), 3, (1, 2)).heads()[0]
    among = initial_heads(np.arange(9), (2, 5, 9), 3, (1, 2)).heads()[1]
    for one, other in zip(alone, among, strict=True):
        np.testing.assert_array_equal(one, other)
