"""Codecs: encoded and decoded values, and their number of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.codec import (
    BITS,
    Codec,
    StoredRows,
    bytes_per_vector,
    neurons_in_budget,
    round_trip,
)

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 30), st.integers(1, 20)),
    elements=st.floats(-100, 100, width=32),
)


@given(MATRICES)
def test_int8_is_within_half_a_step_on_what_it_learned_from(x: np.ndarray) -> None:
    codec = Codec.learn("int8", x)
    codes = codec.encode(x)
    assert codes.dtype == np.uint8
    assert np.all(np.abs(codec.decode(codes) - x) <= 0.5 * codec.step + 1e-4)


@given(MATRICES)
def test_a_bit_says_whether_a_value_is_above_the_mean(x: np.ndarray) -> None:
    codec = Codec.learn("binary", x)
    codes = codec.encode(x)
    assert codes.shape == (len(x), bytes_per_vector(x.shape[1], "binary"))
    above = x > x.mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(codec.decode(codes), np.where(above, 1.0, -1.0))


@given(MATRICES, st.sampled_from(sorted(BITS)))
def test_codes_take_the_stated_number_of_bytes(x: np.ndarray, precision: str) -> None:
    codes = Codec.learn(precision, x).encode(x)
    assert codes[0].nbytes == bytes_per_vector(x.shape[1], precision)


@given(st.integers(0, 10_000), st.sampled_from(sorted(BITS)))
def test_a_budget_is_used_up_and_never_exceeded(budget: int, precision: str) -> None:
    k = neurons_in_budget(budget, precision)
    assert bytes_per_vector(k, precision) <= budget < bytes_per_vector(k + 1, precision)


def test_float16_keeps_11_bits_and_float32_all() -> None:
    x = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    rows = round_trip(x, Codec.learn("float16", x))
    assert rows[:].dtype == np.float32
    np.testing.assert_allclose(rows[:], x, rtol=2**-11, atol=1e-7)
    assert not np.array_equal(rows[:], x)
    assert round_trip(x, Codec.learn("float32", x)) is x


def test_values_beyond_the_range_are_clipped() -> None:
    codec = Codec.learn("int8", np.array([[0.0], [1.0]], dtype=np.float32))
    np.testing.assert_allclose(codec.decode(codec.encode(np.array([[-5.0], [9.0]]))), [[0], [1]])


def test_a_codec_of_some_neurons_is_the_codec_of_their_columns() -> None:
    x = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    index = np.array([4, 0, 2])
    for precision in BITS:
        part = Codec.learn(precision, x).subset(index)
        again = Codec.learn(precision, np.ascontiguousarray(x[:, index]))
        np.testing.assert_array_equal(part.encode(x[:, index]), again.encode(x[:, index]))


def test_stored_rows_read_like_an_array() -> None:
    x = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
    rows = StoredRows(x, Codec.learn("binary", x))
    assert rows.shape == (9, 4)
    assert len(rows) == 9
    np.testing.assert_array_equal(rows[2:5], rows[:][2:5])
    np.testing.assert_array_equal(rows[np.array([7, 1])], rows[:][[7, 1]])


def test_errors() -> None:
    with pytest.raises(CriticalMassError, match="did you mean 'binary'"):
        bytes_per_vector(8, "binery")
    with pytest.raises(CriticalMassError, match="no rows"):
        Codec.learn("int8", np.empty((0, 3), dtype=np.float32))
