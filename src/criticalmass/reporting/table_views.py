"""Tables for the terminal, one function per analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.reporting.tables import intervals, probes_first

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.reporting.explanation import Explanation

ENDS = ("", "_low", "_high")
_GROUP = ("model", "layer", "dataset", "selector", "measure")


def fairness_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show accuracy, Gini and its excess at equal accuracy, and who is worst off.

    Parameters
    ----------
    table: rows of `criticalmass.fairness`.
    """
    shown = _head(table)
    shown["accuracy"] = _interval(table, "accuracy")
    shown["Gini"] = _interval(table, "gini")
    shown["excess at equal accuracy"] = _interval(table, "gini_excess")
    shown["worst class"] = [
        f"{accuracy:.3f} {name}"
        for name, accuracy in zip(table["worst_class"], table["worst_accuracy"], strict=True)
    ]
    return shown


def losses_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show who pays first: rank, relative loss, and the loss beyond a class-neutral one.

    Parameters
    ----------
    table: rows of `criticalmass.class_losses`.
    """
    shown = _head(table)
    shown["delta"] = [f"{delta:g}" for delta in table["delta"]]
    shown["rank"] = _interval(table, "rank", 0)
    shown["class"] = table["class_name"].astype(str)
    shown["samples"] = [f"{n:,}" for n in table["class_n_test"]]
    shown["loses"] = _interval(table, "relative_loss")
    shown["first"] = [f"{share:.2f}" for share in table["first_share"]]
    shown["beyond neutral"] = _interval(table, "loss_beyond")
    shown[""] = ["*" if out else "" for out in table["singled_out"]]
    return shown if table["singled_out"].any() else shown.drop(columns="")


def agreement_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show kappa, error consistency and how often wrong answers coincide.

    Parameters
    ----------
    table: rows of `criticalmass.agreement`.
    """
    shown = _head(table)
    shown["against"] = table["against"].astype(str)
    shown["agree"] = [_plain(value) for value in table["agreement"]]
    shown["kappa"] = _interval(table, "kappa")
    shown["error consistency"] = _interval(table, "error_consistency")
    shown["same wrong"] = [_plain(value) for value in table["same_wrong"]]
    shown["by chance"] = [_plain(value) for value in table["same_wrong_chance"]]
    return shown


def ensembles_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show what each way to use the same neurons reaches, and by how much it differs.

    Parameters
    ----------
    table: rows of `criticalmass.ensembles`.
    """
    import pandas as pd

    names = [name for name in _GROUP if name in table]
    shown = pd.DataFrame({name: table[name].astype(str) for name in names})
    shown["members"] = table["members"].astype(str)
    shown["each"] = [f"{n:,}" for n in table["n_kept"]]
    shown["kind"] = table["kind"].astype(str)
    shown["neurons"] = [f"{n:,}" for n in table["n_used"]]
    shown["accuracy"] = _interval(table, "value")
    shown["against one probe"] = _interval(table, "against_one_probe")
    shown["against whole"] = _interval(table, "against_whole")
    return shown


def _head(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that say which subset; what is the same in all rows is said once above."""
    import pandas as pd

    shown = pd.DataFrame({name: table[name].astype(str) for name in _GROUP})
    shown["level"] = [f"{level * 100:g} % intervals" for level in table["level"]]
    shown["kept"] = [f"{n:,}" for n in table["n_kept"]]
    return shown


def _interval(table: pd.DataFrame, name: str, digits: int = 3) -> list[str]:
    # Rounded first, and + 0.0, so that no zero is written with a sign.
    parts = (table[f"{name}{end}"].astype("Float64").round(digits) + 0.0 for end in ENDS)
    return intervals(*parts, digits=digits)


def _plain(value: Any) -> str:
    import pandas as pd

    return "–" if pd.isna(value) else f"{float(value):.3f}"


_TASK_COLUMNS = ("model", "layer", "dataset", "measure")


