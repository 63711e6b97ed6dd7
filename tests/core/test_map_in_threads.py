"""map_in_threads: the same sums in the same order on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from criticalmass.core import threads as thread_module
from criticalmass.core.threads import map_in_threads
from criticalmass.theory.eigenbasis import Eigenbasis, decompose, eigenbasis, normal_equations
from criticalmass.theory.held_out import Sampling, held_out
from criticalmass.theory.ridge_heads import exchangeable_heads


def layer(n: int = 400, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = np.arange(n) % 3
    return rng.standard_normal((n, d)) + labels[:, None] * np.linspace(0.0, 1.0, d), labels


def test_results_come_in_the_order_of_their_items() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            first_may_end.wait(5.0)
        else:
            first_may_end.set()
        return item * item

    assert list(map_in_threads(work, range(20))) == [item * item for item in range(20)]


def test_at_most_one_result_more_than_threads_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "thread_count", lambda: 3)
    n_read = 0

    def items() -> Iterator[int]:
        nonlocal n_read
        for item in range(50):
            n_read += 1
            yield item

    for index, _ in enumerate(map_in_threads(lambda item: item, items())):
        assert n_read <= index + 4


def test_blas_has_one_thread_in_each_thread() -> None:
    # faiss has its own BLAS, which counts its threads per calling thread.
    pytest.importorskip("faiss")
    with threadpool_limits(2, user_api="blas"):
        inside = next(iter(map_in_threads(lambda _: threadpool_info(), [0])))
        after = threadpool_info()
    assert {lib["num_threads"] for lib in inside if lib["user_api"] == "blas"} == {1}
    assert 2 in {lib["num_threads"] for lib in after if lib["user_api"] == "blas"}


def test_an_error_of_a_task_is_raised() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("third")
        return item

    with pytest.raises(ValueError, match="third"):
        list(map_in_threads(work, range(9)))


def test_the_eigenbasis_does_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels = layer()
    bases: list[Eigenbasis] = []
    for threads in (1, 4):
        monkeypatch.setattr(thread_module, "thread_count", lambda count=threads: count)
        bases.append(decompose(normal_equations(rows, labels, chunk_rows=32), len(rows)))
    assert np.array_equal(bases[0].second_moment, bases[1].second_moment)
    assert np.array_equal(bases[0].targets, bases[1].targets)


def test_heads_score_the_same_on_rows_rotated_to_the_eigenbasis() -> None:
    rows, labels = layer()
    basis, sampling = eigenbasis(rows, labels), Sampling(draws=5)
    original = held_out(basis, rows, labels, sampling)
    rotated = replace(original, sample=original.sample @ basis.vectors.astype(np.float32))
    one = np.ones(1, dtype=np.int64)
    for size in (2, 4, 6):
        a = original.scores(exchangeable_heads(basis, size, 0.1), one, sampling)
        heads = exchangeable_heads(basis, size, 0.1, in_eigenbasis=True)
        b = rotated.scores(heads, one, sampling)
        np.testing.assert_allclose(a.error, b.error, rtol=1e-5)
        np.testing.assert_allclose(a.accuracy, b.accuracy, atol=1.0 / labels.size)


def test_draws_that_share_a_product_score_as_separate_ones() -> None:
    rows, labels = layer()
    basis, sampling = eigenbasis(rows, labels), Sampling(draws=7)
    test_rows, one = held_out(basis, rows, labels, sampling), np.ones(1, dtype=np.int64)
    heads = exchangeable_heads(basis, 3, 0.1)
    together = test_rows.scores(heads, one, sampling)
    separate = replace(test_rows, product_columns=1).scores(heads, one, sampling)
    np.testing.assert_allclose(together.error, separate.error, rtol=1e-5)
    np.testing.assert_allclose(together.accuracy, separate.accuracy, atol=1.0 / labels.size)


def test_libraries_that_are_loaded_later_are_limited_too() -> None:
    program = """
import sys
import numpy
from threadpoolctl import threadpool_info
from criticalmass.core.threads import limit_libraries

def blas():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

with limit_libraries(1):
    assert len(blas()) == 1
assert "scipy.linalg.blas" not in sys.modules
before = len(threadpool_info())
import scipy.linalg.blas
assert len(threadpool_info()) > before
with limit_libraries(1):
    assert blas() == {1}, blas()
assert blas() == {2}, blas()
"""
    two = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", program], env=os.environ | two, check=True)
