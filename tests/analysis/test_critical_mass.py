"""Absolute accuracies, compression and diffuseness in the table of redundancy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.analysis.curves import CachedRun
from criticalmass.analysis.estimators import ESTIMATORS
from criticalmass.analysis.redundancy import redundancy
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.tables import as_text, redundancy_view
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.run import Run

N_NEURONS = 64
SIZES = (2, 4, 8, 16, 32, 64)
N_TEST = 500
FULL = 0.9
RATIOS = ["compression", "best_projection", "diffuseness", "diffuseness_low", "diffuseness_high"]


def rising(mass):
    """A curve that is straight in log k and reaches 90 % of the whole layer's value at ``mass``."""
    return lambda size: min(0.9 * FULL + 0.1 * np.log2(size / mass), FULL)


def a_run(
    folder, curves, *, measures=("ridge",), seeds=3, sizes=SIZES, full=FULL, labels=None,
    model="m", layer="penultimate",
):  # fmt: skip
    """A run whose selectors score ``curves[selector](size)``, each at the same test samples.

    Two subsets of equal accuracy are right on the same samples.
    """
    run = Run.create(folder, {})
    order = np.random.default_rng(0).permutation(N_TEST)
    labels = np.zeros(N_TEST, dtype=int) if labels is None else labels

    def predictions(share):
        predicted = (labels + 1) % 2
        predicted[order[: round(share * N_TEST)]] = labels[order[: round(share * N_TEST)]]
        return predicted

    def row(selector, size, seed, measure):
        return {
            "model": model, "layer": layer, "dataset": "d", "split": "test",
            "selector": selector, "measure": measure, "n_neurons": N_NEURONS, "seed": seed,
            "fraction": size / N_NEURONS, "n_kept": size, "n_train": 100, "n_test": N_TEST,
            "l2": None, "gap": None, "passes": None, "seconds": 0.1, "status": "ok", "error": None,
            "value_full": None, "cell": f"{selector}-{seed}-{size}-{measure}",
        }  # fmt: skip

    rows, answers = [], []
    for measure in measures:
        cells = [("full", N_NEURONS, 0, full)]
        for selector, curve in curves.items():
            cells += [(selector, k, s, curve(k)) for k in sizes for s in range(seeds)]
        for selector, size, seed, share in cells:
            answers.append(predictions(share))
            value = float(np.mean(answers[-1] == labels))
            artifact = len(answers) - 1
            rows.append(row(selector, size, seed, measure) | {"value": value, "artifact": artifact})
    with run.writer() as writer:
        writer.put_labels(labels, ("one", "other"))
        writer.append(rows, Artifact("predictions", np.array(answers)))
    return run


# --- an accuracy as the value to reach ---


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_accuracy_equal_to_a_share_has_the_same_critical_mass(tmp_path, estimator):
    run = a_run(tmp_path / "r", {"random": rising(20)}, seeds=3)
    share, accuracy = redundancy(run, 0.9, estimator, accuracy=0.9 * FULL).to_dict("records")
    assert share["bar"] == accuracy["bar"] == pytest.approx(0.81)
    assert share["delta"] == 0.9
    assert pd.isna(accuracy["delta"])
    same = ["critical_mass", "dr", "largest_failing", "smallest_passing", "pass_mass", "reached"]
    assert [share[name] for name in same] == [accuracy[name] for name in same]


def test_a_better_layer_needs_fewer_neurons_for_one_accuracy_and_more_for_one_share(tmp_path):
    good = a_run(tmp_path / "good", {"random": lambda k: 0.5 + 0.4 * np.log2(k) / 6})
    bad = a_run(tmp_path / "bad", {"random": lambda k: 0.5 + 0.1 * np.log2(k) / 6}, full=0.6)
    table = redundancy([good, bad], 0.9, accuracy=0.58).reset_index()
    by = table.pivot(columns="index", values="critical_mass").bfill().iloc[0]
    share, accuracy = by[[0, 2]], by[[1, 3]]
    assert share[0] > share[2]
    assert accuracy[1] < accuracy[3]


