"""How people read fairness, class losses, agreement and ensembles; machines get every column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from criticalmass.tables import intervals

if TYPE_CHECKING:
    import pandas as pd

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
