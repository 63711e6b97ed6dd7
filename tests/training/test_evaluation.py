"""The accuracy of a checkpoint does not depend on the order of the dataset."""

from __future__ import annotations

import numpy as np

from criticalmass.training.evaluation import _probe_accuracy


def test_labels_in_a_cycle_are_as_good_as_mixed_ones() -> None:
    """Every fifth row would be one class: a penalty chosen on it is the strongest."""
    rng = np.random.default_rng(0)
    n_classes, width = 5, 10
    centres = rng.standard_normal((n_classes, width))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) % n_classes
        common = rng.standard_normal((n, width))
        # The classes differ in small differences of pairs of neurons, which need a weak penalty.
        other = common + 0.1 * (centres[y] + 0.3 * rng.standard_normal((n, width)))
        return np.hstack([common, other]).astype(np.float32), y

    (train_x, train_y), (test_x, test_y) = draw(200), draw(1000)
    mixed = rng.permutation(len(train_x))
    in_cycle = _probe_accuracy(train_x, train_y, test_x, test_y)
    assert in_cycle > 0.95
    assert abs(in_cycle - _probe_accuracy(train_x[mixed], train_y[mixed], test_x, test_y)) < 0.02


def test_one_sample_of_each_class_has_no_accuracy() -> None:
    x, y = np.eye(4, dtype=np.float32), np.arange(4)
    assert np.isnan(_probe_accuracy(x, y, x, y))
