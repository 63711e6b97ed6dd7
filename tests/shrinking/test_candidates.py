"""The search for the smallest subset looks first where the laws expect it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.extraction.importing import import_features
from criticalmass.shrinking.candidates import expected_size, first_sizes, geometric, sizes_around
from criticalmass.shrinking.data_parts import Parts, parts_of


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 3
    mix = rng.standard_normal((8, 40))
    latent = 1.5 * rng.standard_normal((3, 8))[labels] + rng.standard_normal((900, 8))
    x = (latent @ mix + rng.standard_normal((900, 40))).astype(np.float32)
    return parts_of(import_features(x, labels=labels, out=tmp_path / "store"), None)


@given(expected=st.integers(1, 5000), smallest=st.integers(1, 50), most=st.integers(1, 4096))
def test_first_sizes_cover_the_range_and_are_dense_at_the_expected_one(
    expected: int, smallest: int, most: int
) -> None:
    found = sizes_around(expected, smallest, most)
    assert len(found) <= 9
    assert list(found) == sorted(set(found))
    assert found[-1] == most
    assert found[0] == min(smallest, most)
    if 2 * smallest < expected < most:
        below = max(size for size in found if size <= expected)
        above = min(size for size in found if size >= expected)
        # Whole numbers add up to one neuron to each end of a step of the square root of two.
        assert above - below <= max(above, below) * (1 - 0.5**0.5) + 1


def test_without_a_law_the_whole_range_is_looked_at_alike() -> None:
    assert first_sizes(1280, 1280, None) == geometric(10, 1280, 10)
    assert first_sizes(1280, 4, 100) == (4,)


def test_what_is_expected_is_what_the_law_says(parts: Parts) -> None:
    x = np.asarray(parts.selected.rows[0 : parts.selected.rows.shape[0]], dtype=np.float64)
    x -= x.mean(axis=0)
    assert expected_size("cka", parts, 0.9) == cm.cka_critical_mass(x.T @ x, 0.9)
    few, many = (expected_size("ridge", parts, keep) for keep in (0.7, 0.99))
    assert few is not None
    assert many is not None
    assert 1 <= few < many <= 40
    assert expected_size("logistic", parts, 0.7) == few
    assert expected_size("retrieval", parts, 0.9) is None


def test_data_that_defeat_the_law_are_searched_all_the_same(tmp_path: Path) -> None:
    x = np.ones((200, 6), np.float32)
    constant = parts_of(import_features(x, out=tmp_path / "store"), None)
    assert expected_size("cka", constant, 0.9) is None