def test_the_interval_of_an_accuracy_does_not_pair_with_the_whole_layer(tmp_path):
    # The subsets and the whole layer are right on the same samples. Their ratio hardly varies with
    # the samples, but the accuracy does.
    run = a_run(tmp_path / "r", {"random": rising(20)})
    share, accuracy = redundancy(run, 0.9, accuracy=0.9 * FULL).to_dict("records")

    def width(row):
        return row["critical_mass_high"] - row["critical_mass_low"]

    assert width(accuracy) > 1.5 * width(share)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_accuracy_above_the_whole_layers_is_not_reached(tmp_path, estimator):
    run = a_run(tmp_path / "r", {"random": rising(20), "pca-top": rising(5)}, seeds=3)
    table = redundancy(run, 0.9, estimator, accuracy=0.95)
    rows = table[table["delta"].isna()]
    assert rows["bar"].tolist() == [0.95, 0.95]
    missing = ["critical_mass", "critical_mass_low", "dr", "pass_mass", "smallest_passing"]
    assert rows[[*missing, *RATIOS]].isna().all(axis=None)
    assert not rows["reached"].any()
    assert not rows["at_floor"].any()
    assert rows["largest_failing"].tolist() == [N_NEURONS, N_NEURONS]
    text = as_text(redundancy_view(table))
    assert text.count("not reached") == 2
    assert "value to reach" in text


def test_the_whole_layer_alone_may_reach_an_accuracy(tmp_path):
    run = a_run(tmp_path / "r", {"random": lambda size: 0.3}, sizes=SIZES[:-1])
    row = redundancy(run, accuracy=0.5).iloc[1]
    assert (row["critical_mass"], row["largest_failing"], row["smallest_passing"]) == (64, 32, 64)
    assert (row["critical_mass_low"], row["critical_mass_high"]) == (33, 64)
    assert not row["reached"]


def test_a_whole_basis_that_misses_the_bar_leaves_the_sizes_above_the_largest_subset(tmp_path):
    # All axes, fitted anew, may do worse than the whole layer. None of the sizes below is left.
    run = a_run(tmp_path / "r", {"pca-top": lambda size: 0.3})
    row = redundancy(run, 0.9).iloc[0]
    assert row["largest_failing"] == 32
    assert (row["critical_mass_low"], row["critical_mass_high"]) == (33, 64)


def test_similarities_have_no_accuracy(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20)}, measures=("ridge", "cka"))
    with pytest.warns(UserWarning, match=r"accuracy=0\.65, 0\.7 is for probes: .* cka") as warned:
        table = redundancy(run, accuracy=(0.65, 0.7))
    assert "\n" not in str(warned[0].message)
    assert table["measure"].tolist() == ["cka", "ridge", "ridge", "ridge"]
    alone = a_run(tmp_path / "alone", {"random": rising(20)}, measures=("cka",))
    with pytest.raises(CriticalMassError, match=r"accuracy=0\.65 .* only cka") as caught:
        redundancy(alone, accuracy=0.65)
    assert "\n" not in str(caught.value)
    assert len(redundancy(alone)) == 1


@pytest.mark.parametrize(
    ("accuracy", "says"), [(65, "accuracy=65"), (0.0, "accuracy=0.0"), ("high", "accuracy='high'")]
)
def test_other_accuracies_are_refused(tmp_path, accuracy, says):
    run = a_run(tmp_path / "r", {"random": rising(20)})
    with pytest.raises(CriticalMassError, match=says):
        redundancy(run, accuracy=accuracy)


# --- shares above chance ---

UNEQUAL = (np.arange(N_TEST) % 5 == 0).astype(int)  # four fifths are of one class


def test_a_share_above_chance_by_hand(tmp_path):
    # From .8 to .9 in five doublings: .85 between 2^3 and 2^4, .87 between 2^4 and 2^5.
    run = a_run(tmp_path / "r", {"random": lambda k: 0.78 + 0.02 * np.log2(k)}, labels=UNEQUAL)
    table = redundancy(run, (0.5, 0.7), "interpolated", chance_corrected=True)
    assert table["majority_accuracy"].tolist() == [0.8, 0.8]
    np.testing.assert_allclose(table["bar"], [0.85, 0.87])
    assert table["bar_kind"].tolist() == ["above chance", "above chance"]
    assert table["critical_mass"].tolist() == [12, 24]
    assert redundancy(run, 0.85).iloc[0]["at_floor"]
    assert "the whole layer, above chance" in as_text(redundancy_view(table))


