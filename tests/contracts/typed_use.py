"""What a type checker knows of the public names; `make lint` checks it, and no test runs it."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.shrinking.shrink import ShrinkPlan


def verbs(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Go from vectors to a page and a slim model."""
    store = cm.import_features(vectors, labels=labels, out="features")
    assert_type(store, cm.FeatureStore)
    assert_type(cm.FeatureStore.open("features"), cm.FeatureStore)
    assert_type(store.layers, tuple[str, ...])
    run = cm.sweep(store, out="run", selectors=("random",), seeds=3)
    assert_type(run, cm.Run)
    assert_type(cm.report(run, out="report.html"), Path)
    plan = cm.shrink(store, keep=0.95, out="slim")
    assert_type(plan, ShrinkPlan)
    assert_type(cm.export("slim", format="indices", out="kept"), Path)


def functions(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Call the small pure functions."""
    assert_type(cm.linear_cka(x, y), float)
    assert_type(cm.gini(x), float)
    assert_type(cm.participation_ratio(x), float)
