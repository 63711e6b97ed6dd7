"""Tables, figure and text of docs/causes.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmarks.findings.writing import fill
from criticalmass.analysis.training_seed_rows import ratio_texts
from criticalmass.errors import CriticalMassError
from criticalmass.reporting.figures.draw import style_axes
from criticalmass.reporting.plots import COLOURS, FAINT, INK, MARKERS
from criticalmass.storage.files import scratch_path, write_bytes
from criticalmass.studies.tables import write_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATE = Path(__file__).with_name("causes.md.j2")
DELTA = 0.9
#: Study -> what it asks.
STUDIES: Mapping[str, str] = {
    "loss": "The loss",
    "upstream": "The data and their labels",
    "width": "The width",
    "dropout": "Dropout and DeCov",
    "matryoshka": "Matryoshka losses",
    "robust": "Adversarial training",
    "tuning": "Fine-tuning",
    "interpolation": "Training error and weight decay",
}
#: Study -> the claim of the paper that it tests.
CLAIMS: Mapping[str, str] = {
    "loss": "the loss governs redundancy",
    "upstream": "the data of pre-training govern redundancy",
    "width": "wider layers are more redundant",
    "dropout": "DeCov lowers redundancy, dropout changes it",
    "matryoshka": "a Matryoshka loss changes it, and redundancy remains",
    "robust": "adversarial training raises redundancy",
}
#: The targets, as the text calls them.
TARGETS: Mapping[str, str] = {
    "fashion-mnist-classes-5-9-n4000": "unseen clothes",
    "fashion-mnist-classes-5-9-n2000": "2,000 unseen clothes",
    "fashion-mnist-classes-0-4-n4000": "upstream clothes",
    "mnist-5k": "digits",
    "openclipart-n2400": "drawings",
}
MEASURES: Mapping[str, str] = {"logistic": "probe", "cka": "CKA"}
_EFFECT_COLUMNS = [
    *("study", "recipe", "baseline", "dataset", "measure", "n_pairs", "n_neurons"),
    *("k", "k_baseline", "ratio", "ratio_low", "ratio_high", "bound"),
    *("log_ratio", "log_ratio_low", "log_ratio_high", "p", "p_holm", "n_compared"),
    *("dr", "dr_baseline", "dr_difference", "dr_difference_low", "dr_difference_high"),
    *("k_at_bar", "log_ratio_at_bar", "log_ratio_at_bar_low", "log_ratio_at_bar_high"),
    *("value_full", "value_full_baseline", "gates", "verdict"),
    *("predicted_log_ratio", "same_sign", "within_interval"),
]
_MEANS = [
    *("n_train", "train_error", "test_accuracy", "probe_accuracy", "live_share"),
    *("participation_ratio", "participation_ratio_standardised", "seconds"),
]
_DPI = 110


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the tables of the studies that were measured.

    Parameters
    ----------
    folder: folder of the command ``study``.

    Returns
    -------
    "effects": the rows at 90 %. "networks": one row per study and recipe, means over training
    seeds. "missing": the studies without a table.

    Raises
    ------
    CriticalMassError: no study has a table.
    """
    effects, networks, missing = [], [], []
    for name in STUDIES:
        results = folder / "studies" / f"{name}-trained"
        if not (results / "effects.csv").is_file():
            missing.append(name)
            continue
        table = pd.read_csv(results / "effects.csv")
        effects.append(table[np.isclose(table["delta"], DELTA)].assign(study=name))
        training = pd.read_csv(results / "training.csv")
        means = training.groupby("recipe", sort=False)
        counts = means.size().rename("n_seeds")
        networks.append(means[_MEANS].mean().join(counts).reset_index().assign(study=name))
    if not effects:
        raise CriticalMassError(
            f"{str(folder)!r} has no results; run: criticalmass study causes --out {folder}"
        )
    return {
        "effects": pd.concat(effects, ignore_index=True)[_EFFECT_COLUMNS].round(6),
        "networks": pd.concat(networks, ignore_index=True).round(6),
        "missing": pd.DataFrame({"study": missing}),
    }


def write_causes(folder: Path, docs: Path) -> Path:
    """Write ``causes/`` with tables and figure, and ``causes.md``; return the path of the text."""
    results = docs / "causes"
    write_tables(read_tables(folder), results)
    _save(_forest(pd.read_csv(results / "effects.csv")), results / "effects.png")
    target = docs / "causes.md"
    write_bytes(target, render(results).encode())
    return target


