"""How people read an explanation; machines get every column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.tables import intervals

if TYPE_CHECKING:
    import pandas as pd

    from criticalmass.explain import Explanation


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
