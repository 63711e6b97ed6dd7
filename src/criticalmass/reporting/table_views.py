"""Tables for the terminal, one function per analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.analysis.columns import CurveKey, LayerKey
from criticalmass.reporting.formatting import decimal, integer, is_missing
from criticalmass.reporting.tables import (
    interval_notes,
    intervals,
    level_texts,
    probes_first,
    redundancy_view,
    tested_sizes_text,
)

if TYPE_CHECKING:
    from criticalmass.reporting.explanation import Explanation

INTERVAL_SUFFIXES = ("", "_low", "_high")
_COMPARISON_SETTINGS = (*CurveKey._fields, "estimator", "samples", "seeds")


def fairness_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show accuracy, Gini coefficient, its excess at equal accuracy and the worst class.

    Parameters
    ----------
    table: rows of `criticalmass.fairness`.
    """
    view = _subset_columns(table)
    view["accuracy"] = _rounded_interval(table, "accuracy")
    view["Gini"] = _rounded_interval(table, "gini_corrected")
    view["excess at equal accuracy"] = _rounded_interval(table, "gini_excess")
    view["worst class"] = [
        f"{accuracy:.3f} {name}"
        for name, accuracy in zip(table["worst_class"], table["worst_accuracy"], strict=True)
    ]
    return view.assign(**interval_notes(table))


def class_losses_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show rank and relative loss per class, and the loss beyond the proportional-odds baseline.

    Parameters
    ----------
    table: rows of `criticalmass.class_losses`.
    """
    view = _subset_columns(table)
    view["delta"] = [f"{delta:g}" for delta in table["delta"]]
    view["rank"] = _rounded_interval(table, "rank", 0)
    view["class"] = table["class_name"].astype(str)
    view["samples"] = [integer(n) for n in table["class_n_test"]]
    view["loss"] = _rounded_interval(table, "relative_loss")
    view["first"] = [decimal(share, 2) for share in table["first_share"]]
    view["beyond baseline"] = _rounded_interval(table, "loss_beyond")
    view[""] = ["*" if is_singled_out else "" for is_singled_out in table["singled_out"]]
    view = view.assign(**interval_notes(table))
    return view if table["singled_out"].any() else view.drop(columns="")


def agreement_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show kappa, error consistency and how often wrong predictions coincide.

    Parameters
    ----------
    table: rows of `criticalmass.agreement`.
    """
    view = _subset_columns(table)
    view["against"] = table["against"].astype(str)
    view["agree"] = [decimal(value, 3) for value in table["agreement"]]
    view["kappa"] = _rounded_interval(table, "kappa")
    view["error consistency"] = _rounded_interval(table, "error_consistency")
    view["same wrong"] = [decimal(value, 3) for value in table["same_wrong"]]
    view["by chance"] = [decimal(value, 3) for value in table["same_wrong_chance"]]
    return view.assign(**interval_notes(table))


def ensembles_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the accuracy of each way to use the same neurons, and its differences.

    Parameters
    ----------
    table: rows of `criticalmass.ensembles`.
    """
    names = [name for name in CurveKey._fields if name in table]
    view = pd.DataFrame({name: table[name].astype(str) for name in names})
    view["members"] = table["members"].astype(str)
    view["each"] = [integer(n) for n in table["n_kept"]]
    view["kind"] = table["kind"].astype(str)
    view["neurons"] = [integer(n) for n in table["n_used"]]
    view["accuracy"] = _rounded_interval(table, "value")
    view["against one probe"] = _rounded_interval(table, "against_one_probe")
    view["against whole layer"] = _rounded_interval(table, "against_whole")
    return view.assign(**interval_notes(table))


def calibration_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show accuracy and calibration of every size.

    Parameters
    ----------
    table: rows of `criticalmass.calibration`.
    """
    view = _layer_columns(table)
    view["neurons"] = [integer(size) for size in table["n_kept"]]
    view["accuracy"] = _rounded_interval(table, "accuracy")
    view["confidence - accuracy"] = _rounded_interval(table, "overconfidence")
    view["calibration error (ECE)"] = _rounded_interval(table, "ece")
    view["of a calibrated probe"] = [decimal(value, 3) for value in table["ece_noise"]]
    return view


