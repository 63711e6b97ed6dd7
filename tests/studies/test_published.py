"""The authors' numbers are compared with ours only where both mean the same."""

from __future__ import annotations

import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.studies import published

RESNET, CIFAR = "resnet50/imagenet1k/standard", "torchvision:CIFAR10?root=data"


def test_sizes_are_the_kept_neurons_not_the_requested_fractions() -> None:
    curve = published.published_curve(RESNET, CIFAR)
    assert curve is not None
    # int(0.0005 * 2048) = 1, int(0.003 * 2048) = 6, int(0.1 * 2048) = 204.
    assert curve.n_kept[:4] == (1, 2, 4, 6)
    assert 204 in curve.n_kept
    vit = published.published_curve("vit_small_patch16_224/imagenet21k/standard", CIFAR)
    assert vit is not None
    assert vit.n_kept[0] == 1  # int(0.005 * 384), where rounding would give 2
    assert min(vit.n_kept) > 0


def test_the_table_is_the_nearest_estimator_and_misses_the_bar() -> None:
    curve = published.published_curve(RESNET, CIFAR)
    assert curve is not None
    assert curve.dr(0.9, "strict") == pytest.approx(0.80, abs=0.001)
    assert curve.dr(0.9, "nearest") == pytest.approx(0.90, abs=0.001)
    assert published.published_dr(RESNET, CIFAR) == 0.9


def test_the_table_covers_only_imagenet1k_and_the_standard_loss() -> None:
    assert published.published_dr("resnet18/imagenet1k/standard", CIFAR) == 0.8
    assert published.published_dr("vit_small_patch16_224/imagenet21k/standard", CIFAR) is None
    assert published.published_dr("resnet50/imagenet1k/adversarial-l2-eps3", CIFAR) is None
    assert published.published_dr(RESNET, "sklearn:digits") is None
    assert published.published_dr(None, CIFAR) is None


def test_points_name_their_source() -> None:
    points = list(published.published_points(RESNET, CIFAR, ("resnet50", "CIFAR10"), ("sgd",)))
    values = [point for point in points if point.figure == "value"]
    table = [point for point in points if point.figure == "dr"]
    assert len(values) == 15
    assert values[0].x == 1 / 2048
    assert values[-1].x == 1.0
    assert "1 seed" in values[-1].source
    assert values[-1].low is None
    assert [(point.x, point.y) for point in table] == [(0.9, 0.9)]
    assert "nearest" in table[0].source
    assert {point.model for point in points} == {"resnet50"}
    assert list(published.published_points(None, CIFAR, ("a", "b"), ("sgd",))) == []


def test_published_and_measured_values_are_in_one_table() -> None:
    measured = pd.DataFrame(
        {"measure": "sgd", "n_kept": [204, 205], "mean": [0.75, 0.1], "low": 0.7, "high": 0.8}
    )
    table = published.compare_with_published(RESNET, CIFAR, measured)
    row = table[table["n_kept"] == 204].iloc[0]
    assert row["difference"] == pytest.approx(0.75 - 0.7789)
    assert table["measured"].notna().sum() == 1
    bare = published.compare_with_published(RESNET, CIFAR, measured.iloc[:0])
    assert len(bare) == 14
    assert bare["difference"].isna().all()
    assert published.compare_with_published(None, CIFAR, measured).empty


def test_unknown_published_models_get_a_did_you_mean() -> None:
    with pytest.raises(CriticalMassError, match="did you mean"):
        published.check_published("resnet50/imagenet1k/standart")
