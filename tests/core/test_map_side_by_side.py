"""Steps on several threads: the same sums in the same order, whatever the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from criticalmass.core import threads as thread_module
from criticalmass.core.threads import map_side_by_side
from criticalmass.theory.eigenbasis import Eigenbasis, eigenbasis
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

    assert list(map_side_by_side(work, range(20))) == [item * item for item in range(20)]


def test_no_more_results_are_held_than_threads_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "thread_count", lambda: 3)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(50):
            taken += 1
            yield item

    for done, _ in enumerate(map_side_by_side(lambda item: item, items())):
        assert taken <= done + 4


def test_blas_has_one_thread_in_each_of_ours() -> None:
    # faiss brings a BLAS that counts its threads for each thread of ours.
    pytest.importorskip("faiss")
    before = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    inside = next(iter(map_side_by_side(lambda _: threadpool_info(), [0])))
    assert all(lib["num_threads"] == 1 for lib in inside if lib["user_api"] == "blas")
    after = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    assert after == before


def test_an_error_of_a_step_is_not_lost() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("third")
        return item

    with pytest.raises(ValueError, match="third"):
        list(map_side_by_side(work, range(9)))


def test_the_eigenbasis_does_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, labels = layer()
    monkeypatch.setattr("criticalmass.theory.eigenbasis._CHUNK", 32)
    found: list[Eigenbasis] = []
    for threads in (1, 4):
        monkeypatch.setattr(thread_module, "thread_count", lambda count=threads: count)
        found.append(eigenbasis(rows, labels))
    assert np.array_equal(found[0].second_moment, found[1].second_moment)
    assert np.array_equal(found[0].targets, found[1].targets)


def test_heads_score_the_same_on_rows_turned_into_the_eigenbasis() -> None:
    rows, labels = layer()
    basis, how = eigenbasis(rows, labels), Sampling(draws=5)
    plain = held_out(basis, rows, labels, how)
    turned = replace(plain, sample=plain.sample @ basis.vectors.astype(np.float32))
    one = np.ones(1, dtype=np.int64)
    for size in (2, 4, 6):
        a = plain.scores(exchangeable_heads(basis, size, 0.1), one, how)
        b = turned.scores(exchangeable_heads(basis, size, 0.1, turned=True), one, how)
        np.testing.assert_allclose(a.error, b.error, rtol=1e-5)
        np.testing.assert_allclose(a.accuracy, b.accuracy, atol=1.0 / labels.size)


def test_draws_that_share_a_product_score_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = layer()
    basis, how = eigenbasis(rows, labels), Sampling(draws=7)
    bench, one = held_out(basis, rows, labels, how), np.ones(1, dtype=np.int64)
    heads = exchangeable_heads(basis, 3, 0.1)
    together = bench.scores(heads, one, how)
    monkeypatch.setattr("criticalmass.theory.held_out._COLUMNS", 1)
    apart = bench.scores(heads, one, how)
    np.testing.assert_allclose(together.error, apart.error, rtol=1e-5)
    np.testing.assert_allclose(together.accuracy, apart.accuracy, atol=1.0 / labels.size)