def diffuseness_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show random subsets, the best and the worst selector and their differences.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness`.
    """
    table = probes_first(table)
    view = _layer_columns(table)
    view["neurons"] = [integer(size) for size in table["n_kept"]]
    view["random"] = _interval(table, "random")
    view["best selector"] = table["best"].astype(str)
    view["best - random"] = _interval(table, "gain")
    view["worst selector"] = table["worst"].astype(str)
    view["random - worst"] = _interval(table, "loss")
    return view.assign(**interval_notes(table))


def diffuseness_summary_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show how much the choice of neurons matters, averaged over all sizes.

    Differences are shares of the whole layer's value.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness_summary`.
    """
    table = probes_first(table)
    view = _layer_columns(table)
    view["whole layer"] = [decimal(value, 3) for value in table["value_full"]]
    view["choice"] = _interval(table, "choice")
    view["best - random"] = _interval(table, "gain")
    view["random - worst"] = _interval(table, "loss")
    view["selectors"] = [integer(n) for n in table["n_selectors"]]
    view["sizes"] = [integer(n) for n in table["n_sizes"]]
    return view.assign(**interval_notes(table))


def pareto_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the Pareto front and the subsets that are not significantly dominated.

    Parameters
    ----------
    table: rows of `criticalmass.pareto`.
    """
    is_uncertain = ~table["significant"].fillna(True).astype(bool)
    table = probes_first(table[table["on_front"].astype(bool) | is_uncertain])
    view = _layer_columns(table)
    view["neurons"] = [integer(size) for size in table["n_kept"]]
    view["selector"] = table["selector"].astype(str)
    view["value"] = intervals(table["value"], table["low"], table["high"], digits=3)
    view["front"] = ["yes" if on_front else "perhaps" for on_front in table["on_front"]]
    view["behind"] = [
        f"{name} by {margin:.3f}" if isinstance(name, str) else ""
        for name, margin in zip(table["dominated_by"], table["margin"], strict=True)
    ]
    view = view.assign(**interval_notes(table))
    return view if view["behind"].any() else view.drop(columns="behind")


def degrading_neurons_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the neurons that degrade a probe, and the nearest others, at most 20 rows.

    Parameters
    ----------
    table: rows of `criticalmass.degrading_neurons`.
    """
    table = table.head(20)
    view = pd.DataFrame({"neuron": [integer(n) for n in table["neuron"]]})
    view["whole layer"] = [decimal(value, 3) for value in table["value_full"]]
    view["gain on the selection half"] = [f"{gain:+.4f}" for gain in table["selection_gain"]]
    view["gain on the test half"] = [f"{gain:+.4f}" for gain in table["gain"]]
    pairs = zip(table["n_better"], table["n_worse"], strict=True)
    view["become right, wrong"] = [f"{better:,}, {worse:,}" for better, worse in pairs]
    view["p"] = [decimal(value, 4) for value in table["p_value"]]
    view["q"] = [decimal(value, 4) for value in table["q_value"]]
    levels = zip(table["degrades"], table["fdr"], strict=True)
    view["degrades"] = [f"yes (FDR {fdr:g})" if found else "no" for found, fdr in levels]
    return view


def shared_subsets_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the critical mass of the union of tasks beside that of the hardest task.

    Parameters
    ----------
    table: rows of `criticalmass.shared_subsets`.
    """
    view = pd.DataFrame({name: table[name].astype(str) for name in ("model", "layer", "selector")})
    view["measure"] = table["measure"].astype(str)
    view["tasks"] = table["datasets"].astype(str)
    view["level"] = level_texts(table)
    view["each keeps"] = [
        f"accuracy {row['accuracies']}" if is_missing(row["delta"]) else f"{row['delta']:g}"
        for row in table.to_dict("records")
    ]
    view["neurons"] = [integer(value) for value in table["n_neurons"]]
    view["k* of all tasks"] = _interval(table, "critical_mass", 0)
    view["tested"] = [tested_sizes_text(row) for row in table.to_dict("records")]
    view["hardest task alone"] = [
        f"{integer(mass)} {name}"
        for mass, name in zip(table["hardest_mass"], table["hardest_task"], strict=True)
    ]
    view["DR"] = _interval(table, "dr", 2)
    view.loc[~table["reached"].fillna(True).astype(bool), "k* of all tasks"] = "not reached"
    return view