def test_a_share_above_chance_is_at_least_the_plain_share(tmp_path):
    for share in (0.5, 0.8):
        labels = (np.arange(N_TEST) >= share * N_TEST).astype(int)
        run = a_run(tmp_path / str(share), {"random": rising(20)}, labels=labels, seeds=3)
        plain, corrected = (redundancy(run, 0.9, chance_corrected=c).iloc[0] for c in (False, True))
        assert corrected["critical_mass"] >= plain["critical_mass"]
        assert corrected["bar"] == pytest.approx(plain["bar"] + 0.1 * share)


def test_a_layer_no_better_than_chance_has_no_share_above_it(tmp_path):
    run = a_run(tmp_path / "r", {"random": lambda k: 0.7}, full=0.7, labels=UNEQUAL)
    with pytest.warns(UserWarning, match="always answering the largest class"):
        row = redundancy(run, 0.9, chance_corrected=True, accuracy=0.5).iloc[0]
    assert row[["critical_mass", "dr", "bar", "reached", *RATIOS]].isna().all()


def test_similarities_have_no_chance_level(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20)}, measures=("ridge", "cka"))
    with pytest.warns(UserWarning, match=r"chance_corrected=True is for probes: .* cka"):
        table = redundancy(run, chance_corrected=True)
    assert table["measure"].tolist() == ["ridge"]
    alone = a_run(tmp_path / "alone", {"random": rising(20)}, measures=("cka",))
    with pytest.raises(CriticalMassError, match=r"chance_corrected=True .* no chance level"):
        redundancy(alone, chance_corrected=True)


# --- the whole layer of a control ---


def test_the_control_gives_a_common_value_to_reach(tmp_path):
    def curve(top):
        return lambda k: top - 0.1 + 0.1 * np.log2(k) / 6

    trained = a_run(tmp_path / "trained", {"random": curve(0.9)}, full=0.9)
    untrained = a_run(tmp_path / "untrained", {"random": curve(0.84)}, full=0.84, model="u")
    table = redundancy([trained, untrained], 0.95, control=untrained)
    own, useful = table[table["bar_kind"] == "whole layer"], table[table["bar_kind"] == "control"]
    assert useful["control"].tolist() == ["u", "u"]
    np.testing.assert_allclose(useful["bar"], 0.95 * 0.84)
    masses = useful["critical_mass"].tolist()
    assert masses[0] < masses[1]
    # Its own whole layer is the control's: the same row twice, with the same interval.
    same = ["critical_mass", "critical_mass_low", "critical_mass_high", "dr", "bar"]
    assert own.iloc[1][same].tolist() == useful.iloc[1][same].tolist()
    assert "the control u" in as_text(redundancy_view(table))
    alone = redundancy(trained, 0.95, control=str(untrained.path), accuracy=0.85)
    assert alone["bar_kind"].tolist() == ["whole layer", "control", "accuracy"]
    corrected = redundancy(trained, 0.9, control=untrained, chance_corrected=True)
    assert corrected["bar_kind"].tolist() == ["above chance", "control above chance"]


def test_a_control_may_have_another_layer_width_and_numbering_of_the_classes(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20)}, labels=UNEQUAL)
    pixels = a_run(tmp_path / "p", {"random": rising(8)}, labels=1 - UNEQUAL, layer="vectors")
    row = redundancy(run, control=pixels).iloc[1]
    assert (row["control"], row["layer"]) == ("m, vectors", "penultimate")
    assert row["critical_mass"] == redundancy(run).iloc[0]["critical_mass"]


