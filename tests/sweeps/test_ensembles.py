"""Votes of probes on disjoint subsets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.core.compute import DEFAULT_COMPUTE
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.table_views import INTERVAL_SUFFIXES, fairness_view
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps import ensembles as ensembles_module
from criticalmass.sweeps.ensembles import ENSEMBLE_COLUMNS, hard_vote, soft_vote
from criticalmass.sweeps.layer_data import SweepData


def test_most_votes_win_and_ties_go_to_the_earliest_member() -> None:
    votes = np.array([[0, 2, 1, 3], [1, 1, 1, 0], [1, 0, 2, 2], [0, 0, 2, 1]])
    assert hard_vote(votes).tolist() == [0, 0, 1, 3]


@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 5))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_a_vote_has_the_largest_count(seed: int, members: int, classes: int) -> None:
    votes = np.random.default_rng(seed).integers(0, classes, (members, 30))
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=0)
    won = hard_vote(votes)
    assert (counts[np.arange(30), won] == counts.max(axis=1)).all()
    for column, winner in zip(votes.T, won, strict=True):
        tied = [c for c in column if np.sum(column == c) == np.sum(column == winner)]
        assert winner == tied[0]


def test_the_mean_probability_decides_not_the_count() -> None:
    shares = np.array([[[0.55, 0.45]], [[0.55, 0.45]], [[0.1, 0.9]]])
    assert hard_vote(shares.argmax(axis=2)).tolist() == [0]
    assert soft_vote(shares).tolist() == [1]


def test_members_share_no_neuron_and_are_fitted_as_in_a_sweep(
    store: FeatureStore, tmp_path: object
) -> None:
    table = cm.ensembles(store, fractions=(0.25,), members=3, seeds=3)
    assert list(table.columns) == list(ENSEMBLE_COLUMNS)
    kinds = ["member", "hard vote", "soft vote", "one probe", "whole layer"]
    assert table["kind"].tolist() == kinds
    assert table["n_used"].tolist() == [3, 9, 9, 9, 12]
    swept = cm.sweep(
        store, out=f"{tmp_path}/run", fractions=(0.25, 0.75, 1.0), seeds=3, measures=("logistic",)
    ).frame()
    mean = swept.groupby(["selector", "n_kept"])["value"].mean()
    by_kind = table.set_index("kind")["value"]
    assert by_kind["one probe"] == pytest.approx(mean["random", 9])
    assert by_kind["whole layer"] == pytest.approx(mean["full", 12])
    assert (table["value_low"] <= table["value"]).all()
    assert table["against_whole"].to_numpy() == pytest.approx(
        (by_kind - by_kind["whole layer"]).to_numpy()
    )
    whole = table[table["kind"] == "whole layer"].iloc[0]
    assert (whole["against_whole_low"], whole["against_whole_high"]) == (0.0, 0.0)


def test_slices_of_a_permutation(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = ensembles_module.get_probe("centroid")

    def spy(task):
        calls.append((task.orders[:, : task.sizes[0]], task.sizes[0]))
        return real(task)

    monkeypatch.setattr(ensembles_module, "get_probe", lambda name: spy)
    cm.ensembles(store, fractions=(0.25,), members=4, seeds=2, probe="centroid")
    whole, *members = calls
    assert whole[1] == 12
    assert len(members) == 2, (
        "four members of a quarter are the whole layer, which is fitted already"
    )
    for (slices, size), seed in zip(members, range(2), strict=True):
        assert size == 3
        order = np.random.default_rng(seed).permutation(12)
        assert slices.ravel().tolist() == order.tolist()


def test_a_split_into_all_neurons_is_the_layer_itself(store: FeatureStore) -> None:
    table = cm.ensembles(store, fractions=(0.5,), members=2, seeds=2, probe="centroid")
    by_kind = table.set_index("kind")
    assert "soft vote" not in by_kind.index
    assert by_kind.loc["one probe", "value"] == by_kind.loc["whole layer", "value"]
    # Two members can only tie, so the votes of the first one count.
    assert by_kind.loc["member", "kappa"] < 1


def test_soft_votes_are_means_of_softmax(store: FeatureStore) -> None:
    """The soft vote of a single head is the prediction of that head."""
    data = SweepData.from_store(store, DEFAULT_COMPUTE)
    layer = data.layer("penultimate")
    order = np.random.default_rng(0).permutation(12)[None]
    scores = ensembles_module._fit(data, layer, order, 5, "logistic")
    shares = ensembles_module._member_probabilities(data, layer, order[:, :5], scores.heads)
    assert shares.sum(axis=2) == pytest.approx(1.0)
    assert soft_vote(shares).tolist() == scores.predictions[0, 0].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 1}, "members=1"),
        ({"members": 13}, "2 to 12"),
        ({"fractions": (0.5,), "members": 3}, "0.333"),
        ({"seeds": 0}, "seeds=0"),
        ({"probe": "logistik"}, "did you mean 'logistic'"),
        ({"layer": "penultimat"}, "penultimate"),
        ({"level": 0.0}, "level=0"),
    ],
)
def test_invalid_arguments_raise(
    store: FeatureStore, options: dict[str, object], message: str
) -> None:
    arguments = {"fractions": (0.25,)} | options
    with pytest.raises(CriticalMassError, match=message):
        cm.ensembles(store, **arguments)


def test_a_small_negative_number_is_shown_without_sign() -> None:
    table = pd.DataFrame(
        {name: ["x"] for name in ("model", "layer", "dataset", "selector", "measure")}
        | {"level": [0.95], "n_kept": [3], "worst_class": ["a"], "worst_accuracy": [0.5]}
        | {
            f"{n}{end}": [-1e-5]
            for n in ("accuracy", "gini_corrected", "gini_excess")
            for end in INTERVAL_SUFFIXES
        }
    )
    assert fairness_view(table)["Gini"].tolist() == ["0.000 [0.000, 0.000]"]


def test_commands_print_tables_that_fit(
    make_predicted_run: Callable[..., object],
    store: FeatureStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from criticalmass.cli.main import main

    labels = np.arange(300) % 3
    rng = np.random.default_rng(0)
    subsets = {
        (size, seed): np.where(rng.random(300) < share, labels, (labels + 1) % 3)
        for size, share in ((3, 0.6), (6, 0.75))
        for seed in range(2)
    }
    run = make_predicted_run(
        labels, subsets, whole=np.where(rng.random(300) < 0.8, labels, 0), n_neurons=12
    )
    commands = {
        "fairness": [str(run.path)],
        "class-losses": [str(run.path), "--delta", "0.7"],
        "agreement": [str(run.path)],
        "ensembles": [str(store.path), "--fraction", "0.25", "--seeds", "2", "--members", "2"],
    }
    for name, arguments in commands.items():
        with pytest.raises(SystemExit) as leaving:
            main([name, *arguments, "--resamples", "50", "--quiet"])
        shown = capsys.readouterr()
        assert (leaving.value.code, shown.err) == (0, "")
        lines = shown.out.splitlines()
        assert len(lines) > 3
        assert max(len(line) for line in lines) <= 100
        assert "-0.000" not in shown.out