def render(folder: Path) -> str:
    """Fill the template with the tables of a folder."""
    tables = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    helpers = {
        "studies": STUDIES,
        "targets": TARGETS,
        "measures": MEASURES,
        "verdicts": claims(tables["effects"]),
        "ratio": ratio_text,
        "bar": bar_text,
        "paper": paper_verdicts(tables["effects"]),
        "conclusions": conclusions(tables["effects"]),
        "law": law_counts,
    }
    return fill(TEMPLATE, tables, helpers)


def ratio_text(row: Mapping[str, Any]) -> str:
    """Format the ratio of critical masses with its interval: 2.1 [1.5, 3.0]."""
    bound = row["bound"] if isinstance(row["bound"], str) else ""
    return bound + _interval_text(*(row[f"ratio{end}"] for end in ("", "_low", "_high")))


def bar_text(row: Mapping[str, Any]) -> str:
    """Format the ratio at the bar of the baseline's accuracy; infinite where it is not reached."""
    logs = [row[f"log_ratio_at_bar{end}"] for end in ("", "_low", "_high")]
    if np.isinf(row["k_at_bar"]):
        return "not reached"
    return "–" if pd.isna(logs[0]) else _interval_text(*np.exp(logs))


def _interval_text(value: float, low: float, high: float) -> str:
    texts = ratio_texts([value] if pd.isna(low) else [value, low, high])
    return texts[0] + (f" [{texts[1]}, {texts[2]}]" if len(texts) > 1 else "")