def test_a_control_of_other_samples_or_measures_is_refused(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20)}, labels=UNEQUAL, measures=("ridge", "lda"))
    other = a_run(tmp_path / "o", {"random": rising(20)}, labels=UNEQUAL[::-1].copy())
    with pytest.raises(CriticalMassError, match=r"control=.*/o .*other test labels") as caught:
        redundancy(run, control=other)
    assert "\n" not in str(caught.value)
    knn = a_run(tmp_path / "k", {"random": rising(20)}, labels=UNEQUAL, measures=("knn", "cka"))
    with pytest.raises(CriticalMassError, match=r"has knn and .*/r has lda, ridge; sweep"):
        redundancy(run, control=knn)
    some = a_run(tmp_path / "s", {"random": rising(20)}, labels=UNEQUAL)
    with pytest.warns(UserWarning, match="has ridge: no row of the control for lda"):
        assert redundancy(run, control=some)["measure"].tolist() == ["lda", "ridge", "ridge"]


def test_a_control_of_several_layers_needs_one_of_the_same_name(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20)})
    control = a_run(tmp_path / "c", {"random": rising(20)}, layer="one")
    two = a_run(tmp_path / "d", {"random": rising(20)}, layer="two").frame()
    with control.writer() as writer:
        answers = np.zeros((len(two), N_TEST), dtype=int)
        two = two.assign(cell="two" + two["cell"], artifact=range(len(two)), value=1.0)
        writer.append(two.to_dict("records"), Artifact("predictions", answers))
    with pytest.raises(CriticalMassError, match="layers one, two and none called 'penultimate'"):
        redundancy(run, control=control)


# --- compression and diffuseness ---


def test_the_best_projection_without_randomness_gives_the_compression(tmp_path):
    curves = {
        "random": rising(24), "pca-bottom": rising(12), "pca-top": rising(6),
        "norm-high": rising(3), "projection-gaussian": rising(3), "rotation": rising(18),
    }  # fmt: skip
    table = redundancy(a_run(tmp_path / "r", curves), 0.9).set_index("selector")
    row = table.loc["random"]
    assert row["best_projection"] == "pca-top"
    assert row["compression"] == row["critical_mass"] / table.loc["pca-top", "critical_mass"]
    assert row["compression"] == pytest.approx(4.0, rel=0.1)
    assert row["diffuseness"] == table.loc["rotation", "critical_mass"] / row["critical_mass"]
    assert row["diffuseness"] == pytest.approx(0.75, rel=0.1)
    assert row["diffuseness_low"] <= row["diffuseness"] <= row["diffuseness_high"]
    assert table.drop(index="random")[RATIOS].isna().all(axis=None)


def test_a_run_without_projections_has_no_ratios(tmp_path):
    table = redundancy(a_run(tmp_path / "r", {"random": rising(20), "first": rising(9)}))
    assert table[RATIOS].isna().all(axis=None)
    view = redundancy_view(table)
    assert "compression" not in view
    assert "diffuseness" not in view


def test_draws_are_paired_by_test_samples(tmp_path):
    # A rotation that is right on the same samples: the ratio of every draw is 1, although the
    # critical mass itself varies.
    run = a_run(tmp_path / "r", {"random": rising(20), "rotation": rising(20)})
    row = redundancy(run, 0.9, accuracy=0.8).iloc[1]
    assert row["critical_mass_low"] < row["critical_mass_high"]
    assert row[["diffuseness", "diffuseness_low", "diffuseness_high"]].tolist() == [1, 1, 1]


def test_a_strict_ratio_covers_the_sizes_that_were_not_tested(tmp_path):
    run = a_run(tmp_path / "r", {"random": rising(20), "rotation": rising(20)})
    row = redundancy(run, 0.9, "strict").iloc[0]
    # Both critical masses lie between 17 and 32.
    assert row["diffuseness"] == 1
    assert row["diffuseness_low"] <= 17 / 32
    assert row["diffuseness_high"] >= 32 / 17


@pytest.mark.parametrize(
    "curves",
    [
        {"random": rising(1), "pca-top": rising(5), "rotation": rising(5)},
        {"random": rising(1), "pca-top": rising(1), "rotation": rising(1)},
        {"random": rising(20), "pca-top": lambda size: 0.3, "rotation": lambda size: 0.3},
        {"random": lambda size: 0.3, "pca-top": rising(5), "rotation": rising(5)},
    ],
    ids=[
        "random at the floor",
        "all at the floor",
        "neither reached",
        "random not reached",
    ],
)
def test_a_mass_that_is_only_a_bound_gives_no_ratio(tmp_path, curves):
    assert redundancy(a_run(tmp_path / "r", curves))[RATIOS].isna().all(axis=None)