def subset_correlations_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the rank correlation of subsets across tasks by size, and its mean.

    Parameters
    ----------
    table: rows of `criticalmass.subset_correlations`.
    """
    names = ("model", "layer", "selector", "measure")
    view = pd.DataFrame({name: table[name].astype(str) for name in names})
    pairs = zip(table["dataset_a"], table["dataset_b"], strict=True)
    view["tasks"] = [f"{a}, {b}" for a, b in pairs]
    view["level"] = level_texts(table)
    view["subsets"] = [integer(n) for n in table["n_seeds"]]
    view["kept"] = ["mean" if is_missing(n) else integer(n) for n in table["n_kept"]]
    view["rank correlation"] = _rounded_interval(table, "correlation", 2)
    for place in ("a", "b"):
        view[f"noise of {place}"] = [decimal(share, 2) for share in table[f"noise_{place}"]]
    return view


def attack_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show clean and robust accuracy of each defence, paired differences and what is wrong.

    Parameters
    ----------
    table: rows of `AttackResult.table`.
    """
    view = pd.DataFrame({"radius": [f"{radius:g}" for radius in table["radius"]]})
    view["defence"] = table["defence"].astype(str).to_numpy()
    view["neurons"] = [integer(n) for n in table["n_used"]]
    for title, name in (
        ("clean", "clean"),
        ("robust", "robust"),
        ("against the layer", "against_whole"),
        ("against one probe", "against_one_probe"),
        ("at equal distance", "matched"),
    ):
        view[title] = _rounded_interval(table, name)
    view["transfer"] = [decimal(value, 3) for value in table["transfer"]]
    return view.assign(checks=table["checks"].astype(str).to_numpy())


