"""The authors' numbers stand beside ours only where they mean the same."""

from __future__ import annotations

import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.studies import published

RESNET, CIFAR = "resnet50/imagenet1k/standard", "torchvision:CIFAR10?root=there"


def test_sizes_are_what_was_kept_not_what_was_asked_for() -> None:
    curve = published.curve(RESNET, CIFAR)
    assert curve is not None
    # int(0.0005 * 2048) = 1, int(0.003 * 2048) = 6, int(0.1 * 2048) = 204.
    assert curve.kept[:4] == (1, 2, 4, 6)
    assert 204 in curve.kept
    vit = published.curve("vit_small_patch16_224/imagenet21k/standard", CIFAR)
    assert vit is not None
    assert vit.kept[0] == 1  # int(0.005 * 384), where rounding would give 2
    assert min(vit.kept) > 0


def test_the_table_is_the_nearest_estimator_and_misses_the_bar() -> None:
    curve = published.curve(RESNET, CIFAR)
    assert curve is not None
    assert curve.dr(0.9, "strict") == pytest.approx(0.80, abs=0.001)
    assert curve.dr(0.9, "nearest") == pytest.approx(0.90, abs=0.001)
    assert published.table_dr(RESNET, CIFAR) == 0.9


def test_the_table_speaks_of_imagenet1k_and_the_standard_loss_alone() -> None:
    assert published.table_dr("resnet18/imagenet1k/standard", CIFAR) == 0.8
    assert published.table_dr("vit_small_patch16_224/imagenet21k/standard", CIFAR) is None
    assert published.table_dr("resnet50/imagenet1k/adversarial-l2-eps3", CIFAR) is None
    assert published.table_dr(RESNET, "sklearn:digits") is None
    assert published.table_dr(None, CIFAR) is None


def test_points_are_marked_by_where_they_come_from() -> None:
    points = list(published.points(RESNET, CIFAR, ("resnet50", "CIFAR10"), ("sgd",)))
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
    assert list(published.points(None, CIFAR, ("a", "b"), ("sgd",))) == []


def test_published_and_measured_stand_side_by_side() -> None:
    measured = pd.DataFrame(
        {"measure": "sgd", "n_kept": [204, 205], "mean": [0.75, 0.1], "low": 0.7, "high": 0.8}
    )
    table = published.beside(RESNET, CIFAR, measured)
    row = table[table["n_kept"] == 204].iloc[0]
    assert row["difference"] == pytest.approx(0.75 - 0.7789)
    assert table["measured"].notna().sum() == 1
    bare = published.beside(RESNET, CIFAR, measured.iloc[:0])
    assert len(bare) == 14
    assert bare["difference"].isna().all()
    assert published.beside(None, CIFAR, measured).empty


def test_unknown_published_models_get_a_did_you_mean() -> None:
    with pytest.raises(CriticalMassError, match="did you mean"):
        published.check_published("resnet50/imagenet1k/standart")
