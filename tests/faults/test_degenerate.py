"""Stores with hardly any data: each verb has a result, or an error in the user's terms."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError

# Names that stand in no message: parameters and shapes of inner functions.
INNER = re.compile(
    r"[xy]_(test|train)|shape|ndarray|dtype|held-out rows|n_classes|validation marks|second moment"
    r"|separates classes| -1 others|\b1 samples\b",
)
MEASURES = ("ridge", "centroid", "cka")


def classes(n: int, of: int) -> list[int]:
    return [i % of for i in range(n)]


#: name -> labels for training and for testing, number of neurons, number of varying neurons.
STORES: dict[str, tuple[list[int], list[int], int, int]] = {
    "one test sample": (classes(20, 4), [1], 6, 6),
    "five test samples": (classes(40, 4), classes(5, 4), 6, 6),
    "one class": ([0] * 20, [0] * 10, 6, 6),
    "one class to train": ([0] * 20, classes(20, 3), 6, 6),
    "one class to test": (classes(40, 4), [0] * 10, 6, 6),
    "one training sample": ([0], [0, 1, 0, 1], 6, 6),
    "one training sample per class": (classes(16, 16), classes(16, 16), 6, 6),
    "two training samples of one class": ([0, 0, 1, 2, 3], classes(12, 4), 6, 6),
    "one neuron": (classes(40, 4), classes(20, 4), 1, 1),
    "two neurons": (classes(40, 4), classes(20, 4), 2, 2),
    "constant neurons": (classes(40, 4), classes(20, 4), 6, 2),
    "only constant neurons": (classes(40, 4), classes(20, 4), 6, 0),
    "no class in both parts": (classes(40, 4), [5, 6] * 10, 6, 6),
    "a class without training samples": (classes(40, 4), [0, 6] * 10, 6, 6),
    "no labels": ([], [], 6, 6),
    "labels of the test part turned around": ([0, 1] * 20, [1, 0] * 10, 6, 6),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("degenerate")


@lru_cache
def store(folder: Path, name: str) -> cm.FeatureStore:
    train, test, width, n_varying = STORES[name]
    n_train, y = len(train) or 30, np.array([*train, *test] or [0] * 50)
    rng = np.random.default_rng(0)
    x = 4 * rng.standard_normal((10 if train else 1, width))[y % 10]
    x += rng.standard_normal(x.shape)
    if name == "labels of the test part turned around":
        x = np.tile([[1.0], [-1.0]], (len(y) // 2, width))
    x[:, n_varying:] = 1.0
    split = np.repeat(["train", "test"], [n_train, len(y) - n_train])
    labels = y if train else "none"
    return cm.import_features(x, labels=labels, split=split, out=folder / name / "store")


@lru_cache
def run(folder: Path, name: str) -> Any:
    """Sweep the measures that the store has, so that the verbs on runs have one to read."""
    options: dict[str, Any] = {"seeds": 2, "fractions": (0.3, 0.6)}
    try:
        return cm.sweep(
            store(folder, name), out=folder / name / "run", measures=MEASURES, **options
        )
    except CriticalMassError:
        return cm.sweep(
            store(folder, name), out=folder / name / "cka", measures=("cka",), **options
        )


def sweep(folder: Path, name: str) -> Any:
    result = cm.sweep(
        store(folder, name), out=folder / name / "all", measures=MEASURES, seeds=1, fractions=(0.5,)
    )
    for error in result.frame()["error"].dropna():
        check(str(error))
    return result


def shrink(measure: str, **options: Any) -> Callable[[Path, str], Any]:
    def call(folder: Path, name: str) -> Any:
        plan = cm.shrink(
            store(folder, name),
            measure=measure,
            out=folder / name / f"slim-{measure}",
            selectors=("random", "leverage"),
            **options,
        )
        assert 0 <= plan.slim.record["measured"]["value_full"] <= 1
        assert "nan" not in plan.sentence
        return cm.export(plan.slim, format="indices", out=folder / name / f"indices-{measure}")

    return call


VERBS: dict[str, Callable[[Path, str], Any]] = {
    "sweep": sweep,
    "redundancy": lambda folder, name: cm.redundancy(run(folder, name)),
    "fairness": lambda folder, name: cm.fairness(run(folder, name)),
    "class_losses": lambda folder, name: cm.class_losses(run(folder, name)),
    "agreement": lambda folder, name: cm.agreement(run(folder, name)),
    "pareto": lambda folder, name: cm.pareto(run(folder, name)),
    "compare": lambda folder, name: cm.compare(run(folder, name), by="measure"),
    "explain": lambda folder, name: cm.explain(store(folder, name)),
    "explain with a run": lambda folder, name: cm.explain(
        store(folder, name), run=run(folder, name)
    ),
    "shrink by ridge": shrink("ridge"),
    "shrink by logistic": shrink("logistic", worst_class_drop=0.1),
    "shrink by retrieval": shrink("retrieval"),
    "shrink by retrieval of labels": shrink("retrieval", relevance="labels"),
    "shrink by cka": shrink("cka"),
    "shrink by mutual-knn": shrink("mutual-knn"),
}


def check(text: str) -> None:
    assert "\n" not in text
    assert not INNER.search(text), text


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", STORES)
def test_there_is_a_result_or_an_error_in_the_words_of_the_user(
    name: str, verb: str, folder: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UserWarning)
        try:
            assert VERBS[verb](folder, name) is not None
        except CriticalMassError as error:
            check(str(error))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_test_part_of_one_class_has_a_report(folder: Path) -> None:
    name = "one class to test"
    assert cm.report(run(folder, name), out=folder / name / "page.html").is_file()
