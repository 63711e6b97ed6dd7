"""The benchmark of neighbour measures: shares, differences and critical masses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks.neighbours_law import (
    LAWS,
    NEIGHBOURS,
    StoreCurves,
    compare_store,
    critical_size,
    curve_rows,
    main,
    overall_rows,
    predict,
    sample_store,
    summary_rows,
)

from criticalmass.storage.features import FeatureStore

MEASURES = (*NEIGHBOURS, *LAWS.values())
Maker = Callable[..., FeatureStore]


def hand_made() -> StoreCurves:
    """Simple shares: the CKA law is .05 above the measured ones, the ridge law equals them."""
    sizes = np.array([10, 20, 40, 80])
    share = np.array([0.2, 0.6, 0.8, 1.0])
    return StoreCurves(
        "hand",
        (9, 9, 80),
        sizes,
        dict.fromkeys(MEASURES, share),
        {measure: np.zeros(4) for measure in MEASURES},
        {"CKA": np.array([0.9, 0.65, 0.7, 1.0]), "ridge": share},
        20,
    )


def test_differences_leave_out_small_sizes_and_the_whole_layer() -> None:
    # 10 neurons, where the CKA law is .7 off, and the whole layer must not count.
    np.testing.assert_allclose(hand_made().difference("CKA", "knn"), [0.05, -0.1])
    np.testing.assert_array_equal(hand_made().difference("ridge", "knn"), [0.0, 0.0])


@pytest.mark.parametrize(
    ("delta", "expected"),
    [(0.8, 40.0), (0.7, np.sqrt(20 * 40)), (0.9, np.sqrt(40 * 80)), (0.1, 10.0), (1.1, np.nan)],
)
def test_critical_mass_is_straight_in_log_k(delta: float, expected: float) -> None:
    one = hand_made()
    np.testing.assert_allclose(critical_size(one.sizes, one.measured["knn"], delta), expected)


def test_tables_of_hand_made_curves() -> None:
    one = hand_made()
    row = next(line for line in summary_rows([one]) if "| knn |" in line)
    # The CKA law is at .9 with 10 neurons already; the mean size of +.05 and -.1 is .075.
    assert row == (
        "| hand | knn | 0.075, -0.100 to +0.050 | 0.000, +0.000 to +0.000 "
        "| 40 / 10 / 40 | 57 / 10 / 57 |"
    )
    overall = overall_rows([one, one])
    assert "| retrieval | CKA | 0.075, -0.100 to +0.050 | 0.18 to 0.25 |" in overall
    assert "| retrieval | ridge | 0.000, +0.000 to +0.000 | 1.00 to 1.00 |" in overall
    assert len(overall) == 2 + len(MEASURES) * len(LAWS) + 1
    assert len(curve_rows(one)) == 4 + len(one.sizes) + 1


def test_study_of_a_small_store(make_store: Maker) -> None:
    curves = compare_store(make_store("features").path, (80, 40), 2, 2)
    assert curves.shape == (80, 40, 12)
    assert set(curves.measured) == set(MEASURES)
    # The share of the whole layer is 1, for measures and for laws.
    for share in (*curves.measured.values(), *curves.predicted.values()):
        assert share.shape == curves.sizes.shape
        np.testing.assert_allclose(share[-1], 1.0, atol=1e-9)
    assert all(error[-1] == 0 for error in curves.error.values())
    assert curves.measured["retrieval-recall"][0] < curves.measured["retrieval-recall"][-2]


def test_prediction_of_cka_is_about_the_measure_cka(make_store: Maker) -> None:
    """On the same raw rows, law and measure agree with many seeds."""
    store = make_store("features")
    curves = compare_store(store.path, (90, 45), 40, 2)
    noise = np.maximum(curves.error["cka"], 1e-9)
    middle = (curves.sizes > 1) & (curves.sizes < 12)
    assert (np.abs(curves.predicted["CKA"] - curves.measured["cka"])[middle] < 0.05).all()
    assert (noise[middle] < 0.05).all()


def test_sample_store_keeps_rows_with_their_labels(make_store: Maker, tmp_path: Path) -> None:
    store = make_store("features")
    part = sample_store(store.path, (30, 20), tmp_path / "sample")
    for split, n in (("train", 30), ("test", 20)):
        x, y = part.features(split).array(), part.labels(split)
        assert x.shape == (n, 12)
        known = {row.tobytes(): label for row, label in zip(
            store.features(split).array(), store.labels(split), strict=True)}  # fmt: skip
        assert [known[row.tobytes()] for row in x] == y.tolist()


def test_predict_has_both_laws(make_store: Maker) -> None:
    store = make_store("features")
    data = [(np.asarray(store.features(s).array()), store.labels(s)) for s in ("train", "test")]
    shares = predict(data[0], data[1], np.array([3, 12]))
    assert set(shares) == set(LAWS)
    assert all(0 < share[0] < 1.2 for share in shares.values())


def test_it_prints_markdown(make_store: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(make_store("features").path), "--seeds", "2", "--fewest", "2"])
    text = capsys.readouterr().out
    assert "features: 90 training rows, 45 test rows" in text
    assert len(re.findall(r"^\| features \|", text, re.M)) >= len(MEASURES)
