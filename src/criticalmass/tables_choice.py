"""How people read diffuseness and the Pareto front; machines get every column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.tables import intervals, probes_first

if TYPE_CHECKING:
    import pandas as pd

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