def test_a_projection_that_passes_at_once_bounds_the_compression_from_below(tmp_path):
    curves = {"random": rising(20), "pca-top": rising(5), "lda-top": rising(1)}
    table = redundancy(a_run(tmp_path / "r", {**curves, "rotation": rising(1)}))
    row = table.set_index("selector").loc["random"]
    assert (row["best_projection"], row["compression_at_floor"]) == ("lda-top", True)
    assert row["compression"] == row["critical_mass"] / SIZES[0]
    assert pd.isna(row["diffuseness"])
    assert ">= 10.0 (lda-top)" in as_text(redundancy_view(table))


def test_similarities_have_a_compression_and_no_diffuseness(tmp_path):
    curves = {"random": rising(20), "pca-top": rising(5), "rotation": rising(20)}
    run = a_run(tmp_path / "r", curves, measures=("cka",))
    row = redundancy(run).set_index("selector").loc["random"]
    assert row["compression"] == pytest.approx(4.0, rel=0.1)
    assert row[["diffuseness", "diffuseness_low", "diffuseness_high"]].isna().all()


def test_only_subsets_of_neurons_have_a_worst_selector(tmp_path):
    curves = {"random": rising(20), "rotation": rising(10), "norm-low": rising(40)}
    table = redundancy(a_run(tmp_path / "r", curves, seeds=3)).set_index("selector")
    assert table.loc["random", "worst_selector"] == "norm-low"
    assert table.loc["rotation", ["worst_selector", "worst_ratio"]].isna().all()
    assert table.loc["rotation", "pass_mass"] >= table.loc["rotation", "critical_mass"]


def test_the_text_names_the_best_projection_and_leaves_other_rows_empty(tmp_path):
    curves = {"random": rising(24), "pca-top": rising(6), "rotation": rising(18)}
    view = redundancy_view(redundancy(a_run(tmp_path / "r", curves))).set_index("selector")
    assert view.loc["random", "compression"].endswith(" (pca-top)")
    assert view.loc["random", "diffuseness"].startswith("0.7")
    assert set(view.drop(index="random")[["compression", "diffuseness"]].to_numpy().ravel()) == {""}


@pytest.mark.parametrize("is_copied", [False, True])
def test_copies_make_neurons_less_diffuse_than_a_random_basis(tmp_path, is_copied):
    # Isotropic features are as good as any other basis: the diffuseness is 1. Of neurons with
    # four copies each, random ones repeat each other, and random directions do not.
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 4
    x = rng.standard_normal((1000, 16 if is_copied else 64))
    x += rng.standard_normal((4, x.shape[1]))[labels] * (0.5 if is_copied else 0.25)
    x = np.tile(x, 4) + 0.01 * rng.standard_normal((1000, 64)) if is_copied else x
    store = cm.import_features(x.astype(np.float32), out=tmp_path / "s", labels=labels)
    run = cm.sweep(
        store, out=tmp_path / "r", selectors=("random", "rotation"), measures=("lda",),
        fractions=tuple(np.array([1, 4, 8, 12, 16, 24, 32, 48, 64]) / 64), refine="none", seeds=20,
    )  # fmt: skip
    row = cm.redundancy(run, 0.9).set_index("selector").loc["random"]
    if is_copied:
        assert row["diffuseness_high"] < 1.0
    else:
        assert row["diffuseness_low"] < 1.0 < row["diffuseness_high"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_many_deltas_at_once_are_each_delta_alone(tmp_path, estimator):
    curves = {"random": rising(20), "rotation": rising(12), "pca-top": rising(6)}
    run = CachedRun.of(a_run(tmp_path / "r", curves))
    deltas = tuple(np.linspace(0.3, 1.0, 35).round(3))
    together = redundancy(run, deltas, estimator)
    alone = pd.concat([redundancy(run, delta, estimator) for delta in deltas])
    alone = alone.sort_values(["selector", "delta"], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, check_exact=True)
