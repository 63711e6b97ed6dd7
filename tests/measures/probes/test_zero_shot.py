"""Zero-shot: class prompts on a subset equal a plain reference; projections move both towers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.core.rows import ProjectedRows
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.probes.zero_shot import zero_shot
from criticalmass.storage.prompts import ClassPrompts

N_NEURONS, N_CLASSES, N_TEMPLATES = 12, 4, 3
Array = NDArray[Any]


def make_task(**changes: Any) -> ProbeTask:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(N_CLASSES), N_TEMPLATES)
    vectors = rng.standard_normal((classes.size, N_NEURONS)).astype(np.float32)
    # Prompts of very different lengths: each counts once only if it is normalised.
    vectors *= rng.uniform(0.1, 10.0, (classes.size, 1)).astype(np.float32)
    x = rng.standard_normal((1500, N_NEURONS)).astype(np.float32)
    orders = np.stack([rng.permutation(N_NEURONS) for _ in range(3)])
    task = ProbeTask(
        x_train=np.zeros((4, N_NEURONS), np.float32),
        y_train=np.arange(4),
        x_test=x,
        n_classes=N_CLASSES,
        orders=orders,
        sizes=(1, 3, 7, N_NEURONS),
        validation=np.zeros(4, dtype=np.bool_),
        prompts=ClassPrompts(vectors, classes),
    )
    return dataclasses.replace(task, **changes)


def reference(x: Array, prompts: ClassPrompts, columns: Array) -> Array:
    """Cosines by their definition, one class after the other."""
    cosines = []
    for c in range(N_CLASSES):
        own = prompts.vectors[prompts.classes == c][:, columns].astype(float)
        direction = np.mean([row / np.sqrt(row @ row) for row in own], axis=0)
        direction /= np.sqrt(direction @ direction)
        rows = x[:, columns].astype(float)
        cosines.append(rows @ direction / np.sqrt((rows**2).sum(axis=1)))
    return np.argmax(cosines, axis=0)


def test_every_prefix_of_every_order_equals_the_cosines_by_definition() -> None:
    task = make_task()
    assert task.prompts is not None
    predictions = zero_shot(task).predictions
    for i, order in enumerate(task.orders):
        for j, size in enumerate(task.sizes):
            expected = reference(np.asarray(task.x_test[:]), task.prompts, order[:size])
            np.testing.assert_array_equal(predictions[i, j], expected)


def test_a_rotation_of_both_towers_changes_nothing_and_of_one_does() -> None:
    task = make_task(orders=np.arange(N_NEURONS)[None], sizes=(N_NEURONS,))
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((N_NEURONS, N_NEURONS)))[0]
    rows = ProjectedRows(task.x_test, basis.astype(np.float32))
    plain = zero_shot(task).predictions
    rotated = zero_shot(dataclasses.replace(task, x_test=rows, x_train=task.x_train)).predictions
    assert (plain == rotated).mean() > 0.999  # float32 products may move a tie
    images_only = dataclasses.replace(task, x_test=rows[0:1500])
    assert (plain == zero_shot(images_only).predictions).mean() < 0.9


def test_prompts_that_are_zero_on_the_subset_have_the_cosine_zero() -> None:
    prompts = ClassPrompts(np.array([[0, 1], [1, 0], [0, 1]], np.float32), np.array([0, 1, 0]))
    x = np.array([[1, 5], [-1, 5]], np.float32)
    task = make_task(
        x_train=np.zeros((4, 2), np.float32), x_test=x, n_classes=2, y_train=np.arange(4) % 2,
        orders=np.array([[0, 1]]), sizes=(1, 2), prompts=prompts,
    )  # fmt: skip
    np.testing.assert_array_equal(zero_shot(task).predictions[0], [[1, 0], [0, 0]])


def test_no_prompts_and_prompts_of_another_width_are_one_line() -> None:
    other = ClassPrompts(np.ones((4, 5), np.float32), np.arange(4))
    for prompts, words in ((None, "--prompt"), (other, "5 neurons and the layer 12")):
        with pytest.raises(CriticalMassError, match=words) as caught:
            zero_shot(make_task(prompts=prompts))
        assert "\n" not in str(caught.value)