def inversion_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show the means over images of an inversion, each with its interval.

    Parameters
    ----------
    table: rows of `criticalmass.probing.summary.summarise_images`.
    """
    names = ["objective", "start", "selector", "n_kept"]
    view = table[names].astype(str).rename(columns={"n_kept": "kept"})
    for title, name in (
        ("kept error", "kept_error"),
        ("dropped error", "dropped_error"),
        ("RMS", "rms"),
        ("SSIM", "ssim"),
        ("same class", "same_class"),
        ("by the judge", "judge_same_class"),
    ):
        if name in table:
            view[title] = _rounded_interval(table, name)
    # It is that of a subset, and so the same for every image.
    view.insert(6, "R^2", [decimal(value, 3) for value in table["r2"]])
    return view


def train_sizes_view(table: pd.DataFrame) -> pd.DataFrame:
    """Show critical mass and DR by number of training samples.

    Parameters
    ----------
    table: rows of `criticalmass.train_sizes`.
    """
    view = redundancy_view(table)
    place = view.columns.get_loc("whole layer")
    view.insert(place, "training samples", [integer(n) for n in table["n_train"]])
    return view


def comparison_view(table: pd.DataFrame) -> pd.DataFrame:
    """Return a comparison as text; differences are a minus b.

    DR, values and ratios are shares, critical masses are neurons.

    Parameters
    ----------
    table: rows of `criticalmass.compare`.

    Returns
    -------
    A frame of strings with one row per row of ``table``.
    """
    view = pd.DataFrame({name: table[name] for name in ("a", "b")})
    for name in _COMPARISON_SETTINGS:
        if table[name].notna().any():
            view[name] = table[name].astype("string").fillna("")
    if "estimator" in view:
        view["estimator"] = str(table["estimator"].dropna().iloc[0])
    view["level"] = level_texts(table)
    view["quantity"] = [_quantity_text(row) for row in table.to_dict("records")]
    is_count = (table["quantity"] == "critical_mass").to_numpy(dtype=bool)
    for heading, name in (("a's", "value_a"), ("b's", "value_b")):
        view[heading] = [
            integer(value) if count else decimal(value, 3)
            for value, count in zip(table[name], is_count, strict=True)
        ]
    view["difference"] = ""
    for count, digits in ((True, 0), (False, 3)):
        rows = table[is_count == count]
        marks = [f"{bound} " if bound in (">=", "<=") else "" for bound in rows["bound"]]
        texts = intervals(rows["difference"], rows["low"], rows["high"], digits=digits, marks=marks)
        view.loc[is_count == count, "difference"] = texts
    heading = "p, Holm" if (table["n_compared"] > 1).any() else "p"
    view[heading] = [decimal(p, 3) for p in table["p_holm"]]
    return view.assign(**interval_notes(table))


def critical_masses_view(explanation: Explanation) -> pd.DataFrame:
    """Show predicted critical masses and DR with their intervals.

    Parameters
    ----------
    explanation: result of `criticalmass.explain`.
    """
    table = explanation.masses
    view = pd.DataFrame(index=table.index)
    view["predicted for"] = (
        f"{explanation.model} on {explanation.dataset}, layer {explanation.prediction.layer}"
    )
    view["intervals"] = (
        f"{explanation.level * 100:g} % of means over {explanation.n_seeds} random subsets"
    )
    view["measure"] = table["measure"].astype(str)
    view["to keep"] = [f"{delta * 100:g} %" for delta in table["delta"]]
    view["k*"] = _interval(table, "critical_mass", 0)
    view["DR"] = _interval(table, "dr", 2)
    return view


def predicted_and_measured_view(explanation: Explanation) -> pd.DataFrame:
    """Show predicted and measured critical masses.

    Parameters
    ----------
    explanation: result of `criticalmass.explain` with a run.
    """
    table = explanation.compared_masses
    if table is None or table.empty:
        return pd.DataFrame()
    view = pd.DataFrame(index=table.index)
    view["k*"] = "predicted and measured (interpolated in log k between tested sizes)"
    view["measure"] = table["measure"].astype(str)
    view["to keep"] = [f"{delta * 100:g} %" for delta in table["delta"]]
    view["seeds"] = table["n_seeds"].astype(str)
    for name in ("predicted", "measured"):
        view[name] = _interval(table, name, 0)
    return view


def _subset_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that name the curve, the level and the size."""
    view = pd.DataFrame({name: table[name].astype(str) for name in CurveKey._fields})
    view["level"] = level_texts(table)
    view["kept"] = [integer(n) for n in table["n_kept"]]
    return view


def _layer_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that name the layer, the measure and the level."""
    view = pd.DataFrame({name: table[name].astype(str) for name in LayerKey._fields})
    view["level"] = level_texts(table)
    return view


def _interval(table: pd.DataFrame, name: str, digits: int = 3) -> list[str]:
    """Write a column and its interval."""
    return intervals(*(table[f"{name}{suffix}"] for suffix in INTERVAL_SUFFIXES), digits=digits)


def _rounded_interval(table: pd.DataFrame, name: str, digits: int = 3) -> list[str]:
    """Write a column and its interval, without a minus sign before zeros."""
    names = [f"{name}{suffix}" for suffix in INTERVAL_SUFFIXES]
    # Adding 0.0 turns -0.0 into 0.0.
    return _interval(table[names].astype("Float64").round(digits) + 0.0, name, digits)


def _quantity_text(row: dict[str, Any]) -> str:
    """Name the quantity of a row of a comparison."""
    if row["quantity"] == "dr":
        return f"DR({row['delta']:g})"
    if row["quantity"] == "critical_mass":
        return f"k*({row['delta']:g})"
    if row["quantity"] == "whole layer":
        return "whole layer"
    a, b = row["n_kept_a"], row["n_kept_b"]
    return f"{row['quantity']} at {a:,}" if a == b else f"{row['quantity']} at {a:,} and {b:,}"
