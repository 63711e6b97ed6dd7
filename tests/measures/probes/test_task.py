from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from criticalmass.core.rows import rows_as_float32
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import (
    ProbeScores,
    ProbeTask,
    compact_labels,
    uncertified_scores,
)

TASK = ProbeTask(
    x_train=np.ones((6, 4), dtype=np.float16),
    y_train=np.arange(6) % 3,
    x_test=np.ones((5, 4)),
    n_classes=3,
    orders=np.array([[3, 1, 0, 2], [0, 1, 2, 3]]),
    sizes=(1, 4),
    validation=np.zeros(6, dtype=bool),
)


def test_a_task_knows_its_shape() -> None:
    assert (TASK.n_train, TASK.n_test, TASK.n_neurons, TASK.n_seeds) == (6, 5, 4, 2)
    assert TASK.grid == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.ones(6)}, r"x_train has shape \(6,\)"),
        ({"x_test": np.ones((0, 4))}, r"x_test has shape \(0, 4\)"),
        ({"x_test": np.ones((5, 3))}, "4 neurons but x_test has 3"),
        ({"y_train": np.zeros(5, dtype=int)}, r"y_train has shape \(5,\)"),
        ({"y_train": np.zeros(6)}, "dtype float64"),
        ({"y_train": np.arange(6)}, "ids 0..5 but n_classes=3"),
        ({"y_train": np.arange(6) % 3 - 1}, "ids -1..1 but"),
        ({"n_classes": 1}, "n_classes=1; a probe needs at least 2"),
        ({"orders": np.array([[0, 1, 2]])}, r"orders have shape \(1, 3\)"),
        ({"orders": np.array([[0, 1, 2, 2]])}, r"permutations of 0..3"),
        ({"orders": np.array([[0.0, 1, 2, 3]])}, r"permutations of 0..3"),
        ({"sizes": ()}, r"sizes=\(\)"),
        ({"sizes": (2, 2)}, "ascending prefix lengths in 1..4"),
        ({"sizes": (0, 2)}, "ascending prefix lengths in 1..4"),
        ({"sizes": (1, 5)}, "ascending prefix lengths in 1..4"),
        ({"validation": np.zeros(5, dtype=bool)}, r"validation has shape \(5,\)"),
        ({"validation": np.zeros(6)}, "dtype float64"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CriticalMassError, match=message):
        dataclasses.replace(TASK, **change)


def test_scores_without_a_certificate_say_so() -> None:
    scores = uncertified_scores(np.zeros((2, 3, 5), dtype=np.uint8), 12.0, passes=7)
    assert np.isnan(scores.gap).all()
    assert np.isnan(scores.l2).all()
    assert (scores.seconds == 2.0).all()
    assert (scores.passes == 7).all()
    assert (scores.status == "ok").all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((2, 3, 5), dtype=np.int64)}, "dtype int64"),
        ({"predictions": np.zeros((6, 5), dtype=np.uint8)}, r"shape \(6, 5\)"),
        ({"gap": np.zeros((3, 2))}, r"gap has shape \(3, 2\)"),
        ({"status": np.full((2, 3), "done", dtype=object)}, "status 'done' is unknown"),
    ],
)
def test_scores_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    scores: ProbeScores = uncertified_scores(np.zeros((2, 3, 5), dtype=np.uint8), 1.0)
    with pytest.raises(CriticalMassError, match=message):
        dataclasses.replace(scores, **change)


@pytest.mark.parametrize(
    ("n_classes", "dtype"), [(2, "u1"), (256, "u1"), (257, "u2"), (70000, "u4")]
)
def test_labels_take_the_smallest_type_that_holds_them(n_classes: int, dtype: str) -> None:
    labels = np.array([0, n_classes - 1])
    compact = compact_labels(labels, n_classes)
    assert compact.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(compact, labels)


def test_rows_come_as_contiguous_float32() -> None:
    x = np.arange(12.0).reshape(4, 3)
    block = rows_as_float32(x.T, 1, 3)
    assert block.dtype == np.float32
    assert block.flags.c_contiguous
    np.testing.assert_array_equal(block, x.T[1:3])