def diffuseness_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show random subsets, the rules around them and their leads.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness`.
    """
    table = probes_first(table)
    shown = _task_head(table)
    shown["neurons"] = [f"{size:,}" for size in table["n_kept"]]
    shown["random"] = _bounds(table, "random")
    shown["best rule"] = table["best"].astype(str)
    shown["best - random"] = _bounds(table, "gain")
    shown["worst rule"] = table["worst"].astype(str)
    shown["random - worst"] = _bounds(table, "loss")
    return shown


def summary_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show how much the choice matters over all sizes, as a share of the whole layer's value.

    Parameters
    ----------
    table: rows of `criticalmass.diffuseness_summary`.
    """
    table = probes_first(table)
    shown = _task_head(table)
    shown["whole layer"] = [f"{value:.3f}" for value in table["value_full"]]
    shown["choice"] = _bounds(table, "choice")
    shown["best - random"] = _bounds(table, "gain")
    shown["random - worst"] = _bounds(table, "loss")
    shown["rules"] = [f"{n:,}" for n in table["n_selectors"]]
    shown["sizes"] = [f"{n:,}" for n in table["n_sizes"]]
    return shown


def pareto_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Show the front, and what lies behind it by no more than noise.

    Parameters
    ----------
    table: rows of `criticalmass.pareto`.
    """
    near = ~table["significant"].fillna(True).astype(bool)
    table = probes_first(table[table["on_front"].astype(bool) | near])
    shown = _task_head(table)
    shown["neurons"] = [f"{size:,}" for size in table["n_kept"]]
    shown["selector"] = table["selector"].astype(str)
    shown["value"] = _bounds(table, "value", ends=("low", "high"))
    shown["front"] = ["yes" if on else "perhaps" for on in table["on_front"]]
    shown["behind"] = [
        f"{name} by {margin:.3f}" if isinstance(name, str) else ""
        for name, margin in zip(table["dominated_by"], table["margin"], strict=True)
    ]
    return shown if shown["behind"].any() else shown.drop(columns="behind")


def _task_head(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    shown = pd.DataFrame({name: table[name].astype(str) for name in _TASK_COLUMNS})
    shown["level"] = [f"{level * 100:g} % intervals" for level in table["level"]]
    return shown


def _bounds(table: pd.DataFrame, name: str, *, ends: tuple[str, str] | None = None) -> list[str]:
    low, high = ends or (f"{name}_low", f"{name}_high")
    return intervals(table[name], table[low], table[high], digits=3)


_SAID_ONCE = ("model", "layer", "dataset", "selector", "measure", "estimator", "samples", "seeds")


def comparison_for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a comparison into words and aligned numbers; differences are a minus b.

    DR, values and ratios are shares, critical masses are neurons.

    Parameters
    ----------
    table: rows of `criticalmass.compare`.

    Returns
    -------
    A frame of strings with one row per row of ``table``.
    """
    shown = pd.DataFrame({name: table[name] for name in ("a", "b")})
    for name in _SAID_ONCE:
        if table[name].notna().any():
            words = table[name].astype("string").fillna("")
            shown[name] = f"{name} " + words if name in ("samples", "seeds") else words
    if "estimator" in shown:
        shown["estimator"] = str(table["estimator"].dropna().iloc[0])
    shown["level"] = [f"{level * 100:g} % intervals" for level in table["level"]]
    shown["what"] = [_what(row) for row in table.to_dict("records")]
    whole = (table["quantity"] == "critical_mass").to_numpy(dtype=bool)
    for name in ("value_a", "value_b"):
        shown[name.removeprefix("value_") + "'s"] = [
            "–" if pd.isna(value) else f"{value:,.0f}" if count else f"{value:.3f}"
            for value, count in zip(table[name], whole, strict=True)
        ]
    shown["difference"] = ""
    for count, digits in ((True, 0), (False, 3)):
        rows = table[whole == count]
        marks = [_mark(bound) for bound in rows["bound"]]
        texts = intervals(rows["difference"], rows["low"], rows["high"], digits=digits, marks=marks)
        shown.loc[whole == count, "difference"] = texts
    return shown


def _mark(bound: Any) -> str:
    """Return what stands before a difference that is only bounded."""
    return f"{bound} " if bound in (">=", "<=") else ""


def _what(row: dict[str, Any]) -> str:
    """Name the quantity in a few signs."""
    if row["quantity"] == "dr":
        return f"DR({row['delta']:g})"
    if row["quantity"] == "critical_mass":
        return f"k*({row['delta']:g})"
    if row["quantity"] == "whole layer":
        return "whole layer"
    a, b = row["n_kept_a"], row["n_kept_b"]
    return f"{row['quantity']} at {a:,}" if a == b else f"{row['quantity']} at {a:,} and {b:,}"


def masses_for_people(made: Explanation) -> pd.DataFrame:
    """Show predicted critical masses and DR with their intervals.

    Parameters
    ----------
    made: by `criticalmass.explain`.
    """
    import pandas as pd

    table = made.masses
    shown = pd.DataFrame(index=table.index)
    layer = f"{made.model} on {made.dataset}, layer {made.prediction.layer}"
    shown["predicted for"] = layer
    shown["intervals"] = f"{made.level * 100:g} % of means over {made.n_seeds} random subsets"
    shown["measure"] = table["measure"].astype(str)
    shown["to keep"] = [f"{delta * 100:g} %" for delta in table["delta"]]
    ends = ("critical_mass_low", "critical_mass_high")
    shown["k*"] = intervals(table["critical_mass"], *(table[end] for end in ends), digits=0)
    shown["DR"] = intervals(table["dr"], table["dr_low"], table["dr_high"], digits=2)
    return shown


def compared_for_people(made: Explanation) -> pd.DataFrame:
    """Show predicted critical masses beside measured ones.

    Parameters
    ----------
    made: by `criticalmass.explain`, with a run.
    """
    import pandas as pd

    table = made.compared_masses
    if table is None or table.empty:
        return pd.DataFrame()
    shown = pd.DataFrame(index=table.index)
    shown["k*"] = "predicted, and measured (on straight lines between tested sizes)"
    shown["measure"] = table["measure"].astype(str)
    shown["to keep"] = [f"{delta * 100:g} %" for delta in table["delta"]]
    shown["seeds"] = table["n_seeds"].astype(str)
    for name in ("predicted", "measured"):
        shown[name] = intervals(table[name], table[f"{name}_low"], table[f"{name}_high"], digits=0)
    return shown
