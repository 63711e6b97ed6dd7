"""Tables for the terminal, one function per analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.analysis.columns import CurveKey, LayerKey
from criticalmass.reporting.formatting import decimal, integer
from criticalmass.reporting.tables import intervals, level_texts, probes_first

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
    view["Gini"] = _rounded_interval(table, "gini")
    view["excess at equal accuracy"] = _rounded_interval(table, "gini_excess")
    view["worst class"] = [
        f"{accuracy:.3f} {name}"
        for name, accuracy in zip(table["worst_class"], table["worst_accuracy"], strict=True)
    ]
    return view


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
    return view


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
    return view


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
    return view


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
    return view if view["behind"].any() else view.drop(columns="behind")


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
    return view


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
