"""The search for the smallest subset starts at the size that the laws predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.extraction.importing import import_features
from criticalmass.shrinking.candidates import (
    geometric_sizes,
    initial_sizes,
    predict_size,
    sizes_around,
)
from criticalmass.shrinking.data_parts import DataParts, split_data


@pytest.fixture
def parts(tmp_path: Path) -> DataParts:
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 3
    mix = rng.standard_normal((8, 40))
    latent = 1.5 * rng.standard_normal((3, 8))[labels] + rng.standard_normal((900, 8))
    x = (latent @ mix + rng.standard_normal((900, 40))).astype(np.float32)
    return split_data(import_features(x, labels=labels, out=tmp_path / "store"), None)


@given(expected=st.integers(1, 5000), smallest=st.integers(1, 50), most=st.integers(1, 4096))
def test_first_sizes_cover_the_range_and_are_dense_at_the_expected_one(
    expected: int, smallest: int, most: int
) -> None:
    sizes = sizes_around(expected, smallest, most)
    assert len(sizes) <= 9
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == most
    assert sizes[0] == min(smallest, most)
    if 2 * smallest < expected < most:
        below = max(size for size in sizes if size <= expected)
        above = min(size for size in sizes if size >= expected)
        # Whole numbers add up to one neuron to each end of a step of the square root of two.
        assert above - below <= max(above, below) * (1 - 0.5**0.5) + 1


def test_without_a_law_the_whole_range_is_searched_evenly() -> None:
    assert initial_sizes(1280, 1280, None) == geometric_sizes(10, 1280, 10)
    assert initial_sizes(1280, 4, 100) == (4,)


def test_the_predicted_size_is_that_of_the_law(parts: DataParts) -> None:
    x = np.asarray(parts.selection.rows[0 : parts.selection.rows.shape[0]], dtype=np.float64)
    x -= x.mean(axis=0)
    assert predict_size("cka", parts, 0.9) == cm.cka_critical_mass(x.T @ x, 0.9)
    few, many = (predict_size("ridge", parts, keep) for keep in (0.7, 0.99))
    assert few is not None
    assert many is not None
    assert 1 <= few < many <= 40
    assert predict_size("logistic", parts, 0.7) == few
    assert predict_size("retrieval", parts, 0.9) is None


@pytest.mark.filterwarnings("ignore:.*are also training vectors")
def test_data_on_which_the_law_fails_have_no_prediction(tmp_path: Path) -> None:
    x = np.ones((200, 6), np.float32)
    constant = split_data(import_features(x, out=tmp_path / "store"), None)
    assert predict_size("cka", constant, 0.9) is None