def paper_verdicts(effects: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Say for each claim of the paper whether the comparisons that passed the gates show it.

    Returns
    -------
    (claim, by k* of the probe, by k* of CKA, by DR): "shown in n of m" where the p-value remains
    below .05 after Holm's correction, and for DR where the interval of the difference excludes 0;
    "not shown in m" without any.
    """
    verdicts = []
    for study, claim in CLAIMS.items():
        texts = []
        for measure in MEASURES:
            rows = effects[(effects["study"] == study) & (effects["measure"] == measure)]
            kept = rows[~rows["verdict"].astype(str).str.startswith("gated")]
            shown = int(kept["verdict"].isin(["more neurons", "fewer neurons"]).sum())
            texts.append(f"shown in {shown} of {len(kept)}" if shown else f"not in {len(kept)}")
            if measure == "logistic":
                differs = (kept["dr_difference_low"] > 0) | (kept["dr_difference_high"] < 0)
                n = int(differs.sum())
                by_dr = f"shown in {n} of {len(kept)}" if n else f"not in {len(kept)}"
        if study in set(effects["study"]):
            verdicts.append((claim, texts[0], texts[1], by_dr))
    return verdicts


def conclusions(effects: pd.DataFrame) -> list[str]:
    """State, for each study, the largest effects that are neither gated nor open.

    A sentence names the comparison with the most and with the fewest neurons by each measure, if
    their p-values remain below .05 after Holm's correction.
    """
    counted = effects[~effects["verdict"].astype(str).str.startswith("gated")]
    texts = []
    for study, title in STUDIES.items():
        part = counted[counted["study"] == study]
        if study not in set(effects["study"]):
            continue
        by_measure = {name: part[part["measure"] == name] for name in MEASURES}
        parts = [f"by {MEASURES[name]} {_shown_text(rows)}" for name, rows in by_measure.items()]
        probe = by_measure["logistic"]
        excludes = (probe["dr_difference_low"] > 0) | (probe["dr_difference_high"] < 0)
        texts.append(
            f"**{title}**: {len(probe)} comparisons passed the gates; {', '.join(parts)}. The "
            f"interval of the difference in DR by the probe excludes 0 in {int(excludes.sum())}."
        )
    return texts


def _shown_text(rows: pd.DataFrame) -> str:
    """Say how many comparisons differ, and name those at the ends."""
    shown = rows[rows["verdict"].isin(["more neurons", "fewer neurons"])]
    if shown.empty:
        return "none differs"
    ends = shown.loc[[shown["log_ratio"].idxmax(), shown["log_ratio"].idxmin()]]
    texts = [
        f"`{row['recipe']}` needs {ratio_text(row)} times the neurons of `{row['baseline']}` "
        f"on {TARGETS.get(str(row['dataset']), str(row['dataset']))}"
        for row in ends.drop_duplicates().to_dict("records")
    ]
    verb = "differs" if len(shown) == 1 else "differ"
    return f"{len(shown)} {verb} ({'; '.join(texts)})"


def law_counts(effects: pd.DataFrame, measure: str) -> dict[str, int]:
    """Count the effects whose interval excludes 1 and whose sign the law foresaw."""
    rows = effects[(effects["measure"] == measure) & effects["predicted_log_ratio"].notna()]
    shown = rows[(rows["log_ratio_low"] > 0) | (rows["log_ratio_high"] < 0)]
    return {
        "n": len(shown),
        "sign": int((shown["same_sign"].astype(str) == "True").sum()),
        "inside": int((shown["within_interval"].astype(str) == "True").sum()),
    }


def claims(effects: pd.DataFrame) -> dict[tuple[str, str], dict[str, int]]:
    """Count, for each study and measure, what the comparisons on all its targets show.

    Returns
    -------
    (study, measure) -> numbers of rows: all; gated; and of the others those that need more
    neurons, fewer, or show no difference after Holm's correction.
    """
    counts = {}
    for (study, measure), rows in effects.groupby(["study", "measure"], sort=False):
        verdict = rows["verdict"].astype(str)
        counts[str(study), str(measure)] = {
            "all": len(rows),
            "gated": int(verdict.str.startswith("gated").sum()),
            "more": int((verdict == "more neurons").sum()),
            "fewer": int((verdict == "fewer neurons").sum()),
            "none": int((verdict == "no difference shown").sum()),
        }
    return counts


def _forest(effects: pd.DataFrame) -> Figure:
    """Draw the ratio of critical masses of every recipe on its first target, study by study."""
    from matplotlib.figure import Figure

    names = [name for name in STUDIES if name in set(effects["study"])]
    chosen = {name: _on_first_targets(effects[effects["study"] == name]) for name in names}
    heights = [len(chosen[name]["recipe"].unique()) + 1.6 for name in names]
    figure = Figure(figsize=(8.2, 0.27 * sum(heights)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(names), 1, sharex=True, height_ratios=heights, squeeze=False)
    for name, ax in zip(names, panels.ravel(), strict=True):
        rows = chosen[name]
        recipes = list(dict.fromkeys(rows["recipe"]))
        style_axes(ax)
        ax.set_xscale("log")
        ax.axvline(1.0, color=FAINT, lw=1)
        for number, (measure, label) in enumerate(MEASURES.items()):
            part = rows[rows["measure"] == measure].set_index("recipe").reindex(recipes)
            y = np.arange(len(recipes)) + (number - 0.5) * 0.3
            low, high = part["ratio"] - part["ratio_low"], part["ratio_high"] - part["ratio"]
            gated = part["gates"].fillna("").astype(str).str.startswith("failed").to_numpy()
            colour = COLOURS[number]
            ax.errorbar(
                part["ratio"], y, xerr=[low.clip(lower=0), high.clip(lower=0)], fmt="none",
                ecolor=colour, elinewidth=1.2,
            )  # fmt: skip
            for filled in (True, False):
                mask = gated != filled
                ax.plot(
                    part["ratio"][mask], y[mask], MARKERS[number], color=colour, markersize=5,
                    markerfacecolor=colour if filled else "white",
                    label=label if filled and name == names[0] else None,
                )  # fmt: skip
        ax.set_yticks(range(len(recipes)), recipes, size=8)
        ax.set_ylim(len(recipes) - 0.4, -0.6)
        targets = " and ".join(TARGETS[str(dataset)] for dataset in rows["dataset"].unique())
        ax.set_title(f"{STUDIES[name]}, on {targets}", loc="left", size=9, color=INK)
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    panels[-1, 0].set_xlim(0.2, 80)
    panels[-1, 0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[-1, 0].minorticks_off()
    panels[-1, 0].set_xlabel(
        "neurons needed for 90 %, as a multiple of the baseline's (hollow: a gate failed)", size=8
    )
    panels[0, 0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure


def _on_first_targets(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each baseline of a study on the first of `TARGETS` that it has."""
    order = {name: position for position, name in enumerate(TARGETS)}
    position = effects["dataset"].map(order)
    return effects[position == position.groupby(effects["baseline"]).transform("min")]


def _save(figure: Figure, path: Path) -> None:
    scratch = scratch_path(path)
    figure.savefig(scratch, dpi=_DPI, format="png", metadata={"Software": None})
    os.replace(scratch, path)
