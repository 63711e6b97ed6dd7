"""The warning of `shrink`: planted blind spots are found, and the model card has the numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.probing.networks import LEFT, WIDTH, linear_model, noise_images
from tests.training.tiny import DIGITS, tiny_recipe

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.probing.blind_spots import BlindSpotSearch
from criticalmass.probing.network import ImageNetwork
from criticalmass.probing.request import make_request
from criticalmass.probing.scene import make_scene


def find(slim: Any, *, copies: bool = False) -> dict[str, Any]:
    request = make_request(
        layer="penultimate", keep=(), sizes=(1,), selectors=("first",), seeds=1,
        objectives=("match",), starts=("image",), images=4, steps=1, step=None, restarts=1,
        norm="l2", radius=None, epsilon=0.05, reference=20, seed=0,
    )  # fmt: skip
    scene = make_scene(ImageNetwork(linear_model(copies=copies)), noise_images(), request)
    return BlindSpotSearch(scene).find(slim)


def test_a_planted_blind_spot_is_reported_and_copies_have_none() -> None:
    slim = SimpleNamespace(indices=np.arange(LEFT), matrix=None, head=None)
    planted, copies = find(slim), find(slim, copies=True)
    assert planted["kept_largest"] <= 0.05
    assert planted["dropped_median"] > 0.2
    assert copies["dropped_largest"] <= 0.05 + 1e-4
    assert "slim head" not in planted["sentence"]


def test_a_projection_sees_what_its_directions_see() -> None:
    """Directions that span the kept neurons overlook as much as these neurons."""
    mixed = np.zeros((WIDTH, LEFT), np.float32)
    mixed[:LEFT] = np.random.default_rng(0).normal(size=(LEFT, LEFT))
    slim = SimpleNamespace(indices=np.arange(WIDTH), matrix=mixed, head=None)
    neurons = SimpleNamespace(indices=np.arange(LEFT), matrix=None, head=None)
    assert find(slim)["dropped_median"] == pytest.approx(find(neurons)["dropped_median"], rel=0.05)


def test_shrink_writes_a_warning_into_the_model_card(tmp_path: Path) -> None:
    net = cm.train(tiny_recipe(), out=tmp_path / "net", device="cpu")
    store = cm.extract(net.spec, DIGITS, out=tmp_path / "features", engine="torch", device="cpu")
    options: dict[str, Any] = {"keep": 0.5, "selectors": ("first",)}
    with pytest.warns(UserWarning, match="Blind spots: changes of at most"):
        plan = cm.shrink(store, out=tmp_path / "slim", blind_spots=True, **options)
    numbers = plan.slim.record["blind_spots"]
    assert numbers["kept_largest"] <= numbers["epsilon"] + 1e-6
    assert numbers["network_changes"] is not None
    assert numbers["slim_changes"] is not None
    card = (tmp_path / "slim" / "README.md").read_text()
    assert "## Warning: blind spots" in card
    assert f"{numbers['dropped_largest']:.3f}" in card
    plain = cm.shrink(store, out=tmp_path / "plain", **options)
    assert "blind_spots" not in plain.slim.record
    assert "blind spots" not in (tmp_path / "plain" / "README.md").read_text()


def test_imported_vectors_have_no_network(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    vectors = (rng.normal(size=(60, 6)) + labels[:, None]).astype(np.float32)
    store = cm.import_features(vectors, labels=labels, out=tmp_path / "features")
    with pytest.raises(CriticalMassError, match="these features were imported"):
        cm.shrink(store, measure="ridge", blind_spots=True)
